"""``latency``: from the vendor's sending to a read_committed consumer, both vendors at once, at a steady rate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import httpx
from confluent_kafka import Consumer

from bench.harness import Figure, Goal, percentile
from bench.lab import Lab
from bench.messages import cxone_tenant, genesys_tenant
from bench.vendor import TENANT
from devstack.ports import free_port
from schemas.codec import Decoder
from schemas.registry import Registry
from streaming.settings import RegistrySettings

RATE = 1_000
"""Events a second, half of them by webhook, half by stream."""

ROUND_SECONDS = 35
_WARM_UP = 5
_READY_SECONDS = 30.0
# After the last was sent: an event that has not come by then is lost.
_LOST_AFTER_SECONDS = 10.0

_TOPICS = [f"ccaaus.events.genesys.{TENANT}", f"ccaaus.events.cxone.{TENANT}"]


class Arrival(NamedTuple):
    """A record as the consumer got it."""

    at_ns: int  # monotonic
    value: bytes


class Round(NamedTuple):
    """What one round gave: latencies in ascending order, ms."""

    genesys: list[float]
    cxone: list[float]
    lost: int
    duplicates: int


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Receiver, publisher and ingest as real processes; the consumer is this one."""
    with ExitStack() as running:
        # Left last: when a round is broken off, the end of the vendor's process ends the request that waits for it.
        pool = running.enter_context(ThreadPoolExecutor(1))
        path = Path(lab, running)
        measured = [path.round(pool) for _ in range(rounds)]
    return _figures(measured)


class Path:
    """The platform's services between the simulated vendors and a consumer.

    Args:
        lab: Where they run.
        running: Ends them.
        further: Settings of further tenants, TOML; called with the vendor's URL.
    """

    def __init__(self, lab: Lab, running: ExitStack, further: Callable[[str], str] = lambda _: "") -> None:
        self.receiver_port, self._vendor_port = _start(lab, running, further)
        self._decoder = Registry(RegistrySettings(url=lab.stack.registry_url)).decoder()
        self._consumer = running.enter_context(_consumer(lab.stack.bootstrap_servers))
        self._next = 0

    def round(self, pool: ThreadPoolExecutor, rate: int = RATE) -> Round:
        """Send at the rate, and collect what comes."""
        count = rate * ROUND_SECONDS
        first, self._next = self._next, self._next + count
        sending = pool.submit(_send, self._vendor_port, rate, first)
        arrivals = _collect(self._consumer, sending, count)
        return _evaluate(arrivals, self._decoder, range(first, first + count), first + rate * _WARM_UP)


def _figures(measured: list[Round]) -> list[Figure]:
    p50, p99 = Goal(25.0, "value", "at most"), Goal(100.0, "value", "at most")
    none = Goal(0.0, "worst", "at most")
    figures = []
    for label, values in (
        ("webhook", [found.cxone for found in measured]),
        ("stream", [found.genesys for found in measured]),
    ):
        figures += [
            Figure(f"{label} p50", "ms", [percentile(ordered, 0.5) for ordered in values], goal=p50),
            Figure(f"{label} p99", "ms", [percentile(ordered, 0.99) for ordered in values], goal=p99),
            Figure(f"{label} max", "ms", [ordered[-1] for ordered in values]),
        ]
    return [
        *figures,
        Figure("lost", "events", [found.lost for found in measured], goal=none),
        Figure("duplicates", "events", [found.duplicates for found in measured], goal=none),
    ]


def _start(lab: Lab, running: ExitStack, further: Callable[[str], str]) -> tuple[int, int]:
    """Ports of the receiver and the vendor."""
    receiver, publisher, ingest, vendor = (free_port() for _ in range(4))
    url = f"http://127.0.0.1:{vendor}"
    config = lab.configure(
        "latency",
        f"[receiver]\nport = {receiver}\n[health]\ncxone_publisher = {publisher}\ngenesys_ingest = {ingest}\n"
        + genesys_tenant(TENANT, url)
        + cxone_tenant(TENANT, url)
        + further(url),
    )
    running.enter_context(lab.module("vendor", ["bench.vendor", str(vendor), str(receiver)], vendor))
    for name, port in (("cxone-receiver", receiver), ("cxone-publisher", publisher), ("genesys-ingest", ingest)):
        running.enter_context(lab.service(name, config, port))
        _wait_ready(name, port)
    return receiver, vendor


def _wait_ready(name: str, port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5, trust_env=False).is_error:
        if time.monotonic() > deadline:
            msg = f"{name} is not ready after {_READY_SECONDS:.0f} s"
            raise TimeoutError(msg)
        time.sleep(0.1)


@contextmanager
def _consumer(bootstrap_servers: str) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "bench-latency",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe(_TOPICS)
        deadline = time.monotonic() + _READY_SECONDS
        while not consumer.assignment():
            consumer.poll(0.1)
            if time.monotonic() > deadline:
                msg = f"the consumer got no partitions in {_READY_SECONDS:.0f} s"
                raise TimeoutError(msg)
        yield consumer
    finally:
        consumer.close()


def _send(vendor_port: int, rate: int, first: int) -> int:
    answer = httpx.post(
        f"http://127.0.0.1:{vendor_port}/run",
        params={"rate": rate, "seconds": ROUND_SECONDS, "first": first},
        timeout=ROUND_SECONDS + 60,
        trust_env=False,
    )
    answer.raise_for_status()
    return int(answer.json()["sent"])


def _collect(consumer: Consumer, sending: Future[int], count: int) -> list[Arrival]:
    """All records until as many came as were sent, and a little longer for duplicates. Decoding comes later."""
    arrivals: list[Arrival] = []
    end: float | None = None
    while end is None or time.monotonic() < end:
        message = consumer.poll(0.1)
        if message is not None:
            if (error := message.error()) is not None:
                raise RuntimeError(error.str())
            arrivals.append(Arrival(time.monotonic_ns(), message.value() or b""))
        if sending.done():
            sending.result()
            end = end or time.monotonic() + _LOST_AFTER_SECONDS
            if len(arrivals) >= count:
                end = min(end, time.monotonic() + 1.0)
    return arrivals


def _evaluate(arrivals: list[Arrival], decoder: Decoder, sent: range, measured_from: int) -> Round:
    """Latencies of what was due after the warm-up; losses and duplicates of all."""
    times: Counter[int] = Counter()
    latencies: dict[str, list[float]] = {"genesys": [], "cxone": []}
    for arrival in arrivals:
        event = decoder.decode(arrival.value)
        vendor, metadata = event["vendor"], event["metadata"]
        number = int(metadata[f"{vendor}.benchSeq"])
        times[number] += 1
        if number >= measured_from:
            latencies[vendor].append((arrival.at_ns - int(metadata[f"{vendor}.benchDueNs"])) / 1e6)
    lost = sum(number not in times for number in sent)
    return Round(sorted(latencies["genesys"]), sorted(latencies["cxone"]), lost, len(arrivals) - len(times))
