"""Small frames that SQL computes for the quality checks: sums by tenant, queue or day, never events themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from schemas.canonical import REST_NEAR_MS
from streaming.instants import to_ms
from warehouse import tables
from warehouse.engine import Warehouse
from warehouse.expectations import key_of, measures_of
from warehouse.ledger import last_arrival
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window, ceil, floor

# Tables that grow without end are looked at within the window, by this column.
_TIMES = {
    "events": "timestamp",
    "reconciled_events": "timestamp",
    "conversations": "first_event_at",
    "queue_intervals": "interval_start",
    "agent_intervals": "interval_start",
}

# Vendors' clocks may be ahead, but not by so much.
_FUTURE = timedelta(days=1)
# A conversation of which nothing was heard for so long should have ended.
_SILENT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows for the expectations of one name.

    Attributes:
        name: ``table.frame``.
        columns: Their names.
        rows: The rows.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def frames(connection: sa.Connection, warehouse: Warehouse, window: Window, now: datetime) -> Iterator[Frame]:
    """Compute every frame, one after the other.

    Args:
        connection: A reader's.
        warehouse: For the interval's length.
        window: Span of event time; what the loads have not come to yet plays no part.
        now: The run's scheduled time: what is dated a day later and more, is dated wrongly.
    """
    values = _values(connection, warehouse, window, now)
    for table in tables.metadata.sorted_tables:
        for name, query in _basics(table, window):
            yield _frame(connection, name, query)
    for name, statement in statements("quality").items():
        bound = {key: values[key] for key in statement._bindparams}  # it has no public list of them
        yield _frame(connection, name, statement, bound)


def _frame(
    connection: sa.Connection, name: str, statement: sa.Executable, values: dict[str, Any] | None = None
) -> Frame:
    result = connection.execute(statement, values or {})
    return Frame(name, tuple(result.keys()), [tuple(row) for row in result])


def _values(connection: sa.Connection, warehouse: Warehouse, window: Window, now: datetime) -> dict[str, Any]:
    """What the statements bind."""
    through, horizon = last_arrival(connection, "wfm_intervals")
    told, _ = last_arrival(connection, "conversations")
    daily_through, _ = last_arrival(connection, "daily_analytics")
    usage_through, _ = last_arrival(connection, "metadata_field_usage")
    cells_end = window.start if horizon is None else max(window.start, min(window.end, horizon))
    cells_end = floor(cells_end, warehouse.interval_minutes)
    first_midnight = ceil(window.start, DAY_MINUTES)
    return {
        "start": window.start,
        "end": window.end,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "cells_end": cells_end,
        "cells_end_ms": to_ms(cells_end),
        "first_day": first_midnight.date(),
        "last_day": window.end.date(),
        "first_midnight": first_midnight,
        "cells_last_day": cells_end.date(),
        "cells_last_midnight": floor(cells_end, DAY_MINUTES),
        "future_ms": to_ms(now + _FUTURE),
        "silent_since": window.end - _SILENT,
        "near_ms": REST_NEAR_MS,
        "step_ms": warehouse.step_ms,
        "interval_minutes": warehouse.interval_minutes,
        "through": through,
        "told": told,
        "daily_through": min(daily_through, through),
        "usage_through": usage_through,
    }


def _basics(table: sa.Table, window: Window) -> Iterator[tuple[str, sa.Select[Any]]]:
    if keys := key_of(table):
        yield f"{table.name}.key", _repeated(table, keys, window)
    if measures := measures_of(table):
        yield f"{table.name}.ranges", _negative(table, measures, window)


def _repeated(table: sa.Table, keys: list[str], window: Window) -> sa.Select[Any]:
    """How many keys there are, and how many of them more than one row has."""
    query = _within(sa.select(sa.func.count().label("n")), table, window)
    grouped = query.group_by(*[table.c[name] for name in keys]).subquery()
    return sa.select(
        sa.literal(", ".join(keys)).label("key"),
        sa.func.count().label("keys"),
        sa.func.count().filter(grouped.c.n > 1).label("repeated"),
    )


def _negative(table: sa.Table, measures: list[str], window: Window) -> sa.Select[Any]:
    """By column, how many rows have less than 0 there."""
    counts = [sa.func.count().filter(table.c[name] < 0).label(name) for name in measures]
    summed = _within(sa.select(*counts), table, window).cte("summed")
    by_column = [sa.select(sa.literal(name).label("measure"), summed.c[name].label("negative")) for name in measures]
    return sa.select(sa.union_all(*by_column).subquery())


def _within(query: sa.Select[Any], table: sa.Table, window: Window) -> sa.Select[Any]:
    time = _TIMES.get(table.name)
    if time is None:
        return query.select_from(table)
    column = table.c[time]
    return query.select_from(table).where(column >= window.start, column < window.end)
