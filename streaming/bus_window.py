"""What a tenant's topics hold of a span of event time, read beside every consumer group.

Record times are times of publishing and never earlier than what happened, so a read begins at the first record
published since the span's start (less a margin for clocks that differ) and ends at the high watermark of the moment it
began.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # public, but not in __all__

from schemas.canonical import CanonicalEvent
from schemas.codec import Decoder
from streaming.deadletter import headers_of
from streaming.errors import BadEventError
from streaming.instants import from_ms, to_ms
from streaming.settings import Settings, Tenant
from streaming.topic_reader import TIMEOUT_S, Place, Span, TopicReader, unavailable

log = structlog.get_logger()

MARGIN = timedelta(minutes=5)
"""The vendor's clock may be ahead of the broker's by so much."""


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
        self._reader = TopicReader(settings.kafka, f"ccaas-window-{tenant.vendor}-{tenant.tenant_id}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()

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
            yield [DeadLetter(message.value(), dict(headers_of(message))) for message in messages]

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
        spans = {place: self._reader.watermarks(place) for place in self._reader.partitions(topic)}
        cut = {place: span for place, span in spans.items() if span.first > 0}
        try:
            retention = self._retention(topic) if cut else None
        except KafkaException as error:
            raise unavailable(topic, error) from None
        if retention is not None and retention < timedelta(0):
            return None
        expired = now if retention is None else now - retention
        published = [min(self._published(place, span, now), expired) for place, span in cut.items()]
        return max(published, default=None)

    def _retention(self, topic: str) -> timedelta | None:
        """The topic's retention by time, negative for ever; None if it is none by time alone, or can't be known."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (future,) = self._admin.describe_configs([resource], request_timeout=TIMEOUT_S).values()
        try:
            config = future.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            log.warning("retention unknown; allow DescribeConfigs on the topic", topic=topic)
            return None
        if int(config["retention.bytes"].value) >= 0:
            return None
        # Twenty years stand for what no date can express.
        return timedelta(milliseconds=min(int(config["retention.ms"].value), 86_400_000 * 365 * 20))

    def _published(self, place: Place, span: Span, now: datetime) -> datetime:
        """When the oldest record left in a partition was published; now if there is none."""
        if span.first >= span.end:
            return now
        first = {place: Span(span.first, span.first + 1)}
        found = [message for batch in self._reader.read(first) for message in batch]
        return from_ms(found[0].timestamp()[1]) if found else now

    def _records(self, topic: str, since: datetime) -> Iterator[list[Message]]:
        """Records from the first one published at ``since`` less the margin to the watermark of now."""
        return self._reader.read(self._reader.published_since(topic, max(to_ms(since - MARGIN), 0)))
