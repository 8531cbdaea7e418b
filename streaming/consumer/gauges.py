"""Lag, rate and standstill of a member, for Prometheus and for ``/readyz``."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Set

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge, Histogram

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
    """

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._records = records.labels(consumer)
        self._age = age.labels(consumer)
        self._read = 0
        self._since = time.monotonic()
        # Position and since when it stands there, of partitions that have more to read.
        self._standing: dict[Partition, tuple[int, float]] = {}
        self._topics: Set[str] = frozenset()
        self.stalled: list[Partition] = []
        """Partitions that did not move for two minutes although they hold more."""

    def count(self, messages: list[Message]) -> None:
        """Records were read."""
        self._records.inc(len(messages))
        self._read += len(messages)
        self._age.observe(max(0.0, time.time() - messages[-1].timestamp()[1] / _MS))

    def look(self, consumer: Consumer, assigned: Iterable[Partition]) -> None:
        """Every five seconds: lag, rate and standstill. Asks no broker: the client knows from what it fetched."""
        now = time.monotonic()
        if now - self._since < _EVERY_S:
            return
        rate.labels(self._consumer).set(self._read / (now - self._since))
        self._read, self._since = 0, now
        asked = [TopicPartition(*partition) for partition in assigned]
        partitions.labels(self._consumer).set(len(asked))
        behind: dict[str, int] = defaultdict(int)
        standing: dict[Partition, tuple[int, float]] = {}
        try:
            for position in consumer.position(asked):
                _, high = consumer.get_watermark_offsets(position, cached=True)
                left = high - position.offset
                behind[position.topic] += max(0, left) if position.offset >= 0 else 0
                if position.offset >= 0 and left > 0:
                    partition = position.topic, position.partition
                    offset, since = self._standing.get(partition, (-1, now))
                    standing[partition] = (position.offset, since if offset == position.offset else now)
        except KafkaException as failure:
            log.warning("lag is not known", consumer=self._consumer, error=failure.args[0].str())
            return
        for topic in self._topics - behind.keys():
            lag.remove(self._consumer, topic)
        for topic, left in behind.items():
            lag.labels(self._consumer, topic).set(left)
        self._topics, self._standing = behind.keys(), standing
        self._tell(now)

    def _tell(self, now: float) -> None:
        found = sorted(partition for partition, (_, since) in self._standing.items() if now - since > _STALLED_S)
        if found and not self.stalled:
            log.error("partitions stand still although they hold more", consumer=self._consumer, count=len(found),
                      first=found[0], offset=self._standing[found[0]][0])  # fmt: skip
        self.stalled = found
        stalled.labels(self._consumer).set(len(found))
