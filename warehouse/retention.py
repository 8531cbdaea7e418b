"""Expiry of the warehouse's tables by the day of what they tell, and its record in ``retention_runs``.

Events leave a horizon, see :mod:`warehouse.expired`. It is committed before the first event is deleted, so a run that
is killed leaves whole days deleted and nothing that a load could spoil; the next run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from streaming.batches import batched
from streaming.instants import EPOCH, to_ms
from streaming.settings import BUILT_FROM_EVENTS, RetentionSettings
from warehouse import landing, scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.landed import loaded_files
from warehouse.ledger import Dataset, last_arrival
from warehouse.statements import run as execute
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window, floor, midnight, to_utc

# Files that a note names.
_NAMED = 3

BATCH_ROWS = 1_000_000
"""Rows that one transaction deletes, in whole days; a single larger day is still one."""

_TABLES = ("events", *BUILT_FROM_EVENTS, "failed_events")

# What is built from events by arrival. The first two always are; the others only where they are.
_ALWAYS_BUILT: tuple[Dataset, ...] = ("conversations", "wfm_intervals")
_BUILT: tuple[Dataset, ...] = (*_ALWAYS_BUILT, "daily_analytics", "metadata_field_usage")

_kept_statuses = sa.Table("kept_statuses", sa.MetaData(), sa.Column("event_id", sa.Text), prefixes=["TEMPORARY"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """What has expired of a dataset, or in a dry run what would.

    Attributes:
        dataset: as in ``retention_runs``.
        before: midnight UTC; what is dated before it expires.
        rows: rows; of landing the rows of the files.
        files: files of the landing zone.
        bytes: their size.
        first_day: earliest day with something that expires.
        note: what was due and stays, and why.
        waits: whether nothing expired, for what is still to be loaded or built.
    """

    dataset: str
    before: datetime
    rows: int = 0
    files: int = 0
    bytes: int = 0
    first_day: date | None = None
    note: str = ""
    waits: bool = False


@dataclass(slots=True)
class Record:
    """The row in ``retention_runs`` of an expiry under way."""

    run_id: str
    dataset: str
    before: datetime
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def has_begun(self, connection: sa.Connection) -> bool:
        """Whether an earlier attempt of this run has deleted something, or may have: then it did not have to wait."""
        status = self._status(connection)
        connection.commit()
        return status not in {None, "waiting"}

    def begin(self, connection: sa.Connection, status: str = "running") -> None:
        """Write it, unless an earlier attempt of this run has; in a transaction of its own."""
        with connection.begin():
            if self._status(connection) is not None:
                self._update(connection, status=status)
                return
            connection.execute(
                sa.insert(tables.retention_runs),
                {
                    "run_id": self.run_id,
                    "dataset": self.dataset,
                    "expired_before": self.before,
                    "status": status,
                    "rows": 0,
                    "files": 0,
                    "bytes": 0,
                    "started_at": self.started_at,
                },
            )

    def add(self, connection: sa.Connection, *, rows: int = 0, files: int = 0, size: int = 0) -> None:
        """Count what was deleted, in the transaction that deletes it."""
        c = tables.retention_runs.c
        self._update(connection, rows=c.rows + rows, files=c.files + files, bytes=c.bytes + size)

    def end(self, connection: sa.Connection, status: str, note: str) -> None:
        """All is done, or nothing could be; in a transaction of its own."""
        with connection.begin():
            self._update(connection, status=status, note=note or None, finished_at=datetime.now(UTC))

    def _status(self, connection: sa.Connection) -> str | None:
        query = sa.select(tables.retention_runs.c.status).where(*self._own())
        status: str | None = connection.execute(query).scalar_one_or_none()
        return status

    def _update(self, connection: sa.Connection, **values: object) -> None:
        connection.execute(sa.update(tables.retention_runs).where(*self._own()).values(**values))

    def _own(self) -> tuple[sa.ColumnElement[bool], ...]:
        c = tables.retention_runs.c
        return c.run_id == self.run_id, c.dataset == self.dataset


def cuts(settings: RetentionSettings, due: datetime) -> dict[str, datetime]:
    """Midnight before which each dataset that has a limit expires.

    Args:
        settings: days that are kept before the day of ``due``.
        due: aware; the scheduled time.

    Raises:
        WindowError: ``due`` has no time zone.
    """
    today = floor(to_utc(due, "due"), DAY_MINUTES)
    days = {name: getattr(settings, f"{name}_days") for name in ("landing", *_TABLES)}
    return {name: max(today - timedelta(days=kept), EPOCH) for name, kept in days.items() if kept is not None}


def expire_tables(
    warehouse: Warehouse,
    wanted: Mapping[str, datetime],
    *,
    run_id: str,
    dry_run: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> list[Expiry]:
    """Delete what is dated before the cuts, some days a transaction. Again, or twice at once, changes nothing.

    While events can't go, nothing that is built from them goes either.

    Between two transactions the warehouse is free for loads.

    Args:
        warehouse: the warehouse, migrated.
        wanted: cuts by dataset, see :func:`cuts`; ``landing`` is left to :mod:`warehouse.landing_retention`.
        run_id: the caller's id.
        dry_run: only count.
        batch_rows: rows of one transaction.

    Raises:
        WarehouseBusyError: a load kept the lock.
        WarehouseDownError: the database went away; the days that are done stay deleted.
    """
    expiries: list[Expiry] = []
    for name in _TABLES:
        if name in wanted:
            record = Record(run_id, name, wanted[name])
            # From events that are loaded late, a part of what has expired would be built.
            with_events = name in BUILT_FROM_EVENTS and any(found.waits for found in expiries)
            expiries.append(_expire(warehouse, record, with_events=with_events, dry_run=dry_run, batch_rows=batch_rows))
    if not dry_run:
        _checkpoint(warehouse)
    return expiries


def _expire(warehouse: Warehouse, record: Record, *, with_events: bool, dry_run: bool, batch_rows: int) -> Expiry:
    dataset, before = record.dataset, record.before
    with writer(warehouse) as connection:
        waits: list[str] = []
        # What has begun goes on: its horizon is committed, and a row that says "waiting" would take it back.
        if not record.has_begun(connection):
            if dataset == "events":
                waits = _waits(connection, warehouse, before)
            elif with_events:
                waits = ["so do the events that they are built from"]
        days = [] if waits else _days(connection, dataset, before)
        undated = _days(connection, "undated", before) if dataset == "events" and not waits else []
        note = f"they stay: {'; '.join(waits)}" if waits else ""
        if not dry_run:
            record.begin(connection, "waiting" if waits else "running")
    rows = sum(count for _, count in (*days, *undated))
    if not dry_run:
        rows = _delete(warehouse, record, dataset, days, batch_rows) + _delete(
            warehouse, record, "undated", undated, batch_rows
        )
        with writer(warehouse) as connection:
            record.end(connection, "waiting" if waits else "finished", note)
    first = min((day for day, _ in (*days, *undated)), default=None)
    return Expiry(dataset=dataset, before=before, rows=rows, first_day=first, note=note, waits=bool(waits))


def _delete(
    warehouse: Warehouse, record: Record, dataset: str, days: Sequence[tuple[date, int]], batch_rows: int
) -> int:
    deleted = 0
    for batch in batched(days, lambda day: day[1], batch_rows):
        span = Window(midnight(batch[0][0]), midnight(batch[-1][0] + timedelta(days=1)))
        with writer(warehouse) as connection, connection.begin(), _kept(connection, dataset, record.before, span):
            values = {"start": span.start, "end": span.end, "start_ms": span.start_ms, "end_ms": span.end_ms}
            rows = sum(
                execute(connection, "retention", name, **values)
                for name in statements("retention")
                if name.startswith(f"{dataset}.delete")
            )
            record.add(connection, rows=rows)
        deleted += rows
    return deleted


def _days(connection: sa.Connection, dataset: str, before: datetime) -> list[tuple[date, int]]:
    """Days with rows that expire, and how many, ascending."""
    values = {"before": before, "before_ms": to_ms(before)}
    statement = statements("retention")[f"{dataset}.days"]
    bound = {key: values[key] for key in statement._bindparams}
    if before <= EPOCH:
        return []
    with connection.begin(), _kept(connection, dataset, before, Window(EPOCH, before)):
        return [(day, int(count)) for day, count in connection.execute(statement, bound)]


@contextmanager
def _kept(connection: sa.Connection, dataset: str, before: datetime, span: Window) -> Iterator[None]:
    """For ``events``: what stays of a span before the cut, in temporary tables."""
    if dataset != "events":
        yield
        return
    scratch.renew(connection, scratch.conversation_scope, _kept_statuses)
    values = {"start_ms": span.start_ms, "end_ms": span.end_ms, "before_ms": to_ms(before)}
    execute(connection, "retention", "keep_conversations", **values)
    execute(connection, "retention", "keep_statuses", **values)
    scratch.analyze(connection, scratch.conversation_scope, _kept_statuses)
    yield
    scratch.drop(connection, scratch.conversation_scope, _kept_statuses)


def _waits(connection: sa.Connection, warehouse: Warehouse, before: datetime) -> list[str]:
    """Why events can't go yet; empty if they can."""
    reasons = []
    if files := _not_loaded(connection, warehouse, before):
        reasons.append(f"landing files with such events are not loaded, for example {', '.join(files)}")
    if datasets := _not_accounted_for(connection, before):
        reasons.append(f"not yet built from all events dated before that: {', '.join(datasets)}")
    return reasons


