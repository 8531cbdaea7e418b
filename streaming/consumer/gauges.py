"""Lag, rate and standstill of a member, for Prometheus and for ``/readyz``."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

import structlog
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient
from prometheus_client import Counter, Gauge, Histogram

from streaming.consumer.positions import Ends, ends
from streaming.consumer.work import Partition

log = structlog.get_logger()

records = Counter("ccaas_consumer_records", "Records read", ["consumer"])
rate = Gauge("ccaas_consumer_records_per_second", "Records read a second, over the last seconds", ["consumer"])
age = Histogram("ccaas_consumer_record_age_seconds", "Time from publishing to reading, one sample a poll", ["consumer"])
lag = Gauge("ccaas_consumer_lag_records", "Records of a topic that are not read yet", ["consumer", "topic"])
partitions = Gauge("ccaas_consumer_partitions", "Partitions that this member reads", ["consumer"])
stalled = Gauge("ccaas_consumer_partitions_stalled", "Partitions with records that are not read", ["consumer"])

_EVERY_S = 5.0
_STALLED_S = 120.0
_MS = 1000


class Gauges:
    """Measures one member, from its own thread.

    Args:
        consumer: Its name.
        admin: For the ends of partitions.
    """

    def __init__(self, consumer: str, admin: AdminClient) -> None:
        self._consumer = consumer
        self._admin = admin
        self._records = records.labels(consumer)
        self._age = age.labels(consumer)
        self._read = 0
        self._since = time.monotonic()
        self._asked: Ends = {}
        # Position and since when it stands there, of partitions that have more to read.
        self._standing: dict[Partition, tuple[int, float]] = {}
        self._topics: frozenset[str] = frozenset()
        self.stalled: list[Partition] = []
        """Partitions that did not move for two minutes although they hold more."""

    def count(self, messages: list[Message]) -> None:
        """Records were read."""
        self._records.inc(len(messages))
        self._read += len(messages)
        self._age.observe(max(0.0, time.time() - messages[-1].timestamp()[1] / _MS))

    def look(self, positions: Mapping[Partition, int]) -> None:
        """Every five seconds: lag, rate and standstill. The broker is asked now, and its answer is read next time.

        Args:
            positions: Next offset by assigned partition.
        """
        now = time.monotonic()
        if now - self._since < _EVERY_S:
            return
        rate.labels(self._consumer).set(self._read / (now - self._since))
        partitions.labels(self._consumer).set(len(positions))
        self._read, self._since = 0, now
        if not all(answer.done() for answer in self._asked.values()):
            return
        behind: dict[str, int] = defaultdict(int)
        standing: dict[Partition, tuple[int, float]] = {}
        for (topic, number), left in _left(self._asked, positions).items():
            behind[topic] += left
            if left:
                offset = positions[topic, number]
                before, since = self._standing.get((topic, number), (-1, now))
                standing[topic, number] = offset, (since if offset == before else now)
        for topic in self._topics - behind.keys():
            lag.remove(self._consumer, topic)
        for topic, records_left in behind.items():
            lag.labels(self._consumer, topic).set(records_left)
        self._topics, self._standing = frozenset(behind), standing
        self._tell(now)
        self._asked = ends(self._admin, positions, _EVERY_S)

    def _tell(self, now: float) -> None:
        found = sorted(partition for partition, (_, since) in self._standing.items() if now - since > _STALLED_S)
        if found and not self.stalled:
            log.error("partitions stand still although they hold more", consumer=self._consumer, count=len(found),
                      first=found[0], offset=self._standing[found[0]][0])  # fmt: skip
        self.stalled = found
        stalled.labels(self._consumer).set(len(found))


def _left(asked: Ends, positions: Mapping[Partition, int]) -> dict[Partition, int]:
    """Records not yet read by partition, of those that are still assigned and whose leader answered."""
    left = {}
    for at, answer in asked.items():
        partition = at.topic, at.partition
        if partition in positions and answer.exception() is None:
            left[partition] = max(0, answer.result().offset - positions[partition])
    return left
