"""Events at a steady rate, and how long each probe among them takes to be in the live figures.

A probe is an agent's change of status. Its time is the live record's ``since_ms``, so the record tells which probe it
shows. Time runs from when the probe was due, not sent, to when a reader of the live topic has the record.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from bench.consuming import Bus, events_of_calls
from streaming.settings import Tenant

_PROBES_PER_SECOND = 10
_AGENTS = 10
_STATUSES = ("IDLE", "INTERACTING")
# After the last was sent: a probe that is not shown by then never is.
_LOST_AFTER_S = 10.0
_KAFKA_S = 30.0


class Live:
    """A reader of one tenant's live topic, from its present end on.

    Args:
        bootstrap_servers: Kafka's address.
        tenant: Whose figures.
    """

    def __init__(self, bootstrap_servers: str, tenant: Tenant) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bench-live",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        partition = TopicPartition(tenant.topic("wfm.live"), 0)
        partition.offset = self._end(partition)
        self._consumer.assign([partition])
        self.merged = 0
        """How many of the tenant's records are in the figures, as far as was read."""

    @retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(_KAFKA_S), wait=wait_fixed(0.2))
    def _end(self, partition: TopicPartition) -> int:
        """Its end; of a topic made just now no broker may know yet that it leads it."""
        _, end = self._consumer.get_watermark_offsets(partition, timeout=_KAFKA_S)
        return end

    def read(self, seconds: float) -> Iterator[tuple[list[str], dict[str, int]]]:
        """Records that are there within the time: key and value."""
        for message in self._consumer.consume(500, seconds):
            if (error := message.error()) is not None:
                raise RuntimeError(error.str())
            if message.value() is not None:
                key, value = orjson.loads(message.key() or b""), orjson.loads(message.value() or b"")
                if key == ["tenant"]:
                    self.merged = value["version"]
                yield key, value

    def advance(self) -> int:
        """Read on; how many of the tenant's records are in the figures."""
        for _ in self.read(0.01):
            pass
        return self.merged

    def close(self) -> None:
        self._consumer.close()


@contextmanager
def reading_live(bootstrap_servers: str, tenant: Tenant) -> Iterator[Live]:
    live = Live(bootstrap_servers, tenant)
    try:
        yield live
    finally:
        live.close()


class Feed:
    """Sends a tenant's events, all of them of now.

    Args:
        bus: Where to.
        tenant: Whose.
    """

    def __init__(self, bus: Bus, tenant: Tenant) -> None:
        self._bus = bus
        self._tenant = tenant
        self._events = events_of_calls(tenant, itertools.count())
        self._probes: dict[str, deque[tuple[int, int]]] = defaultdict(deque)
        self._number = 0
        self.sent = 0
        """Records so far, probes included."""

    def run(self, pool: ThreadPoolExecutor, live: Live, rate: int, seconds: float,
            every_second: Callable[[], object] = lambda: None) -> list[float]:  # fmt: skip
        """Send for a while, and read meanwhile.

        Args:
            pool: For the sender.
            live: Reader of the tenant's live topic.
            rate: Events a second; the probes come in addition.
            seconds: For how long.
            every_second: Called about once a second.

        Returns:
            The probes' times in ascending order, ms.

        Raises:
            RuntimeError: a probe is never shown.
        """
        sending = pool.submit(self._send, rate, seconds)
        times = self._read(live, sending, every_second)
        if left := sum(map(len, self._probes.values())):
            msg = f"{left} changes of status are not in the live figures {_LOST_AFTER_S:.0f} s after the last"
            raise RuntimeError(msg)
        return sorted(times)

    def _send(self, rate: int, seconds: float) -> None:
        begin = time.monotonic_ns() + 50_000_000
        every = rate // _PROBES_PER_SECOND
        for number in range(int(rate * seconds)):
            due = begin + number * 1_000_000_000 // rate
            if (left := due - time.monotonic_ns()) > 0:
                time.sleep(left / 1e9)
            self._bus.send(self._tenant, {**next(self._events), "timestamp": time.time_ns() // 1_000_000})
            self.sent += 1
            if number % every == 0:
                self._send_probe(due)
        self._bus.flush()

    def _send_probe(self, due_ns: int) -> None:
        number = self._number = self._number + 1
        agent, at_ms = f"PROBE{number % _AGENTS}", time.time_ns() // 1_000_000
        self._probes[agent].append((at_ms, due_ns))
        self._bus.send(
            self._tenant,
            {
                "event_id": str(uuid.uuid4()),
                "vendor": self._tenant.vendor,
                "tenant_id": self._tenant.tenant_id,
                "timestamp": at_ms,
                "event_type": "agent.status_changed",
                "payload": {"agent_id": agent, "agent_status": _STATUSES[number // _AGENTS % 2]},
                "metadata": {},
            },
        )
        self.sent += 1

    def _read(self, live: Live, sending: Future[None], every_second: Callable[[], object]) -> list[float]:
        times: list[float] = []
        end = looked = 0.0
        while not end or (any(self._probes.values()) and time.monotonic() < end):
            for key, value in live.read(0.02):
                if key[0] == "agent":
                    waiting, now = self._probes[key[1]], time.monotonic_ns()
                    while waiting and waiting[0][0] <= value["since_ms"]:
                        times.append((now - waiting.popleft()[1]) / 1e6)
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                every_second()
            if sending.done() and not end:
                sending.result()
                end = time.monotonic() + _LOST_AFTER_S
        return times
