"""The content of a warehouse, and whether another one has the same."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tests.arrival import ARRIVAL, ENGINES_OWN
from tests.truth.compare import SHOWN
from warehouse import tables
from warehouse.engine import Warehouse, writer

Row = tuple[Any, ...]
Contents = dict[str, dict[Row, Row]]
"""By table: rows by key."""

# Nothing else may depend on the way.
_LEFT_OUT = ARRIVAL | ENGINES_OWN

_KEYS: dict[sa.Table, list[str]] = {
    tables.events: ["event_id"],
    tables.conversations: ["vendor", "tenant_id", "conversation_id"],
    tables.queue_intervals: ["interval_start", "vendor", "tenant_id", "queue_id", "media_type"],
    tables.agent_intervals: ["interval_start", "vendor", "tenant_id", "agent_id"],
    tables.daily_analytics: ["day", "vendor", "tenant_id", "queue_id", "agent_id", "media_type"],
}


def contents(warehouse: Warehouse) -> Contents:
    """All rows of all tables, without what depends on arrival.

    Raises:
        AssertionError: a table holds a key twice.
    """
    found: Contents = {}
    with writer(warehouse) as connection:
        for table, keys in _KEYS.items():
            columns = _columns(table)
            places = [columns.index(table.c[name]) for name in keys]
            rows = [tuple(row) for row in connection.execute(sa.select(*columns))]
            found[table.name] = {tuple(row[place] for place in places): row for row in rows}
            assert len(found[table.name]) == len(rows), f"{table.name} repeats a key"
    return found


def by_key(table: sa.Table, rows: list[dict[str, Any]]) -> dict[Row, Row]:
    """Rows that were computed elsewhere, as :func:`contents` has them."""
    names = [column.name for column in _columns(table)]
    return {tuple(row[key] for key in _KEYS[table]): tuple(row[name] for name in names) for row in rows}


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if column.name not in _LEFT_OUT]


def assert_same_contents(expected: Contents, actual: Contents) -> None:
    """Assert that the tables that are expected have the same rows with the same values.

    Raises:
        AssertionError: naming at most ``SHOWN`` rows with both sides.
    """
    lines: list[str] = []
    for name, rows in expected.items():
        assert rows, f"{name} is empty: nothing is compared"
        found = actual[name]
        lines += [f"{name} lacks {row}" for key, row in rows.items() if key not in found]
        lines += [f"{name} has more {row}" for key, row in found.items() if key not in rows]
        lines += [f"{name} {row} -> {found[key]}" for key, row in rows.items() if found.get(key, row) != row]
    assert not lines, "\n".join([f"{len(lines)} differences", *lines[:SHOWN]])
