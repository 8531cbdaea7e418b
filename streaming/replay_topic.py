"""A tenant's events from Kafka into the landing zone once more, without any vendor and beside every consumer group.

The window is of the events' own time. Kafka knows only when records were published, which is later but for the margin
by which a vendor's clock may be ahead. So the topic is read from the window's start (less the margin) to its end now,
and each event's time decides: also what came late is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
import structlog
from confluent_kafka import KafkaException, Message
from confluent_kafka.admin import AdminClient

from schemas.codec import Decoder
from schemas.columns import ColumnDecoder, Decoded
from schemas.registry import Registry
from streaming.bus_window import MARGIN, BusWindow
from streaming.errors import ConfigurationError
from streaming.instants import to_ms
from streaming.settings import Settings, SinkSettings, Tenant
from streaming.sink.buffer import Buffer
from streaming.sink.landed_rows import LandedRows
from streaming.sink.landing import RAW, LandingZone
from streaming.sink.store import open_store
from streaming.topic_reader import TIMEOUT_S, Place, Span, TopicReader, unavailable

log = structlog.get_logger()

_SLOT = "replay"
# A killed run's half-written files: longer than any run writes at one.
_ORPHANED = timedelta(days=1)


@dataclass(slots=True)
class TopicReplay:
    """What a replay found and did.

    Attributes:
        read: records read.
        undecodable: of these, such as are no canonical events; analytics-sink has made dead letters of them.
        in_window: of these, events dated within the window; an event may be on the bus twice.
        already_landed: of these, those that are in the landing zone.
        landed: of these, those that were written now.
        files: landing files written.
        complete_since: events dated before may have expired on Kafka; None if nothing has.
    """

    read: int = 0
    undecodable: int = 0
    in_window: int = 0
    already_landed: int = 0
    landed: int = 0
    files: int = 0
    complete_since: datetime | None = None


def land_from_topic(
    settings: Settings,
    tenant: Tenant,
    start: datetime,
    end: datetime,
    *,
    known: LandedRows,
    progress: Callable[[float], None] = lambda _: None,
) -> TopicReplay:
    """Write landing files of a tenant's events dated in [start, end), but for those that have landed.

    The files are such as analytics-sink writes, with each row's own place on Kafka, but name no offsets: from those the
    sink would take it that everything up to there has landed. Memory holds one file's rows.

    Args:
        settings: Kafka, registry, landing zone and the bounds of a file.
        tenant: Whose topic.
        start: Aware, inclusive.
        end: Aware, exclusive.
        known: What has landed.
        progress: Told now and then which share of the records is read, 0 to 1.

    Raises:
        ConfigurationError: the tenant has no topic.
        ServiceUnavailableError: Kafka, the registry or a remote landing zone does not answer. What has landed stays.
        OSError: the disk is full; likewise.
    """
    store = open_store(settings.landing)
    store.remove_orphans(RAW, f"{_SLOT}-", datetime.now(UTC) - _ORPHANED)
    zone = LandingZone(store, _cluster(settings, tenant))
    registry = Registry(settings.registry)
    try:
        decoder = registry.decoder(as_written=True)
        with BusWindow(settings, tenant, decoder) as bus:
            replay = TopicReplay(complete_since=bus.complete_since())
        with TopicReader(settings.kafka, f"ccaas-replay-{tenant.vendor}-{tenant.tenant_id}") as reader:
            if not reader.partitions(tenant.events_topic):
                msg = f"Kafka has no topic {tenant.events_topic}: nothing was ever published for this tenant"
                raise ConfigurationError(msg)
            spans = reader.published_since(tenant.events_topic, max(to_ms(start - MARGIN), 0))
            slot = f"{_SLOT}-{tenant.vendor}-{tenant.tenant_id}"
            writer = _Writer(settings.sink, zone, slot, decoder=decoder, known=known, replay=replay)
            columns = ColumnDecoder(decoder)
            for messages in reader.read(spans):
                writer.add(*_within(messages, columns, (to_ms(start), to_ms(end)), replay))
                progress(_share(spans, reader.positions))
            writer.flush()
            progress(1.0)  # an aborted transaction may be what comes last: no batch tells of it
    finally:
        registry.close()
    log.info("topic replayed", topic=tenant.events_topic, read=replay.read, landed=replay.landed)
    return replay


class _Writer:
    """Buffers rows and writes them as files of the sink's bounds."""

    def __init__(
        self,
        sink: SinkSettings,
        zone: LandingZone,
        slot: str,
        *,
        decoder: Decoder,
        known: LandedRows,
        replay: TopicReplay,
    ) -> None:
        self._sink = sink
        self._zone = zone
        self._decoder = decoder
        self._known = known
        self._replay = replay
        self._slot = slot
        self._buffer = Buffer()

    def add(self, messages: list[Message], decoded: Decoded) -> None:
        if messages:
            self._buffer.add(messages, decoded)
        if self._buffer.rows >= self._sink.flush_rows or self._buffer.bytes >= self._sink.flush_bytes:
            self.flush()

    def flush(self) -> None:
        layout, tables = self._buffer.tables(self._decoder.promoted)
        missing = [part for part in map(self._known.without, tables) if len(part)]
        rows = sum(map(len, missing))
        self._replay.already_landed += self._buffer.rows - rows
        self._buffer = Buffer()
        if rows:
            self._zone.write(layout, missing, {}, self._slot)
            self._replay.landed += rows
            self._replay.files += 1


def _within(
    messages: Sequence[Message], columns: ColumnDecoder, bounds: tuple[int, int], replay: TopicReplay
) -> tuple[list[Message], Decoded]:
    """The records that are events dated within the bounds, epoch ms, half-open."""
    decoded = columns.decode([message.value() for message in messages])
    positions = range(len(messages)) if decoded.positions is None else decoded.positions
    times = decoded.rows.column("timestamp")
    within = pc.and_(pc.greater_equal(times, bounds[0]), pc.less(times, bounds[1]))
    chosen = [messages[position] for position, is_in in zip(positions, within.to_pylist(), strict=True) if is_in]
    replay.read += len(messages)
    replay.undecodable += len(decoded.bad)
    replay.in_window += len(chosen)
    return chosen, Decoded(decoded.rows.filter(within), None, [])


def _share(spans: dict[Place, Span], positions: dict[Place, int]) -> float:
    total = sum(span.end - span.first for span in spans.values())
    return sum(positions[place] - span.first for place, span in spans.items()) / max(total, 1)


def _cluster(settings: Settings, tenant: Tenant) -> str:
    try:
        return str(AdminClient(settings.kafka.client_config()).list_topics(timeout=TIMEOUT_S).cluster_id)
    except KafkaException as error:
        raise unavailable(tenant.events_topic, error) from None
