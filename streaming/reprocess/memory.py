"""What earlier replays of a tenant's dead letters say: which offsets are done with, and which are parked."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import closing

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic
from pydantic import ValidationError

from streaming.errors import ServiceUnavailableError
from streaming.reprocess.replays import RETENTION_MS, TOPIC, Replay
from streaming.reprocess.spans import Spans
from streaming.settings import KafkaSettings
from streaming.topic_reader import TIMEOUT_S, Place, TopicReader, unavailable
from streaming.topics import MAX_RECORD_BYTES, ensure

log = structlog.get_logger()

# Another tenant's run that was killed holds the topic's readers back until Kafka ends its transaction: after its
# timeout, and a look every 10 s.
_OPEN_S = 90.0
_POLL_S = 0.1


class Memory:
    """Offsets of a dead-letter topic by partition.

    Attributes:
        done: Replayed, or failed again and on the topic anew.
        parked: Failed too often; a part of them may be done since.
    """

    def __init__(self) -> None:
        self.done: defaultdict[int, Spans] = defaultdict(Spans)
        self.parked: defaultdict[int, Spans] = defaultdict(Spans)

    def knows(self, partition: int, offset: int) -> tuple[bool, bool]:
        """Whether an offset is done with, and whether it was parked."""
        done, parked = self.done.get(partition), self.parked.get(partition)
        return done is not None and offset in done, parked is not None and offset in parked

    def add(self, replay: Replay) -> None:
        """Take a record of the replays' topic in."""
        for known, spans in ((self.done, replay.done), (self.parked, replay.parked)):
            for partition, pairs in spans.items():
                for first, last in pairs:
                    known[int(partition)].add(first, last)


def ensure_replays_topic(kafka: KafkaSettings) -> None:
    """Make the topic of replays if it is missing.

    Raises:
        ServiceUnavailableError: the cluster does not answer.
        ConfigurationError: it refuses the topic.
    """
    config = {
        "retention.ms": str(RETENTION_MS),
        "max.message.bytes": str(MAX_RECORD_BYTES),
        "cleanup.policy": "delete",
    }
    ensure(kafka, [NewTopic(TOPIC, num_partitions=1, replication_factor=kafka.replication_factor, config=config)])


def remember(reader: TopicReader, dlq_topic: str) -> Memory:
    """What is committed on the topic of replays now.

    Args:
        reader: Any.
        dlq_topic: The tenant's.

    Raises:
        ServiceUnavailableError: Kafka does not answer.
    """
    memory, key = Memory(), dlq_topic.encode()
    spans = {place: reader.watermarks(place) for place in reader.partitions(TOPIC)}
    for messages in reader.read(spans):
        for message in messages:
            if message.key() != key:
                continue
            try:
                replay = Replay.model_validate_json(message.value() or b"")
                memory.add(replay)
            except (ValidationError, ValueError) as error:
                log.error("a record of the replays' topic is none", offset=message.offset(), fault=type(error).__name__)
    return memory


def wait_until_settled(kafka: KafkaSettings, reader: TopicReader) -> None:
    """Wait until no transaction is open before the present end of the topic of replays.

    Readers see nothing behind an open transaction, though it is of another tenant: what this tenant's earlier runs
    committed behind it would be overlooked, and replayed twice.

    Raises:
        ServiceUnavailableError: Kafka does not answer, or another run's transaction stays open.
    """
    ends = _true_ends(kafka, reader.partitions(TOPIC))
    deadline = time.monotonic() + _OPEN_S
    while any(reader.watermarks(place).end < end for place, end in ends.items()):
        if time.monotonic() > deadline:
            msg = f"{TOPIC}: a transaction of another tenant's run is open for {_OPEN_S:.0f} s; run again"
            raise ServiceUnavailableError(msg)
        time.sleep(_POLL_S)


def _true_ends(kafka: KafkaSettings, places: list[Place]) -> dict[Place, int]:
    """Where the next record will be written, open transactions included."""
    config = {"group.id": "ccaas-dlq-reprocess", "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    with closing(Consumer({**kafka.client_config(), **config})) as consumer:
        try:
            return {
                place: int(consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S)[1])
                for place in places
            }
        except KafkaException as error:
            raise unavailable(TOPIC, error) from None
