"""Load ``failed_events`` and ``dead_letter_replays`` from Kafka: what broke, and what became of it.

Every dead letter and every replay is counted once: the offset up to which a topic is counted moves in the transaction
that writes the counts. Kafka is read without the warehouse's lock, so a run that was overtaken by another throws away
what it read and goes on from where that one is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from confluent_kafka import Message

from streaming.instants import from_ms, to_ms
from streaming.reprocess import replays
from streaming.settings import Settings
from streaming.topic_reader import Place, Span, TopicReader
from warehouse import scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.failed_kinds import OTHERS, Collector, Kind
from warehouse.ledger import LoadResult, load_run
from warehouse.replay_outcomes import Outcomes
from warehouse.statements import run as execute
from warehouse.statements import statements

log = structlog.get_logger()

_SQL = "failed_events"
# Kinds of failure in a tenant's hour; what is beyond is counted together.
_MAX_KINDS = 500
_YEAR_9999_MS = 253_402_300_799_999


class _Sums(Protocol):
    """What is read is summed up before it is written."""

    @property
    def is_full(self) -> bool: ...

    def add(self, messages: Sequence[Message]) -> None: ...

    def empty(self) -> None: ...


def load_failed_events(warehouse: Warehouse, settings: Settings, *, run_id: str) -> LoadResult:
    """Count the dead letters and replays that came since the last load. Again, or twice at once, counts nothing twice.

    Args:
        warehouse: the warehouse, migrated.
        settings: Kafka's address, and the tenants whose dead-letter topics are read.
        run_id: the caller's id for the ledger.

    Returns:
        ``rows``: rows of ``failed_events`` written; 0 and no ``load_ids`` if nothing is new.

    Raises:
        WarehouseBusyError: another load kept the lock.
        ServiceUnavailableError: Kafka does not answer; what was written stays, a next run goes on there.
    """
    letters = Collector({tenant.dlq_topic: tenant for tenant in settings.tenants})
    outcomes = Outcomes(frozenset(tenant.dlq_topic for tenant in settings.tenants))
    written: list[tuple[int, int]] = []
    with TopicReader(settings.kafka, "ccaas-load-failed-events") as reader:
        # In this order: the letters of every replay up to here are among those that are read.
        replayed = _contents(reader, [replays.TOPIC])
        failed = _contents(reader, letters.tenants)
        written += _load(warehouse, reader, failed, letters, partial(_write_letters, letters, run_id))
        written += _load(warehouse, reader, replayed, outcomes, partial(_write_outcomes, outcomes, run_id))
    return LoadResult(
        dataset="failed_events",
        rows=sum(rows for _, rows in written),
        load_ids=tuple(load_id for load_id, _ in written),
    )


def _contents(reader: TopicReader, topics: Sequence[str] | Mapping[str, Any]) -> dict[Place, Span]:
    return {place: reader.watermarks(place) for topic in topics for place in reader.partitions(topic)}


def _load(
    warehouse: Warehouse,
    reader: TopicReader,
    contents: Mapping[Place, Span],
    sums: _Sums,
    write: Callable[[sa.Connection, Mapping[Place, int]], tuple[int, int]],
) -> Iterator[tuple[int, int]]:
    """Read what is not counted yet, and write it, a bounded part at a time; gives load and rows of each part."""
    while True:
        with writer(warehouse) as connection:
            stored = _stored(connection, contents)
        unread = {place: _unread(place, span, stored[place]) for place, span in contents.items()}
        # With an empty span, one whose topic was made anew: its offset is to be set back.
        unread = {
            place: span
            for place, span in unread.items()
            if span.first < span.end or stored[place] not in {None, span.first}
        }
        if not unread:
            return
        with closing(_parts(reader, unread, sums)) as parts:
            for _ in parts:
                reached = {place: offset for place, offset in reader.positions.items() if offset != stored[place]}
                with writer(warehouse) as connection:
                    is_ours = _stored(connection, reached) == {place: stored[place] for place in reached}
                    if is_ours and reached:
                        yield write(connection, reached)
                sums.empty()
                if not is_ours:
                    log.info("another run counts the same dead letters; this one goes on behind it")
                    break
                stored |= reached
            else:
                return


def _parts(reader: TopicReader, unread: Mapping[Place, Span], sums: _Sums) -> Generator[None]:
    """Sum up what is read; a part is over when the sums are full, or at the end."""
    with closing(reader.read(unread)) as batches:
        for messages in batches:
            sums.add(messages)
            if sums.is_full:
                yield
    yield


def _stored(connection: sa.Connection, places: Mapping[Place, Any]) -> dict[Place, int | None]:
    consumed = tables.consumed_offsets.c
    topics = {place.topic for place in places}
    query = sa.select(consumed.topic, consumed.partition, consumed.next_offset).where(consumed.topic.in_(topics))
    with connection.begin():
        found = {Place(topic, partition): offset for topic, partition, offset in connection.execute(query)}
    return {place: found.get(place) for place in places}


def _unread(place: Place, span: Span, stored: int | None) -> Span:
    if stored is None or span.first <= stored <= span.end:
        return Span(span.first if stored is None else stored, span.end)
    if stored < span.first:
        log.error(
            "dead letters expired before they were counted; run load-failed-events more often",
            topic=place.topic, partition=place.partition, expired=span.first - stored,
        )  # fmt: skip
    else:
        log.error(
            "the topic ends before the offset up to which it was counted: it was made anew, and is read from its start",
            topic=place.topic, partition=place.partition, counted=stored, end=span.end,
        )  # fmt: skip
    return span


def _write_letters(
    letters: Collector, run_id: str, connection: sa.Connection, reached: Mapping[Place, int]
) -> tuple[int, int]:
    rows = [
        _key(kind) | {
            "no": number, "events": group.events, "replayed": 0, "failed_again": 0, "parked": 0,
            "attempt": min(group.attempt, 2**31 - 1),
            "first_seen": from_ms(group.first_ms), "last_seen": from_ms(group.last_ms),
            "message": group.message, "sample": group.sample, "sample_topic": group.topic,
            "sample_partition": group.partition, "sample_offset": group.offset,
        }
        for number, (kind, group) in enumerate(letters.groups.items())
    ]  # fmt: skip
    with load_run(connection, "failed_events", "arrival", run_id) as run:
        scratch.fill(connection, scratch.failed_batch, rows)
        scratch.renew(connection, scratch.failed_groups)
        execute(connection, _SQL, "fold_beyond", others=OTHERS, kinds=_MAX_KINDS)
        run.rows = _merge_into(connection, "add_letters")
        letters.learn(_full_kinds(connection))
        _move(connection, reached)
    return run.load_id, run.rows


def _write_outcomes(
    outcomes: Outcomes, run_id: str, connection: sa.Connection, reached: Mapping[Place, int]
) -> tuple[int, int]:
    rows = [
        _key(kind) | {
            # Of a kind that has no row, since its dead letters expired before they were counted.
            "no": number, "events": settled.replayed + settled.failed_again + max(settled.parked, 0),
            "replayed": settled.replayed, "failed_again": settled.failed_again, "parked": settled.parked,
            "attempt": 1, "first_seen": _instant(kind.hour_ms), "last_seen": _instant(kind.hour_ms),
        }
        for number, (kind, settled) in enumerate(outcomes.settled.items())
    ]  # fmt: skip
    audit = [
        key._asdict() | {
            "events": audited.events, "first_at": _instant(audited.first_ms), "last_at": _instant(audited.last_ms),
            "fixups": audited.fixups,
        }
        for key, audited in outcomes.audit.items()
    ]  # fmt: skip
    with load_run(connection, "failed_events", "arrival", run_id) as run:
        scratch.fill(connection, scratch.failed_batch, rows)
        scratch.renew(connection, scratch.failed_groups)
        execute(connection, _SQL, "fold_unknown", others=OTHERS)
        execute(connection, _SQL, "fold_beyond", others=OTHERS, kinds=_MAX_KINDS)
        run.rows = _merge_into(connection, "add_outcomes")
        scratch.fill(connection, scratch.replay_batch, audit)
        execute(connection, _SQL, "add_audit")
        execute(connection, _SQL, "insert_audit")
        _move(connection, reached)
    return run.load_id, run.rows


def _merge_into(connection: sa.Connection, add: str) -> int:
    """The batch's counts to the rows that are there, and new rows for the rest; gives the number of both."""
    execute(connection, _SQL, "merge")
    scratch.analyze(connection, scratch.failed_groups)
    execute(connection, _SQL, add)
    execute(connection, _SQL, "insert")
    count = sa.select(sa.func.count()).select_from(scratch.failed_groups)
    return int(connection.execute(count).scalar_one())


def _full_kinds(connection: sa.Connection) -> list[Kind]:
    found = connection.execute(statements(_SQL)["full_kinds"], {"others": OTHERS})
    return [Kind(vendor, tenant_id, to_ms(hour), *rest) for vendor, tenant_id, hour, *rest in found]


def _key(kind: Kind) -> dict[str, Any]:
    key = kind._asdict()
    return key | {"hour": _instant(key.pop("hour_ms"))}


def _instant(epoch_ms: int) -> Any:
    """UTC; what lies outside the years that a table holds is moved to their bound."""
    return from_ms(min(max(epoch_ms, 0), _YEAR_9999_MS))


def _move(connection: sa.Connection, reached: Mapping[Place, int]) -> None:
    moves = [{**place._asdict(), "next_offset": offset} for place, offset in reached.items()]
    connection.execute(statements(_SQL)["move_offset"], moves)
