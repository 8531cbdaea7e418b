"""Whether tenants' newest intervals are as new as they should be: told once when late, once when recovered.

What is late is a tenant's queue or agent cells, each by itself: agents' last statuses go on making agent cells when no
event comes any more. Quiet hours are known from the past: a gap counts only if the tenant had cells in the same span of
one of the last four weeks (of the last six days, while it is younger than a week).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from streaming.batches import batched
from streaming.instants import from_ms
from streaming.settings import Settings
from warehouse import tables
from warehouse.engine import Warehouse, reader, writer
from warehouse.quality_results import expire
from warehouse.statements import statements

SUITE = "freshness"
_EXPECTATION = "newest interval"

_WEEKS = tuple(timedelta(weeks=number) for number in range(1, 5))
_DAYS = tuple(timedelta(days=number) for number in range(1, 7))
_LOOK_BACK = timedelta(weeks=5)
# Bound by one statement, five values each: PostgreSQL takes 65,535.
_SPANS = 10_000


class Cells(NamedTuple):
    """A tenant's cells in one of the tables."""

    table: Literal["queue_intervals", "agent_intervals"]
    vendor: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Change:
    """Cells that became late, or are no longer.

    Attributes:
        cells: Which.
        status: ``late`` or ``fresh``.
        newest_end: When their newest interval ended.
        limit: How old it may be.
    """

    cells: Cells
    status: Literal["late", "fresh"]
    newest_end: datetime
    limit: timedelta


@dataclass(frozen=True, slots=True)
class _Newest:
    end: datetime
    first: datetime


def check_freshness(
    warehouse: Warehouse, settings: Settings, *, now: datetime, run_id: str, tell: Callable[[Sequence[Change]], None]
) -> Sequence[Change]:
    """Look at every configured tenant, tell what changed since it was told last, and keep it in ``quality_results``.

    A tenant without cells in a table is not looked at there. What is told is kept once it was told: killed in between,
    the next run tells it again.

    Args:
        warehouse: The warehouse, migrated.
        settings: Tenants and how old their newest interval may be.
        now: The run's scheduled time, aware.
        run_id: The caller's id.
        tell: Called with the changes, if there are any, under the writer's lock.

    Returns:
        The changes.

    Raises:
        WarehouseBusyError: a load kept the lock.
        NoReadCopyError: no load has run yet.
    """
    limits = {
        (tenant.vendor, tenant.tenant_id): timedelta(
            minutes=tenant.max_interval_age_minutes or settings.quality.max_interval_age_minutes
        )
        for tenant in settings.tenants
    }
    with reader(warehouse) as connection:
        found = _judged(connection, limits, now)
        if not _changes(connection, found, now):
            return ()
    with writer(warehouse) as connection, connection.begin():
        changes = _changes(connection, found, now)  # another run may have been quicker
        if changes:
            tell(changes)
            connection.execute(sa.insert(tables.quality_results), [_row(change, now, run_id) for change in changes])
            expire(connection, now, settings.quality.keep_days)
    return changes


def _judged(
    connection: sa.Connection, limits: Mapping[tuple[str, str], timedelta], now: datetime
) -> dict[Cells, Change]:
    """What is late or fresh; what is old, but at an hour that is quiet, is left out."""
    rows = connection.execute(statements("freshness")["newest"], {"since": now - _LOOK_BACK, "now": now})
    newest = {
        Cells(row.table_name, row.vendor, row.tenant_id): _Newest(from_ms(row.newest_end_ms), from_ms(row.first_ms))
        for row in rows
        if (row.vendor, row.tenant_id) in limits
    }
    limit = {cells: limits[cells.vendor, cells.tenant_id] for cells in newest}
    old = {cells: item for cells, item in newest.items() if now - item.end > limit[cells]}
    late = _usually_busy(connection, {cells: (item, now - limit[cells]) for cells, item in old.items()})
    return {
        cells: Change(cells, "late" if cells in late else "fresh", item.end, limit[cells])
        for cells, item in newest.items()
        if cells in late or cells not in old
    }


def _usually_busy(connection: sa.Connection, gaps: Mapping[Cells, tuple[_Newest, datetime]]) -> set[Cells]:
    """Those that had cells at the same time of earlier weeks or days as their gap, which ends at the instant given."""
    spans = [
        (*cells, item.end - shift, until - shift)
        for cells, (item, until) in gaps.items()
        for shift in (_WEEKS if item.first <= item.end - _WEEKS[0] else _DAYS)
    ]
    busy: set[Cells] = set()
    for part in batched(spans, lambda _: 1, _SPANS):
        wanted = sa.values(
            sa.column("table_name", sa.Text),
            sa.column("vendor", sa.Text),
            sa.column("tenant_id", sa.Text),
            sa.column("low", sa.DateTime(timezone=True)),
            sa.column("high", sa.DateTime(timezone=True)),
            name="wanted",
        ).data(part)
        for table in (tables.queue_intervals, tables.agent_intervals):
            query = (
                sa.select(wanted.c.table_name, wanted.c.vendor, wanted.c.tenant_id)
                .join(
                    table,
                    sa.and_(
                        table.c.vendor == wanted.c.vendor,
                        table.c.tenant_id == wanted.c.tenant_id,
                        table.c.interval_start >= wanted.c.low,
                        table.c.interval_start < wanted.c.high,
                    ),
                )
                .where(wanted.c.table_name == table.name)
                .distinct()
            )
            busy |= {Cells(*row) for row in connection.execute(query)}
    return busy


def _changes(connection: sa.Connection, found: Mapping[Cells, Change], now: datetime) -> list[Change]:
    """What is other than it was told last; never told is as good as fresh."""
    told = {
        Cells(row.table_name, row.vendor, row.tenant_id): (row.status, row.checked_at)
        for row in connection.execute(statements("freshness")["told"], {"suite": SUITE})
    }
    changes = []
    for cells, change in found.items():
        status, at = told.get(cells, ("fresh", now))
        if change.status != status and at <= now:  # a run that was late must not take back what a newer one told
            changes.append(change)
    return changes


def _row(change: Change, now: datetime, run_id: str) -> dict[str, Any]:
    is_late = change.status == "late"
    return {
        "run_id": run_id,
        "checked_at": now,
        "suite": SUITE,
        "table_name": change.cells.table,
        "expectation": _EXPECTATION,
        "vendor": change.cells.vendor,
        "tenant_id": change.cells.tenant_id,
        "severity": "critical",
        "status": change.status,
        "expected": f"ended at most {change.limit // timedelta(minutes=1)} min ago",
        "observed": f"ended {change.newest_end:%Y-%m-%d %H:%M}Z",
        "checked": 1,
        "unexpected": int(is_late),
    }


def by_tenant(changes: Iterable[Change]) -> dict[tuple[str, str], list[Change]]:
    """Changes of one status by vendor and tenant."""
    grouped: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        grouped.setdefault((change.cells.vendor, change.cells.tenant_id), []).append(change)
    return grouped
