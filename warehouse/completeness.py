"""Completeness against the bus: every committed record of events is in the warehouse, or it is known why not.

Offsets can't just be subtracted: transactions leave markers and aborted records between them, a repeat has an offset
and no row, and what is no canonical event becomes a dead letter. So records are read (committed ones only, keys of
transactions and all), and of those whose offset no row has the ``event_id`` is looked up. The check goes on where the
last one ended, per partition, and stays before the first record that is missing: it fails until the record has come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from confluent_kafka import Message

from schemas.codec import Decoder
from schemas.registry import Registry
from streaming.batches import batched
from streaming.errors import BadEventError
from streaming.instants import to_ms
from streaming.settings import Settings, Tenant
from streaming.topic_reader import Place, Span, TopicReader
from warehouse import tables
from warehouse.engine import Warehouse, reader
from warehouse.frames import Frame

_COLUMNS = (
    "partition",
    "first_missing_offset",
    "records",
    "with_row",
    "repeats",
    "no_event",
    "expired",
    "missing",
    "not_looked_at",
)

# Bound by one statement: four values a span, one an id. PostgreSQL takes 65,535.
_SPANS = 10_000
_IDS = 20_000


@dataclass(slots=True)
class _Count:
    """One partition's part."""

    span: Span
    end: int  # of what was published before the check's time
    known: frozenset[int] = frozenset()  # offsets of rows
    records: int = 0
    repeats: int = 0
    no_event: int = 0
    expired: int = 0
    missing: int = 0
    first_missing: int | None = None

    @property
    def reached(self) -> int:
        """Everything before it is known to be in the warehouse."""
        return self.span.end if self.first_missing is None else self.first_missing


@dataclass(slots=True)
class BusCheck:
    """What a comparison found.

    Attributes:
        frame: ``events.bus``, a row a partition with something to look at.
        reached: Offset before which all of a partition is in the warehouse; for :func:`note_reached`.
    """

    frame: Frame
    reached: Mapping[Place, int]


@dataclass(slots=True)
class _Unknown:
    """Records without a row at their offset, until their ids are looked up; bounded."""

    ids: dict[str, list[tuple[Place, int]]] = field(default_factory=dict)
    records: int = 0

    def add(self, event_id: str, place: Place, offset: int) -> None:
        self.ids.setdefault(event_id, []).append((place, offset))
        self.records += 1


def compare_with_bus(warehouse: Warehouse, settings: Settings, *, until: datetime) -> BusCheck:
    """Compare what was published before an instant with the warehouse.

    Args:
        warehouse: Its readers' copy must have the loads up to now.
        settings: Kafka, registry, tenants; ``quality.max_bus_records`` bounds a run, in even shares. The next run goes
            on there, and tells how much was left.
        until: Aware; long enough ago for the sink and the load.

    Raises:
        ServiceUnavailableError: Kafka, the registry or the warehouse does not answer.
    """
    with (
        TopicReader(settings.kafka, "ccaas-completeness") as bus,
        closing(Registry(settings.registry)) as registry,
        reader(warehouse) as connection,
    ):
        counts = _spans(bus, connection, settings, to_ms(until))
        _with_rows(connection, counts)
        decoder = registry.decoder()
        unknown = _Unknown()
        days = settings.retention.events_days
        kept_since = to_ms(until - timedelta(days=days)) if days else None
        with closing(bus.read({place: count.span for place, count in counts.items()})) as batches:
            for messages in batches:
                _count(counts, messages, decoder, unknown, kept_since)
                if unknown.records >= _IDS:
                    _look_up(connection, counts, unknown)
        _look_up(connection, counts, unknown)
    rows = [
        (
            f"{place.topic}[{place.partition}]",
            None if count.first_missing is None else str(count.first_missing),
            count.records,
            count.records - count.repeats - count.no_event - count.expired - count.missing,
            count.repeats,
            count.no_event,
            count.expired,
            count.missing,
            count.end - count.span.end,
        )
        for place, count in counts.items()
    ]
    return BusCheck(Frame("events.bus", _COLUMNS, rows), {place: count.reached for place, count in counts.items()})


def note_reached(connection: sa.Connection, reached: Mapping[Place, int]) -> None:
    """Store where the next comparison begins, in the caller's transaction."""
    checked = tables.checked_offsets
    if not reached:
        return
    connection.execute(sa.delete(checked).where(checked.c.topic.in_({place.topic for place in reached})))
    connection.execute(
        sa.insert(checked),
        [{"topic": topic, "partition": number, "next_offset": offset} for (topic, number), offset in reached.items()],
    )


