"""Late intervals are told once, and once when they have recovered; quiet hours are known from the past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from streaming.settings import QualitySettings, Settings, Tenant
from warehouse import tables
from warehouse.engine import Warehouse, publish_read_copy, writer
from warehouse.freshness import Change, check_freshness

TODAY = datetime(2026, 11, 26, tzinfo=UTC)  # a Thursday
STEP = timedelta(minutes=15)
QUEUES, AGENTS = tables.queue_intervals, tables.agent_intervals


def clock(hours: int, minutes: int = 0) -> datetime:
    return TODAY + timedelta(hours=hours, minutes=minutes)


def cells(warehouse: Warehouse, table: sa.Table, tenant: str, first: datetime, end: datetime) -> None:
    """Cells of every interval in [first, end) between 08:00 and 20:00."""

    def starts() -> Iterator[datetime]:
        start = first
        while start < end:
            if 8 <= start.hour < 20:
                yield start
            start += STEP

    name = "queue_id" if table is QUEUES else "agent_id"
    numbers = {column.name: 0 for column in table.c if column.info.get("unit") in {"1", "ms"}}
    common = numbers | {"vendor": "genesys", "tenant_id": tenant, name: "X", "interval_minutes": 15}
    if table is QUEUES:
        common["media_type"] = "VOICE"
    with writer(warehouse) as connection, connection.begin():
        # One statement: row by row an INSERT takes DuckDB a millisecond each.
        connection.execute(sa.insert(table).values([common | {"interval_start": start} for start in starts()]))


class Run:
    """Runs of the check, and what they tell."""

    def __init__(self, warehouse: Warehouse, settings: Settings) -> None:
        self.warehouse = warehouse
        self.settings = settings
        self.told: list[Change] = []
        self.is_stale = True

    def cells(self, table: sa.Table, tenant: str, first: datetime, end: datetime) -> None:
        """New cells, see :func:`cells`."""
        cells(self.warehouse, table, tenant, first, end)
        self.is_stale = True

    def __call__(self, now: datetime) -> set[tuple[str, str, str]]:
        """What one run tells, as (tenant, table, status)."""
        if self.is_stale:
            publish_read_copy(self.warehouse, force=True)
        self.told.clear()
        found = check_freshness(self.warehouse, self.settings, now=now, run_id=f"{now}", tell=self.told.extend)
        assert list(found) == self.told
        self.is_stale = bool(found)
        return {(change.cells.tenant_id, change.cells.table, change.status) for change in self.told}


@pytest.fixture
def run(warehouse: Warehouse, tmp_path: Path) -> Run:
    names = ("busy", "patient", "newborn", "never")
    tenants = tuple(
        Tenant(vendor="genesys", tenant_id=name, max_interval_age_minutes=300 if name == "patient" else None)
        for name in names
    )
    quality = QualitySettings(max_interval_age_minutes=60, keep_days=30)
    return Run(warehouse, Settings(data_dir=tmp_path, tenants=tenants, quality=quality))


def test_late_and_recovered_are_told_once_each(warehouse: Warehouse, run: Run) -> None:
    weeks_ago = TODAY - timedelta(days=8)
    for tenant in ("busy", "patient", "somebody-elses"):
        run.cells(QUEUES, tenant, weeks_ago, clock(10))
    # An agent's last status goes on making cells when no event comes any more.
    run.cells(AGENTS, "busy", weeks_ago, clock(20))
    run.cells(QUEUES, "newborn", clock(9), clock(10))
    assert run(clock(11)) == set()
    assert run(clock(11, 1)) == {("busy", "queue_intervals", "late")}
    (change,) = run.told
    assert (change.newest_end, change.limit) == (clock(10), timedelta(minutes=60))
    assert run(clock(11, 16)) == set()  # told
    assert run(clock(15, 1)) == {("patient", "queue_intervals", "late")}
    run.cells(QUEUES, "busy", clock(10), clock(15))
    # A run that was held up, of before the newest one, takes nothing back.
    assert run(clock(10, 59)) == set()
    assert run(clock(15, 16)) == {("busy", "queue_intervals", "fresh")}
    assert run(clock(15, 31)) == set()
    run.cells(QUEUES, "busy", clock(15), clock(20))
    # At night, when there never were calls, nothing is late; in the morning it is again.
    assert run(clock(23)) == set()
    assert run(clock(32)) == set()
    assert run(clock(33, 1)) == {("busy", "queue_intervals", "late"), ("busy", "agent_intervals", "late")}
    assert results(warehouse) == [
        ("busy", "agent_intervals", "late", 1),
        ("busy", "queue_intervals", "late", 1),
        ("busy", "queue_intervals", "fresh", 0),
        ("busy", "queue_intervals", "late", 1),
        ("patient", "queue_intervals", "late", 1),
    ]


def test_what_was_not_told_is_told_by_the_next_run(warehouse: Warehouse, run: Run) -> None:
    run.cells(QUEUES, "busy", TODAY - timedelta(days=3), clock(10))
    publish_read_copy(warehouse, force=True)

    def unheard(_: Sequence[Change]) -> None:
        msg = "killed"
        raise KeyboardInterrupt(msg)

    with pytest.raises(KeyboardInterrupt):
        check_freshness(warehouse, run.settings, now=clock(12), run_id="r", tell=unheard)
    assert results(warehouse) == []
    assert run(clock(12, 15)) == {("busy", "queue_intervals", "late")}
    # Kept for keep_days; whoever is late for longer is told of anew.
    later = clock(12) + timedelta(days=31)
    run.cells(QUEUES, "patient", later - timedelta(days=8), later - timedelta(days=1))
    assert ("patient", "queue_intervals", "late") in run(later)
    assert [row for row in results(warehouse) if row[0] == "busy"] == []


def results(warehouse: Warehouse) -> list[tuple[str, str, str, int]]:
    found = tables.quality_results.c
    query = sa.select(found.tenant_id, found.table_name, found.status, found.unexpected).where(
        found.suite == "freshness"
    )
    with writer(warehouse) as connection:
        rows = connection.execute(query.order_by(found.tenant_id, found.table_name, found.checked_at.desc()))
        return [tuple(row) for row in rows]
