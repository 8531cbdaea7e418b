"""The load generator: signed webhooks over keep-alive connections, each with one request at a time.

A process of its own: ``python -m bench.load PORT SECONDS WARM_UP CONNECTIONS ROUND [KEY]`` prints its result as JSON.
With a private key (PEM file) requests are signed with RS256, else with HMAC; all of them before the first is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import orjson
import uvloop

from bench.harness import percentile
from bench.messages import cxone_call, webhook_request
from bench.signing import read_key
from bench.wire import Connection

# 512 different bodies: no cache on the way may profit from seeing one again and again.
_CALLS = 128
TENANT = "bench-ack"
JWS_TENANT = "bench-ack-jws"
_EXPECTED = b'{"status":"accepted"}'
_DRAIN_SECONDS = 10.0


class LoadResult(NamedTuple):
    """What one run measured: answers a second within the window, and their latencies, ms.

    Attributes:
        answers: of the whole run.
        busy: share of one core that the generator itself took while it sent; near 1 it measures itself.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    answers: int
    busy: float


class _Load:
    def __init__(self, requests: list[bytes], warm_up: float, seconds: float) -> None:
        self._next = itertools.cycle(requests).__next__
        self._begin = time.perf_counter_ns() + int(warm_up * 1e9)
        self._end = self._begin + int(seconds * 1e9)
        self._open = 0
        self._done = asyncio.get_running_loop().create_future()
        self.total = 0
        self.latencies: list[int] = []

    async def run(self, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), "127.0.0.1", port
            )
            made.append(connection)
        self._open = len(made)
        for connection in made:
            self._send(connection)
        left = (self._end - time.perf_counter_ns()) / 1e9
        await asyncio.wait_for(self._done, left + _DRAIN_SECONDS)

    def _send(self, connection: Connection) -> None:
        connection.began = time.perf_counter_ns()
        connection.send(self._next())

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        now = time.perf_counter_ns()
        if status != 200 or body != _EXPECTED:
            self._fail(f"answer {status} {body[:200]!r}")
            return
        self.total += 1
        if now >= self._end:
            self._open -= 1
            if self._open == 0 and not self._done.done():
                self._done.set_result(None)
            return
        if now >= self._begin:
            self.latencies.append(now - connection.began)
        self._send(connection)

    def _lost(self, _connection: Connection) -> None:
        self._fail("the server closed a connection")

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(why))


async def _main(
    port: int, seconds: float, warm_up: float, connections: int, round_number: int, key_file: Path | None
) -> LoadResult:
    first = round_number * _CALLS
    key, tenant = (read_key(key_file), JWS_TENANT) if key_file else (None, TENANT)
    messages = [message for number in range(_CALLS) for message in cxone_call(first + number)]
    requests = [webhook_request(tenant, message, key) for message in messages]
    load = _Load(requests, warm_up, seconds)
    began, worked = time.perf_counter(), time.process_time()
    await load.run(port, connections)
    busy = (time.process_time() - worked) / (time.perf_counter() - began)
    ordered = sorted(load.latencies)
    p50, p99 = (percentile(ordered, share) / 1e6 for share in (0.5, 0.99))
    return LoadResult(len(ordered) / seconds, p50, p99, load.total, busy)


def run_load(
    port: int, *, seconds: float, warm_up: float, connections: int, round_number: int, key_file: Path | None = None
) -> LoadResult:
    """Run the generator as a process of its own.

    Args:
        port: of the server on loopback.
        seconds: length of the measured window.
        warm_up: seconds before it.
        connections: each has one request outstanding at any time.
        round_number: decides the conversations, so that every round's events are new.
        key_file: private key of the RS256 scheme; without one the HMAC scheme.

    Raises:
        RuntimeError: it failed, e.g. an answer was not 200 accepted.
    """
    arguments = [str(value) for value in (port, seconds, warm_up, connections, round_number)]
    if key_file:
        arguments.append(str(key_file))
    ran = subprocess.run(
        [sys.executable, "-m", "bench.load", *arguments],
        capture_output=True,
        check=False,
        timeout=seconds + warm_up + _DRAIN_SECONDS + 30,
    )
    if ran.returncode != 0:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        msg = f"the load generator failed: {said[-1] if said else ran.returncode}"
        raise RuntimeError(msg)
    return LoadResult(*orjson.loads(ran.stdout))


if __name__ == "__main__":
    given = sys.argv[1:]
    file = Path(given[5]) if len(given) > 5 else None
    result = uvloop.run(_main(int(given[0]), float(given[1]), float(given[2]), int(given[3]), int(given[4]), file))
    sys.stdout.write(orjson.dumps(list(result)).decode())