def _not_loaded(connection: sa.Connection, warehouse: Warehouse, before: datetime) -> list[str]:
    """Some landing files that no load has taken and that hold events which are due: a load would pass them over."""
    known = set(loaded_files(connection))
    connection.commit()
    found: list[str] = []
    for name in landing.list_files(warehouse.store, known, Window(EPOCH, before)):
        first = landing.earliest_ms(warehouse.store, name)
        if first is not None and first < to_ms(before):
            found.append(name)
        if len(found) == _NAMED:
            break
    return found


def _not_accounted_for(connection: sa.Connection, before: datetime) -> list[str]:
    """Datasets for which events that are due have not been counted yet: their cells could never be built."""
    waiting: list[str] = []
    for dataset in _BUILT:
        through, built_until = last_arrival(connection, dataset)
        if dataset == "wfm_intervals" and (built_until is None or built_until < before):
            waiting.append(dataset)  # its horizon lags: cells between it and the cut are still to be built
        elif through or dataset in _ALWAYS_BUILT:
            values = {"through": through, "before_ms": to_ms(before)}
            if connection.execute(statements("retention")["not_accounted_for"], values).scalar_one():
                waiting.append(dataset)
    connection.commit()
    return waiting


def _checkpoint(warehouse: Warehouse) -> None:
    """DuckDB: free the blocks of deleted rows for new ones. The file does not shrink by it."""
    if warehouse.database:
        with writer(warehouse) as connection:
            connection.execute(sa.text("CHECKPOINT"))
            connection.commit()
