"""Temporary tables of the loads: they live in the writer's connection and vanish with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, MetaData, Table, Text

from warehouse import tables

_metadata = MetaData()


def _scratch(name: str, *columns: Column[str] | Column[int]) -> Table:
    return Table(name, _metadata, *columns, prefixes=["TEMPORARY"])


def _copy_of_events() -> list[Column[str] | Column[int]]:
    return [
        Column(column.name, column.type, nullable=column.nullable)
        for column in tables.events.c
        if column.name != "load_id"
    ]


def _nullable_copy(table: Table) -> list[Column[str] | Column[int]]:
    return _nullable_columns(table, *table.c.keys())


def _nullable_columns(table: Table, *names: str) -> list[Column[str] | Column[int]]:
    return [Column(name, table.c[name].type) for name in names]


staged_events = _scratch("staged_events", Column("staged_no", BigInteger), *_copy_of_events())
"""Rows of a batch of landing files, typed. ``staged_no`` tells equal rows apart."""


def staged_with(promoted: Sequence[Column[Any]]) -> Table:
    """``staged_events`` with the columns of promoted fields behind its own."""
    own = [Column(column.name, column.type, nullable=column.nullable) for column in staged_events.c]
    return Table(staged_events.name, MetaData(), *own, *promoted, prefixes=["TEMPORARY"])


conversation_scope = _scratch(
    "conversation_scope", Column("vendor", Text), Column("tenant_id", Text), Column("conversation_id", Text)
)
"""Conversations whose facts are wanted."""

queue_facts = _scratch(
    "queue_facts",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("conversation_id", Text),
    Column("kind", Text),  # offered, answered, abandoned, flowed_out, handled
    Column("at_ms", BigInteger),
    Column("event_id", Text),
    Column("queue_id", Text),
    Column("agent_id", Text),
    Column("media_type", Text),
    Column("outcome", Text),
    Column("wait_ms", BigInteger),  # NULL: unknown
    Column("talk_ms", BigInteger),
    Column("hold_ms", BigInteger),
    Column("acw_ms", BigInteger),
)
"""What completes at an instant, for the conversations in scope."""

queue_scope = _scratch(
    "queue_scope", Column("vendor", Text), Column("tenant_id", Text), Column("interval_ms", BigInteger)
)
"""Intervals of a tenant whose queue cells are rebuilt; unique."""

agent_scope = _scratch(
    "agent_scope",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("interval_ms", BigInteger),
)
"""Intervals of an agent whose cell is rebuilt; may repeat."""

agent_windows = _scratch(
    "agent_windows",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("from_ms", BigInteger),
    Column("to_ms", BigInteger),
)
"""``agent_scope`` as windows that do not overlap, of agents that ever reported a status."""

twin_scope = _scratch("twin_scope", Column("vendor", Text), Column("tenant_id", Text), Column("conversation_id", Text))
"""Conversations whose reconciled events are decided; unique."""

twin_pushed = _scratch(
    "twin_pushed",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("conversation_id", Text),
    Column("event_type", Text),
    Column("queue_id", Text),
    Column("agent_id", Text),
    Column("timestamp_ms", BigInteger),
    Column("event_id", Text),
)
"""Their events that were not reconciled."""

twin_members = _scratch(
    "twin_members",
    Column("group_no", BigInteger),  # same conversation, type, queue, agent
    Column("side", Text),  # reconciled, pushed
    Column("nth", BigInteger),  # by time, within group and side
    Column("at_ms", BigInteger),
    Column("event_id", Text),
)
"""Both sides, without those that share an id."""

twin_losers = _scratch("twin_losers", Column("event_id", Text))
"""Reconciled events that have a twin."""

usage_scope = _scratch("usage_scope", *_nullable_columns(tables.event_type_days, "vendor", "event_type", "day"))
"""Days of event types whose metadata fields are counted anew; unique."""

usage_counts = _scratch("usage_counts", *_nullable_copy(tables.metadata_field_usage), Column("nth", BigInteger))
"""The fields of those days; ``nth`` by events, within a type's day."""

failed_batch = _scratch("failed_batch", Column("no", BigInteger), *_nullable_copy(tables.failed_events))
"""What a load of failed events has read, by kind: counts to be added. ``no`` is unique."""

failed_groups = _scratch("failed_groups", *_nullable_copy(tables.failed_events))
"""The same with kinds beyond the bound put together; unique by kind and hour."""

replay_batch = _scratch("replay_batch", *_nullable_copy(tables.dead_letter_replays))
"""What replays told, by row of ``dead_letter_replays``: counts to be added."""


def renew(connection: sa.Connection, *wanted: Table) -> None:
    """Make the temporary tables anew, empty."""
    for table in wanted:
        drop(connection, table)
        table.create(connection, checkfirst=False)


def drop(connection: sa.Connection, *unwanted: Table) -> None:
    """Drop temporary tables if they are there."""
    for table in unwanted:
        connection.execute(sa.schema.DropTable(table, if_exists=True))


def analyze(connection: sa.Connection, *filled: Table) -> None:
    """Tell PostgreSQL's planner how large tables have become; nobody else does for temporary ones. DuckDB knows."""
    if connection.dialect.name == "postgresql":
        for table in filled:
            connection.execute(sa.text("ANALYZE " + connection.dialect.identifier_preparer.format_table(table)))


def analyze_grown(connection: sa.Connection, table: Table, rows: int) -> None:
    """The same for a permanent table that grew by a tenth and more: autovacuum comes too late for the next load."""
    if connection.dialect.name == "postgresql" and rows:
        known = sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)")
        if rows * 10 > connection.execute(known, {"name": table.name}).scalar_one():
            analyze(connection, table)
