"""``ack``: how fast a webhook is answered 200 once it is on disk.

Against FastAPI + aiokafka awaiting acks=all, and against the receiver's own HTTP server without any work.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.load import JWS_TENANT, TENANT, LoadResult, run_load
from bench.messages import cxone_tenant
from bench.peers.fastapi_aiokafka import TOPIC
from bench.signing import key_server, make_key
from devstack.ports import free_port
from streaming.spool.schema import spool_files

CONNECTIONS = 64
_SECONDS = 4.0
_WARM_UP = 1.0
_PEER_PARTITIONS = 4
_DRAIN_SECONDS = 60.0

_PEER = "FastAPI + aiokafka"
_BARE = "Granian, no work"


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Five sides take turns in every round; all but the one measured are idle.

    1. the receiver alone, webhooks signed with HMAC, 2. the same with RS256, 3. FastAPI + aiokafka, 4. the receiver's
    HTTP server without any work, 5. the receiver with the publisher draining its spool to Kafka meanwhile.
    """
    _make_topic(lab.stack.bootstrap_servers)
    with ExitStack() as running:
        key_file = lab.folder / "ack-key.pem"
        make_key(key_file)
        jwks_url = running.enter_context(key_server(key_file))
        receiver_port = free_port()
        config = _configure(lab, "ack", receiver_port, free_port(), jwks_url)
        receiver = running.enter_context(lab.service("cxone-receiver", config, receiver_port))
        peer_port, bare_port = free_port(), free_port()
        arguments = ["uvicorn", "bench.peers.fastapi_aiokafka:app", "--host", "127.0.0.1", "--port", str(peer_port)]
        options = ["--loop", "uvloop", "--http", "httptools", "--workers", "1", "--no-access-log"]
        peer = running.enter_context(lab.module("peer-fastapi", [*arguments, *options], peer_port))
        bare = running.enter_context(lab.module("peer-no-work", ["bench.peers.no_work", str(bare_port)], bare_port))
        drained = _DrainedReceiver(lab, running, jwks_url)
        sides: list[Callable[[int], _Measured]] = [
            lambda number: _load(receiver.pid, receiver_port, number),
            lambda number: _load(receiver.pid, receiver_port, number, key_file),
            lambda number: _load(peer.pid, peer_port, number),
            lambda number: _load(bare.pid, bare_port, number),
            drained.load,
        ]
        # A round that does not count: the broker's compiler and every cache have seen the work once.
        results = [[side(number) for side in sides] for number in range(rounds + 1)][1:]
    return _figures(*(list(column) for column in zip(*results, strict=True)))


class _Measured(NamedTuple):
    """One side in one round."""

    load: LoadResult
    cpu_us: float  # of the server's process, an answer


def _load(pid: int, port: int, number: int, key_file: Path | None = None) -> _Measured:
    server = psutil.Process(pid)
    before = server.cpu_times()
    load = run_load(
        port, seconds=_SECONDS, warm_up=_WARM_UP, connections=CONNECTIONS, round_number=number, key_file=key_file
    )
    after = server.cpu_times()
    return _Measured(load, (after.user + after.system - before.user - before.system) * 1e6 / load.answers)


