"""In one go, in steps, in random order, by backfill, through the platform: identical tables, and the right ones."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from devstack.postgres import temporary_postgres
from devstack.replay import SHIPPED_TRACE
from devstack.stack import LocalStack
from tests.replaying import read_table, replaying
from tests.truth.compare import assert_equal_tables
from tests.truth.conversations_from_trace import TENANTS, calls_of, expected_conversations
from tests.truth.daily_from_trace import expected_days
from tests.truth.five_ways import Span, by_backfill, in_one_go, in_random_order, in_steps, load_what_landed
from tests.truth.from_trace import expected_tables
from tests.truth.same_tables import Contents, assert_same_contents, by_key, contents
from tests.truth.trace_events import canonical_events
from tests.truth.trace_rows import MONTH
from warehouse import tables
from warehouse.engine import Warehouse
from warehouse.schema import migrate
from warehouse.windows import Window

_TRACE = Path(os.environ.get("TRACE", MONTH))

Make = Callable[[str], Warehouse]
Way = Callable[[Warehouse, Span], None]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes an empty warehouse on ``duckdb`` or ``postgresql``: a copy of one that was migrated."""
    template = tmp_path_factory.mktemp("template") / "warehouse.duckdb"
    migrate(Warehouse(url=f"duckdb:///{template}", landing_dir=template.parent))
    with temporary_postgres() as server:
        admin = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

        def database(name: str, template: str) -> str:
            with admin.connect() as connection:
                connection.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
            return sa.make_url(server.url).set(database=name).render_as_string(hide_password=False)

        migrate(Warehouse(url=database("empty", "template1"), landing_dir=template.parent))

        def new(engine: str) -> Warehouse:
            folder = tmp_path_factory.mktemp(engine)
            if engine == "postgresql":
                url = database(f"w{uuid.uuid4().hex}", "empty")
            else:
                url = f"duckdb:///{shutil.copy(template, folder)}"
            return Warehouse(url=url, landing_dir=folder / "landing")

        yield new


def assert_true(
    warehouse: Warehouse, span: Span, trace: Path, *, tenants: Mapping[str, str] = TENANTS, shift_days: int = 0
) -> Contents:
    """Every cell equals the independent computation; gives what the warehouse holds."""
    intervals = expected_tables(trace, date_shift_days=shift_days, until=span.window.end)
    for expected, table in zip(intervals, (tables.queue_intervals, tables.agent_intervals), strict=True):
        named = expected.assign(tenant_id=expected["vendor"].map(tenants))
        assert_equal_tables(named, read_table(warehouse, table))
    calls = calls_of(trace, shift_days=shift_days)
    others = {
        "conversations": by_key(tables.conversations, expected_conversations(calls, tenants)),
        "daily_analytics": by_key(tables.daily_analytics, expected_days(calls, tenants)),
    }
    found = contents(warehouse)
    assert_same_contents(others, found)
    assert len(found["events"]) == len(span.events)
    return found


def days(span: Span, first: int, count: int) -> Window:
    """Whole days of a span, counted from 0."""
    start = span.window.start + timedelta(days=first)
    return Window(start, start + timedelta(days=count))


@pytest.fixture(scope="module")
def day() -> Span:
    return Span(canonical_events(SHIPPED_TRACE))


@pytest.fixture(scope="module")
def day_in_one_go(make: Make, day: Span) -> Contents:
    """The yardstick of the other ways, itself equal to the independent computation."""
    warehouse = make("duckdb")
    in_one_go(warehouse, day)
    return assert_true(warehouse, day, SHIPPED_TRACE)


DAY_WAYS: dict[str, Way] = {
    "in_one_go": in_one_go,
    "in_steps": lambda warehouse, span: in_steps(warehouse, span, timedelta(hours=12)),
    "in_random_order": lambda warehouse, span: in_random_order(warehouse, span, pieces=2),
    "by_backfill": lambda warehouse, span: by_backfill(warehouse, span, days(span, 0, 1)),
}
# In one go on DuckDB is the yardstick.
CASES = [(way, engine) for way in DAY_WAYS for engine in ("duckdb", "postgresql")][1:]


# Each way on one engine; the others with the month.
_SHORT = [
    ("in_one_go", "postgresql"),
    ("in_steps", "duckdb"),
    ("in_random_order", "duckdb"),
    ("by_backfill", "postgresql"),
]


@pytest.mark.parametrize(("way", "engine"), _SHORT)
def test_a_day(make: Make, day: Span, day_in_one_go: Contents, engine: str, way: str) -> None:
    warehouse = make(engine)
    DAY_WAYS[way](warehouse, day)
    assert_same_contents(day_in_one_go, contents(warehouse))


@pytest.fixture(scope="module")
def month() -> Span:
    return Span(canonical_events(_TRACE))


@pytest.fixture(scope="module")
def month_in_one_go(make: Make, month: Span) -> Contents:
    warehouse = make("duckdb")
    in_one_go(warehouse, month)
    return assert_true(warehouse, month, _TRACE)


MONTH_WAYS: dict[str, Way] = {
    "in_one_go": in_one_go,
    "in_steps": in_steps,
    "in_random_order": lambda warehouse, span: in_random_order(warehouse, span, pieces=60),
    "by_backfill": lambda warehouse, span: by_backfill(warehouse, span, days(span, 10, 7)),
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("way", "engine"), CASES)
def test_a_month(make: Make, month: Span, month_in_one_go: Contents, engine: str, way: str) -> None:
    warehouse = make(engine)
    began = time.monotonic()
    MONTH_WAYS[way](warehouse, month)
    print(f"{way}, {engine}: {time.monotonic() - began:.0f} s for {len(month.events)} events")
    assert_same_contents(month_in_one_go, contents(warehouse))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_month_through_the_platform(stack: LocalStack, make: Make, tmp_path: Path) -> None:
    """What the services have landed makes, on both engines, the tables that the messages make without them."""
    with replaying(stack, tmp_path, trace=_TRACE) as running:
        running.play(seconds=5000)
        tenants = {vendor.name: vendor.tenant_id for vendor in running.replay.vendors}
        moved = running.replay.shift_days
        span = Span(canonical_events(_TRACE, tenants=tenants, shift_days=moved))
        reference = make("duckdb")
        in_one_go(reference, span)
        expected = assert_true(reference, span, _TRACE, tenants=tenants, shift_days=moved)
        for engine in ("duckdb", "postgresql"):
            warehouse = replace(make(engine), landing_dir=running.replay.settings().landing_dir)
            load_what_landed(warehouse, span.window)
            assert_same_contents(expected, contents(warehouse))
