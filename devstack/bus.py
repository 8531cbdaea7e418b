"""What is on the bus: counts for progress, ids for the report."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.canonical import RECOVERED_KEY
from schemas.codec import Decoder
from streaming.errors import ServiceUnavailableError
from streaming.settings import KafkaSettings

_TIMEOUT_S = 10.0
_READ_DEADLINE_S = 300.0


class TopicContent(NamedTuple):
    """All records of an events topic."""

    ids: set[str]
    records: int
    by_type: Counter[str]  # distinct events
    by_way: Counter[str]  # distinct events: pushed by the vendor, or how they were recovered

    @property
    def duplicates(self) -> int:
        """Records beyond the first of their id."""
        return self.records - len(self.ids)


class Bus:
    """Reads topics beside the platform's own groups.

    Args:
        settings: Kafka's address and client properties.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._consumer = Consumer(
            {
                **settings.client_config(),
                "group.id": "devstack-bus",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # The end of a transaction has an offset and is no record.
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )

    def count(self, topic: str) -> int:
        """Offsets of a topic, 0 if it is not there yet: its records, and the ends of transactions among them."""
        return sum(high - low for low, high in self._ends(topic).values())

    def read(self, topic: str, decoder: Decoder) -> TopicContent:
        """Every record of a topic up to its present end.

        Raises:
            ServiceUnavailableError: Kafka does not give them in time.
        """
        ends = self._ends(topic)
        self._consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        unread = {number for number, (low, high) in ends.items() if low < high}
        ids: set[str] = set()
        by_type: Counter[str] = Counter()
        by_way: Counter[str] = Counter()
        read = 0
        deadline = time.monotonic() + _READ_DEADLINE_S
        while unread:
            for message in self._consumer.consume(5000, 0.05):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        unread.discard(int(message.partition() or 0))
                    continue
                event = decoder.decode(message.value())
                if event["event_id"] not in ids:
                    by_type[event["event_type"]] += 1
                    by_way[event["metadata"].get(RECOVERED_KEY, "pushed")] += 1
                    ids.add(event["event_id"])
                read += 1
            if time.monotonic() > deadline:
                msg = (
                    f"{topic}: {read} records in {_READ_DEADLINE_S:.0f} s, partitions {sorted(unread)} not to their end"
                )
                raise ServiceUnavailableError(msg)
        self._consumer.unassign()
        return TopicContent(ids, read, by_type, by_way)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _ends(self, topic: str) -> dict[int, tuple[int, int]]:
        try:
            partitions = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
            return {
                number: self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_TIMEOUT_S)
                for number in partitions
            }
        except KafkaException as error:
            msg = f"{topic}: {error.args[0].str()}"
            raise ServiceUnavailableError(msg) from None