def _figures(
    ours: list[_Measured],
    rs256: list[_Measured],
    peer: list[_Measured],
    bare: list[_Measured],
    draining: list[_Measured],
) -> list[Figure]:
    def rates(results: list[_Measured]) -> list[float]:
        return [result.load.per_second for result in results]

    def p50(results: list[_Measured]) -> list[float]:
        return [result.load.p50_ms for result in results]

    def p99(results: list[_Measured]) -> list[float]:
        return [result.load.p99_ms for result in results]

    def busy(results: list[_Measured]) -> list[float]:
        return [result.load.busy for result in results]

    def cpu(results: list[_Measured]) -> list[float]:
        return [result.cpu_us for result in results]

    def ratio(least: float) -> Goal:
        return Goal(least, "ratio", "at least")

    return [
        Figure("durable acks", "req/s", rates(ours), "more", _PEER, rates(peer), ratio(2.5)),
        Figure("ack p50", "ms", p50(ours), "less", _PEER, p50(peer)),
        Figure("ack p99", "ms", p99(ours), "less", _PEER, p99(peer), ratio(1.0)),
        Figure("server's CPU", "µs/req", cpu(ours), "less", _PEER, cpu(peer)),
        Figure("durable acks", "req/s", rates(ours), "more", _BARE, rates(bare), ratio(0.85)),
        # Above the bare server's by half at the most.
        Figure("ack p99", "ms", p99(ours), "less", _BARE, p99(bare), ratio(1 / 1.5)),
        Figure("server's CPU", "µs/req", cpu(ours), "less", _BARE, cpu(bare)),
        Figure("acks, RS256", "req/s", rates(rs256), "more", _BARE, rates(bare), ratio(0.65)),
        Figure("p99, RS256", "ms", p99(rs256), "less", _BARE, p99(bare), ratio(1 / 1.5)),
        Figure("acks, RS256", "req/s", rates(rs256), "more", _PEER, rates(peer)),
        Figure("p99, RS256", "ms", p99(rs256), "less", _PEER, p99(peer)),
        Figure("while draining", "req/s", rates(draining), "more", _PEER, rates(peer)),
        Figure("p99 while draining", "ms", p99(draining), "less", _PEER, p99(peer)),
        # Of one core: a generator that is busy all the time measures itself.
        Figure("load generator's CPU", "share", busy(ours), "less", _PEER, busy(peer)),
        Figure("load generator's CPU", "share", busy(bare), "less", _PEER, busy(peer)),
    ]


def _configure(lab: Lab, name: str, port: int, publisher_port: int, jwks_url: str) -> Path:
    # Nobody listens at the vendor's address: agent states are not part of this.
    return lab.configure(
        name,
        f"[receiver]\nport = {port}\n[health]\ncxone_publisher = {publisher_port}\n"
        "[spool]\nmax_bytes_per_tenant = 8000000000\nmax_rows_per_tenant = 100000000\nmax_rows = 100000000\n"
        + cxone_tenant(TENANT, "http://127.0.0.1:9")
        + cxone_tenant(JWS_TENANT, "http://127.0.0.1:9", jwks_url),
    )


class _DrainedReceiver:
    """A receiver whose spool a publisher drains; the publisher runs only while its side is measured."""

    def __init__(self, lab: Lab, running: ExitStack, jwks_url: str) -> None:
        self._lab = lab
        self._port, self._publisher_port = free_port(), free_port()
        self._config = _configure(lab, "ack-drained", self._port, self._publisher_port, jwks_url)
        self._receiver = running.enter_context(lab.service("cxone-receiver", self._config, self._port))

    def load(self, number: int) -> _Measured:
        with self._lab.service("cxone-publisher", self._config, self._publisher_port):
            result = _load(self._receiver.pid, self._port, number)
            self._wait_until_drained()
        return result

    def _wait_until_drained(self) -> None:
        """The next round begins with an empty spool: what it had to store is on the bus."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._waiting_rows():
            if time.monotonic() > deadline:
                msg = f"the publisher has not drained {self._waiting_rows()} rows in {_DRAIN_SECONDS:.0f} s"
                raise TimeoutError(msg)
            time.sleep(0.1)

    def _waiting_rows(self) -> int:
        rows = 0
        for file in spool_files(self._config.parent / "spool"):
            with closing(sqlite3.connect(file)) as database:
                (found,) = database.execute("SELECT sum(written_rows - drained_rows) FROM tenant").fetchone()
            rows += found or 0
        return rows


def _make_topic(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(TOPIC, _PEER_PARTITIONS, 1)]).values():
        future.result(30)
