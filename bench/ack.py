"""``ack``: how fast a webhook is answered 200 once it is on disk, against FastAPI + aiokafka awaiting acks=all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.load import LoadResult, run_load
from bench.messages import cxone_tenant
from bench.peers.fastapi_aiokafka import TOPIC
from devstack.ports import free_port

CONNECTIONS = 64
_SECONDS = 4.0
_WARM_UP = 1.0
_PEER_PARTITIONS = 4
_DRAIN_SECONDS = 60.0

_PEER = "FastAPI + aiokafka"
_BARE = "Granian, no work"


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Four servers take turns in every round; all but the one measured are idle.

    1. the receiver alone, 2. FastAPI + aiokafka, 3. the receiver's HTTP server without any work, 4. the receiver
    with the publisher draining its spool to Kafka meanwhile.
    """
    _make_topic(lab.stack.bootstrap_servers)
    with ExitStack() as running:
        receiver = _receiver(lab, running, "ack")
        peer = free_port()
        arguments = ["uvicorn", "bench.peers.fastapi_aiokafka:app", "--host", "127.0.0.1", "--port", str(peer)]
        options = ["--loop", "uvloop", "--http", "httptools", "--workers", "1", "--no-access-log"]
        running.enter_context(lab.module("peer-fastapi", [*arguments, *options], peer))
        bare = free_port()
        running.enter_context(lab.module("peer-no-work", ["bench.peers.no_work", str(bare)], bare))
        drained = _DrainedReceiver(lab, running)

        def load(port: int) -> Callable[[int], LoadResult]:
            return lambda number: run_load(
                port, seconds=_SECONDS, warm_up=_WARM_UP, connections=CONNECTIONS, round_number=number
            )

        sides = [load(receiver), load(peer), load(bare), drained.load]
        results: list[list[LoadResult]] = [[] for _ in sides]
        for number in range(rounds):
            for side, measured in zip(sides, results, strict=True):
                measured.append(side(number))
    return _figures(*results)


def _figures(
    ours: list[LoadResult], peer: list[LoadResult], bare: list[LoadResult], draining: list[LoadResult]
) -> list[Figure]:
    def rates(results: list[LoadResult]) -> list[float]:
        return [result.per_second for result in results]

    def p50(results: list[LoadResult]) -> list[float]:
        return [result.p50_ms for result in results]

    def p99(results: list[LoadResult]) -> list[float]:
        return [result.p99_ms for result in results]

    goal = Goal(2.0, "ratio", "at least")
    return [
        Figure("durable acks", "req/s", rates(ours), "more", _PEER, rates(peer), goal),
        Figure("ack p50", "ms", p50(ours), "less", _PEER, p50(peer)),
        Figure("ack p99", "ms", p99(ours), "less", _PEER, p99(peer)),
        Figure("durable acks", "req/s", rates(ours), "more", _BARE, rates(bare)),
        Figure("ack p99", "ms", p99(ours), "less", _BARE, p99(bare)),
        Figure("while draining", "req/s", rates(draining), "more", _PEER, rates(peer)),
        Figure("p99 while draining", "ms", p99(draining), "less", _PEER, p99(peer)),
    ]


def _receiver(lab: Lab, running: ExitStack, name: str) -> int:
    port = free_port()
    running.enter_context(lab.service("cxone-receiver", _configure(lab, name, port, free_port()), port))
    return port


def _configure(lab: Lab, name: str, port: int, publisher_port: int) -> Path:
    # Nobody listens at the vendor's address: agent states are not part of this.
    return lab.configure(
        name,
        f"[receiver]\nport = {port}\n[health]\ncxone_publisher = {publisher_port}\n"
        "[spool]\nmax_bytes_per_tenant = 8000000000\n" + cxone_tenant("http://127.0.0.1:9"),
    )


class _DrainedReceiver:
    """A receiver whose spool a publisher drains; the publisher runs only while its side is measured."""

    def __init__(self, lab: Lab, running: ExitStack) -> None:
        self._lab = lab
        self._port, self._publisher_port = free_port(), free_port()
        self._config = _configure(lab, "ack-drained", self._port, self._publisher_port)
        running.enter_context(lab.service("cxone-receiver", self._config, self._port))

    def load(self, number: int) -> LoadResult:
        with self._lab.service("cxone-publisher", self._config, self._publisher_port):
            result = run_load(
                self._port, seconds=_SECONDS, warm_up=_WARM_UP, connections=CONNECTIONS, round_number=number
            )
            self._wait_until_drained()
        return result

    def _wait_until_drained(self) -> None:
        """The next round begins with an empty spool: what it had to store is on the bus."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while _counter(self._publisher_port, "ccaas_cxone_spool_in_flight") or not self._is_idle():
            if time.monotonic() > deadline:
                msg = f"the publisher has not drained the spool in {_DRAIN_SECONDS:.0f} s"
                raise TimeoutError(msg)
            time.sleep(0.1)

    def _is_idle(self) -> bool:
        before = _counter(self._publisher_port, "ccaas_events_published_total")
        time.sleep(0.3)
        return before == _counter(self._publisher_port, "ccaas_events_published_total")


def _counter(port: int, name: str) -> float:
    """Sum of a metric over its labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, trust_env=False).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def _make_topic(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(TOPIC, _PEER_PARTITIONS, 1)]).values():
        future.result(30)
