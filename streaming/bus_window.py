"""What a tenant's topics hold of a span of event time, read beside every consumer group.

Record times are times of publishing and never earlier than what happened, so a read begins at the first record
published since the span's start (less a margin for clocks that differ) and ends at the high watermark of the moment it
began.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # public, but not in __all__

from schemas.canonical import CanonicalEvent
from schemas.codec import Decoder
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.instants import from_ms, to_ms
from streaming.settings import Settings, Tenant

log = structlog.get_logger()

MARGIN = timedelta(minutes=5)
"""The vendor's clock may be ahead of the broker's by so much."""

_BATCH = 1_000
_TIMEOUT_S = 30.0
# A partition that gives nothing for so long does not answer.
_SILENT_S = 60.0
_HOPELESS = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART}


class DeadLetter(NamedTuple):
    """A record of a dead-letter topic: the original's bytes, and headers that say what went wrong."""

    value: bytes | None
    headers: dict[str, str | bytes | None]


class BusWindow:
    """Reads one tenant's topics by time. Commits nothing; memory holds one batch. Use it from one thread.

    Args:
        settings: Kafka's address and client properties.
        tenant: Whose topics.
        decoder: For the values of events.
    """

    def __init__(self, settings: Settings, tenant: Tenant, decoder: Decoder) -> None:
        self._tenant = tenant
        self._decoder = decoder
        self.undecodable = 0
        """Records of the events topic that are no canonical events; skipped."""
        self._admin = AdminClient(settings.kafka.client_config())
        self._consumer = Consumer(
            {
                **settings.kafka.client_config(),
                # Never joined: partitions are assigned by hand.
                "group.id": f"ccaas-window-{tenant.vendor}-{tenant.tenant_id}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                # A batch is handled in milliseconds; what is read ahead beyond that only takes memory.
                "queued.min.messages": 5 * _BATCH,
                "queued.max.messages.kbytes": 4 * 1024,
                "fetch.message.max.bytes": 512 * 1024,
                # With the queue at its bound the default would pause for a second.
                "fetch.queue.backoff.ms": 5,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def events(self, start: datetime, end: datetime) -> Iterator[list[CanonicalEvent]]:
        """The events whose envelope time lies in [start, end), in batches; an event may come twice.

        Args:
            start: Aware, inclusive.
            end: Aware, exclusive.

        Raises:
            ServiceUnavailableError: Kafka or the registry does not answer.
        """
        low, high = to_ms(start), to_ms(end)
        decode = self._decoder.decode
        for messages in self._records(self._tenant.events_topic, start):
            batch: list[CanonicalEvent] = []
            for message in messages:
                try:
                    event = decode(message.value())
                except BadEventError:
                    self.undecodable += 1
                    continue
                if low <= event["timestamp"] < high:
                    batch.append(event)
            if batch:
                yield batch

    def dead_letters(self, since: datetime) -> Iterator[list[DeadLetter]]:
        """The dead letters written since an instant (less the margin), in batches.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        for messages in self._records(self._tenant.dlq_topic, since):
            yield [DeadLetter(message.value(), dict(message.headers() or ())) for message in messages]

    def complete_since(self) -> datetime | None:
        """From which event time on the events topic holds everything; None if nothing of it has expired.

        Retention by time deletes only what was published longer ago than that, and nothing that lies behind the first
        record left; so the earlier of the two counts, in each partition. A topic with retention by size keeps less, and
        there the first record left decides alone.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        topic = self._tenant.events_topic
        now = datetime.now(UTC)
        try:
            cut = []
            for partition in self._partitions(topic):
                low, high = self._consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
                if low > 0:
                    cut.append((TopicPartition(topic, partition.partition, low), high))
            retention = self._retention(topic) if cut else None
        except KafkaException as error:
            raise _unavailable(topic, error) from None
        if retention is not None and retention < timedelta(0):
            return None
        expired = now if retention is None else now - retention
        published = [min(self._published(partition, high, now), expired) for partition, high in cut]
        return max(published, default=None)

    def _retention(self, topic: str) -> timedelta | None:
        """The topic's retention by time, negative for ever; None if it is none by time alone, or can't be known."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (future,) = self._admin.describe_configs([resource], request_timeout=_TIMEOUT_S).values()
        try:
            config = future.result(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            log.warning("retention unknown; allow DescribeConfigs on the topic", topic=topic)
            return None
        if int(config["retention.bytes"].value) >= 0:
            return None
        # Twenty years stand for what no date can express.
        return timedelta(milliseconds=min(int(config["retention.ms"].value), 86_400_000 * 365 * 20))

    def _published(self, first: TopicPartition, high: int, now: datetime) -> datetime:
        """When the oldest record left in a partition was published; now if there is none."""
        if first.offset >= high:
            return now
        found = [
            message
            for batch in self._read({first.partition: (first.offset, first.offset + 1)}, first.topic)
            for message in batch
        ]
        return from_ms(found[0].timestamp()[1]) if found else now

    def _records(self, topic: str, since: datetime) -> Iterator[list[Message]]:
        """Records from the first one published at ``since`` less the margin to the watermark of now."""
        since_ms = max(to_ms(since - MARGIN), 0)
        try:
            wanted = [TopicPartition(topic, found.partition, since_ms) for found in self._partitions(topic)]
            starts = self._consumer.offsets_for_times(wanted, timeout=_TIMEOUT_S) if wanted else []
            spans: dict[int, tuple[int, int]] = {}
            for start in starts:
                if start.error is not None:
                    raise KafkaException(start.error)
                low, high = self._consumer.get_watermark_offsets(start, timeout=_TIMEOUT_S)
                begin = high if start.offset == OFFSET_END else max(start.offset, low)
                if begin < high:
                    spans[start.partition] = (begin, high)
        except KafkaException as error:
            raise _unavailable(topic, error) from None
        yield from self._read(spans, topic)

    def _partitions(self, topic: str) -> list[TopicPartition]:
        """The topic's partitions; none if nobody has made it yet."""
        found = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if found.error is not None:
            if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return []
            raise KafkaException(found.error)
        return [TopicPartition(topic, number) for number in found.partitions]

    def _read(self, spans: dict[int, tuple[int, int]], topic: str) -> Iterator[list[Message]]:
        """Records of [first, last) by partition."""
        if not spans:
            return
        ends = {number: last for number, (_, last) in spans.items()}
        wanted = [TopicPartition(topic, number, first) for number, (first, _) in spans.items()]
        self._consumer.assign(wanted)
        # A partition that an earlier read paused is still paused after being assigned anew.
        self._consumer.resume(wanted)
        try:
            heard = time.monotonic()
            while ends:
                try:
                    got = self._consumer.consume(_BATCH, 0.5)
                except KafkaException as error:
                    raise _unavailable(topic, error) from None
                if any(_is_life(message) for message in got):
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENT_S:
                    msg = f"{topic}: partitions {sorted(ends)} gave nothing for {_SILENT_S:.0f} s"
                    raise ServiceUnavailableError(msg)
                if batch := self._within(got, ends, topic):
                    yield batch
        finally:
            self._consumer.unassign()

    def _within(self, got: list[Message], ends: dict[int, int], topic: str) -> list[Message]:
        """The records that belong to the read; partitions that came to their end leave ``ends``."""
        batch: list[Message] = []
        over: set[int] = set()
        for message in got:
            number, offset = message.partition(), message.offset()
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                # librdkafka goes on by itself after most; if it does not, silence ends the read.
                log.warning("reading the bus", topic=topic, error=error.str())
                if error.fatal() or error.code() in _HOPELESS:
                    raise _unavailable(topic, KafkaException(error))
                continue
            if number is None or offset is None or number not in ends or message.topic() != topic:
                continue
            if error is not None:
                # An aborted transaction or its marker may be the last before the watermark: no record comes.
                over.add(number)
                continue
            if offset < ends[number]:
                batch.append(message)
            if offset >= ends[number] - 1:
                over.add(number)
        for number in over:
            del ends[number]
        if over and ends:
            self._consumer.pause([TopicPartition(topic, number) for number in over])
        return batch


def _is_life(message: Message) -> bool:
    """Whether a partition answered: errors may come for ever."""
    error = message.error()
    return error is None or error.code() == KafkaError._PARTITION_EOF


def _unavailable(topic: str, error: KafkaException) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"{topic}: {error.args[0].str()}")
