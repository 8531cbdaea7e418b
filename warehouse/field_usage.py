"""Count ``metadata_field_usage``: which metadata fields each event type has, by day, and what their values read as.

The evidence by which fields are promoted (:mod:`schemas.evolution`). A day of an event type is counted anew if an event
of it is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from schemas.canonical import NATIVE_TYPE_KEY, RECOVERED_KEY
from schemas.promoted import BOOLEAN, DOUBLE, LONG
from warehouse import expired, scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.ledger import LoadResult, LoadRun, last_arrival, last_load, load_run
from warehouse.statements import run as execute
from warehouse.windows import Window

MAX_FIELDS = 1_000
"""Fields of an event type that are counted a day, those on most events. How many more there were is in
``event_type_days.other_fields``: a vendor that takes ids for names must not flood the table."""

MAX_NAME = 500
"""Characters of the name of a field that is counted. Longer ones are among the other fields."""

_OURS = "ccaas."
# An object or an array: what the normaliser keeps whole.
_JSON = r"(\{.*\}|\[.*\])"
# Read by their place in one pass; a wider pass takes longer than it saves.
_FREQUENT = 32


def count_field_usage(warehouse: Warehouse, *, run_id: str) -> LoadResult:
    """Count the days that new events touch. Again, or twice at once, changes nothing.

    Args:
        warehouse: the warehouse, migrated.
        run_id: the caller's id for the ledger.

    Returns:
        ``rows`` is the number of fields and days counted; 0 and no ``load_ids`` if nothing is new.

    Raises:
        WarehouseBusyError: another load kept the lock.
    """
    with writer(warehouse) as connection:
        after, _ = last_arrival(connection, "metadata_field_usage")
        newest = last_load(connection, "events")
        connection.commit()
        if newest <= after:
            return LoadResult(dataset="metadata_field_usage", rows=0)
        with load_run(connection, "metadata_field_usage", "arrival", run_id) as run:
            run.through_load_id = newest
            scratch.renew(connection, scratch.usage_scope, scratch.usage_counts)
            execute(connection, "field_usage", "scope_arrival", after=after)
            _count(connection, run)
    return LoadResult(dataset="metadata_field_usage", rows=run.rows, load_ids=(run.load_id,))


def count_field_usage_window(warehouse: Warehouse, window: Window, *, run_id: str) -> LoadResult:
    """Count the days that have events in a window, whole days, anew.

    Raises:
        WarehouseBusyError: another load kept the lock.
    """
    with writer(warehouse) as connection, load_run(connection, "metadata_field_usage", "window", run_id, window) as run:
        scratch.renew(connection, scratch.usage_scope, scratch.usage_counts)
        bounds = {"start_ms": window.start_ms, "end_ms": window.end_ms}
        days = {"first_day": window.start.date(), "last_day": (window.end - timedelta(milliseconds=1)).date()}
        execute(connection, "field_usage", "scope_window", **bounds, **days)
        _count(connection, run)
    return LoadResult(dataset="metadata_field_usage", rows=run.rows, load_ids=(run.load_id,), window=window)


def _count(connection: sa.Connection, run: LoadRun) -> None:
    """The days in scope → both tables."""
    expired.shield_usage(connection)
    scratch.analyze(connection, scratch.usage_scope)
    if connection.dialect.name == "duckdb":
        _count_duckdb(connection)
    else:
        anchored = {"long": f"^({LONG})$", "double": f"^({DOUBLE})$", "boolean": f"^({BOOLEAN})$", "json": f"^{_JSON}$"}
        nul = {"nul": r"\u0000", "escaped_nul": r"(?<!\\)((?:\\\\)*)\\u0000", "kept": r"\1"}
        execute(connection, "field_usage_postgresql", "fields", **anchored, **nul, ours=_OURS)
        execute(connection, "field_usage", "pass_over_long", most=MAX_FIELDS, longest=MAX_NAME)
    scratch.analyze(connection, scratch.usage_counts)
    for statement in ("delete_usage", "delete_days", "insert_usage", "insert_days"):
        execute(connection, "field_usage", statement, most=MAX_FIELDS)
    counts = scratch.usage_counts.c
    query = sa.select(sa.func.count()).where(counts.nth <= MAX_FIELDS)
    run.rows = int(connection.execute(query).scalar_one())
    scratch.drop(connection, scratch.usage_scope, scratch.usage_counts)


def _count_duckdb(connection: sa.Connection) -> None:
    execute(connection, "field_usage_duckdb", "fields", ours=_OURS)
    execute(connection, "field_usage", "pass_over_long", most=MAX_FIELDS, longest=MAX_NAME)
    found: list[dict[str, Any]] = []
    for (vendor, event_type), fields in _fields_by_type(connection).items():
        frequent = fields[:_FREQUENT]
        found += _types(connection, vendor, event_type, frequent)
        if len(fields) > _FREQUENT:
            patterns = {"long": LONG, "double": DOUBLE, "boolean": BOOLEAN, "json": _JSON}
            # Events with none but these keys are done with.
            done = [*frequent, NATIVE_TYPE_KEY, RECOVERED_KEY]
            kind = {"vendor": vendor, "event_type": event_type, "done": done, "most": MAX_FIELDS}
            execute(connection, "field_usage_duckdb", "rare_types", **patterns, **kind)
    if found:
        # An INSERT of rows takes DuckDB a millisecond each.
        connection.execute(
            sa.text("register(:name, :table)"), {"name": "usage_types", "table": pa.Table.from_pylist(found)}
        )
        execute(connection, "field_usage_duckdb", "take_types")


def _fields_by_type(connection: sa.Connection) -> dict[tuple[str, str], list[str]]:
    """Fields by vendor and event type, those on most events first; no more than tell whether there are rare ones."""
    c = scratch.usage_counts.c
    order = (sa.func.sum(c.events).desc(), c.field)
    rank = sa.func.row_number().over(partition_by=(c.vendor, c.event_type), order_by=order).label("rank")
    ranked = (
        sa.select(c.vendor, c.event_type, c.field, rank)
        .where(c.nth <= MAX_FIELDS)
        .group_by(c.vendor, c.event_type, c.field)
        .subquery()
    )
    by_type: dict[tuple[str, str], list[str]] = {}
    for vendor, event_type, field, _ in connection.execute(
        sa.select(ranked).where(ranked.c.rank <= _FREQUENT + 1).order_by(ranked.c.rank)
    ):
        by_type.setdefault((vendor, event_type), []).append(field)
    return by_type


def _types(connection: sa.Connection, vendor: str, event_type: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """What the values of an event type's fields read as, by day, in one pass over its events."""
    e, s = tables.events.c, scratch.usage_scope.c
    # JSON Pointers (RFC 6901), since a key may hold whatever a path would take for its own.
    pointers = ["/" + field.replace("~", "~0").replace("/", "~1") for field in fields]
    values = sa.func.json_extract_string(e.metadata, sa.literal(pointers, sa.ARRAY(sa.Text)))
    rows = (
        sa.select(s.day, sa.type_coerce(values, sa.ARRAY(sa.Text)).label("found"))
        .join_from(tables.events, scratch.usage_scope, sa.and_(
            s.vendor == e.vendor, s.event_type == e.event_type, s.day == sa.cast(e.timestamp, sa.Date)
        ))
        .where(e.vendor == vendor, e.event_type == event_type)
        .subquery()
    )  # fmt: skip
    kinds = sa.select(
        rows.c.day, *[_kind(rows.c.found[number + 1]).label(f"k{number}") for number in range(len(fields))]
    ).subquery()
    counted = [
        sa.func.count().filter(kinds.c[f"k{number}"] == kind) for number in range(len(fields)) for kind in _KINDS
    ]
    found = []
    for day, *counts in connection.execute(sa.select(kinds.c.day, *counted).group_by(kinds.c.day)):
        for number, field in enumerate(fields):
            own = counts[number * len(_KINDS) : (number + 1) * len(_KINDS)]
            kind = {"vendor": vendor, "event_type": event_type, "day": day, "field": field}
            found.append({**kind, **dict(zip(_KINDS.values(), own, strict=True))})
    return found


_KINDS = {1: "longs", 2: "doubles", 3: "booleans", 4: "jsons"}


def _kind(value: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Number of the kind that a value reads as; its first character spares most values the regular expressions."""
    first = sa.func.left(value, 1)
    number = sa.case(
        (sa.func.regexp_full_match(value, LONG), 1), (sa.func.regexp_full_match(value, DOUBLE), 2), else_=0
    )
    return sa.case(
        (sa.or_(first.between("0", "9"), first == "-"), number),
        (value.in_(BOOLEAN.split("|")), 3),
        (first.in_(("{", "[")), sa.case((sa.func.regexp_full_match(value, _JSON, "s"), 4), else_=0)),
        else_=0,
    )