def _spans(bus: TopicReader, connection: sa.Connection, settings: Settings, until_ms: int) -> dict[Place, _Count]:
    """What is to be looked at: what was published before the instant and not found yet, an even share of each."""
    checked = tables.checked_offsets.c
    stored = {
        Place(topic, partition): offset
        for topic, partition, offset in connection.execute(
            sa.select(checked.topic, checked.partition, checked.next_offset)
        )
    }
    spans: dict[Place, Span] = {}
    for tenant in _landed(settings):
        since = bus.published_since(tenant.events_topic, until_ms)
        for place in bus.partitions(tenant.events_topic):
            held = bus.watermarks(place)
            end = since[place].first if place in since else held.end
            first = stored.get(place, held.first)
            # Before what the topic holds: expired. Behind its end: the topic was made anew.
            spans[place] = Span(first if held.first <= first <= held.end else held.first, end)
    fresh = {place: span for place, span in spans.items() if span.first < span.end}
    share = max(1, settings.quality.max_bus_records // max(len(fresh), 1))
    counts = {
        place: _Count(Span(span.first, min(span.end, span.first + share)), span.end) for place, span in fresh.items()
    }
    # Those with nothing new keep their place, and show that they were looked at.
    idle = {place: _Count(Span(span.first, span.first), span.first) for place, span in spans.items()}
    return idle | counts


def _landed(settings: Settings) -> Iterable[Tenant]:
    """Tenants whose events the sink lands."""
    pattern = re.compile(settings.sink.topics)
    return [tenant for tenant in settings.tenants if pattern.match(tenant.events_topic)]


def _with_rows(connection: sa.Connection, counts: Mapping[Place, _Count]) -> None:
    """Note the offsets that rows have: of events, and of reconciled ones that gave way to their webhook."""
    wanted = [(*place, *count.span) for place, count in counts.items() if count.span.first < count.span.end]
    found: dict[Place, set[int]] = {}
    for part in batched(wanted, lambda _: 1, _SPANS):
        spans = sa.values(
            sa.column("topic", sa.Text),
            sa.column("partition", sa.Integer),
            sa.column("low", sa.BigInteger),
            sa.column("high", sa.BigInteger),
            name="spans",
        ).data(list(part))
        for table in (tables.events, tables.reconciled_events):
            rows = sa.select(table.c.topic, table.c.partition, table.c.offset).join(
                spans,
                sa.and_(
                    table.c.topic == spans.c.topic,
                    table.c.partition == spans.c.partition,
                    table.c.offset >= spans.c.low,
                    table.c.offset < spans.c.high,
                ),
            )
            for topic, partition, offset in connection.execute(rows):
                found.setdefault(Place(topic, partition), set()).add(offset)
    for place, offsets in found.items():
        counts[place].known = frozenset(offsets)


def _count(
    counts: Mapping[Place, _Count],
    messages: Sequence[Message],
    decoder: Decoder,
    unknown: _Unknown,
    kept_since: int | None,
) -> None:
    for message in messages:
        place, offset = Place(str(message.topic()), message.partition() or 0), message.offset() or 0
        count = counts[place]
        count.records += 1
        if offset in count.known:
            continue
        try:
            event = decoder.decode(message.value())
        except BadEventError:
            count.no_event += 1  # the sink made a dead letter of it
            continue
        if kept_since is not None and event["timestamp"] < kept_since:
            count.expired += 1
        else:
            unknown.add(event["event_id"], place, offset)


def _look_up(connection: sa.Connection, counts: Mapping[Place, _Count], unknown: _Unknown) -> None:
    """A record whose id is there was a repeat; else it is missing."""
    found: set[str] = set()
    for part in batched(unknown.ids, lambda _: 1, _IDS):
        for table in (tables.events, tables.reconciled_events):
            found.update(connection.execute(sa.select(table.c.event_id).where(table.c.event_id.in_(part))).scalars())
    for event_id, records in unknown.ids.items():
        for place, offset in records:
            count = counts[place]
            if event_id in found:
                count.repeats += 1
            else:
                count.missing += 1
                count.first_missing = min(offset, count.first_missing if count.first_missing is not None else offset)
    unknown.ids.clear()
    unknown.records = 0
