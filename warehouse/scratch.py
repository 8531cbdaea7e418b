"""Temporary tables of the loads: they live in the writer's connection and vanish with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, MetaData, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler

from streaming.batches import batched
from warehouse import tables
from warehouse.statements import statements

_metadata = MetaData()

_INSERTED = 500  # rows of one INSERT: PostgreSQL binds 65,535 values at most


class CreateView(sa.schema.ExecutableDDLElement):
    """A temporary view under a temporary table's name; ``select`` is SQL without parameters."""

    inherit_cache = False

    def __init__(self, table: Table, select: str) -> None:
        self.table = table
        self.select = select


@compiles(CreateView)
def _create_view(element: CreateView, compiler: DDLCompiler, **_: object) -> str:
    name = compiler.preparer.format_table(element.table)
    return f"CREATE TEMPORARY VIEW {name} AS {element.select}"


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
"""Rows of a batch of landing files, typed; on DuckDB a view of the files. ``staged_no`` tells equal rows apart."""

maybe_known = _scratch(
    "maybe_known", Column("staged_no", BigInteger), Column("event_key", BigInteger), Column("event_id", Text)
)
"""Staged rows whose ``event_key`` is in ``events``."""

passed_over = _scratch("passed_over", Column("staged_no", BigInteger))
"""Staged rows that are not inserted: repeats of others, or of rows in ``events``; may repeat."""


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
    Column("left_ms", BigInteger),  # of a leg: when the agent left the conversation, before the wrap-up
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

touched_events = _scratch(
    "touched_events",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("event_type", Text),
    Column("timestamp_ms", BigInteger),
)
"""What there is, and was, of the conversations in scope."""

fresh_agents = _scratch(
    "fresh_agents",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("from_ms", BigInteger),
)
"""Agents with a status that is new; unique."""

statuses_before = _scratch(
    "statuses_before",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("from_ms", BigInteger),
    Column("agent_status", Text),
    Column("timestamp_ms", BigInteger),
    Column("event_id", Text),
)
"""Of windows in ``agent_windows`` the latest status before their start; unique by agent and ``from_ms``."""

windows_left = _scratch(
    "windows_left",
    Column("vendor", Text),
    Column("tenant_id", Text),
    Column("agent_id", Text),
    Column("from_ms", BigInteger),
)
"""Windows for which that is still to be found."""

daily_scope = _scratch("daily_scope", Column("vendor", Text), Column("tenant_id", Text), Column("day_ms", BigInteger))
"""Days of a tenant, epoch ms of their start, whose daily analytics are rebuilt; unique."""

master_scope = _scratch("master_scope", Column("vendor", Text), Column("tenant_id", Text), Column("master_id", Text))
"""Master contacts of the conversations in scope; unique."""

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


def _is_view(connection: sa.Connection, table: Table) -> bool:
    """Whether a temporary table's name is a view's."""
    kind = sa.text("SELECT table_type FROM information_schema.tables WHERE table_name = :name")
    return connection.execute(kind, {"name": table.name}).scalar() == "VIEW"


def own_rows(connection: sa.Connection) -> None:
    """Make ``staged_events`` a table, whose rows can be deleted and updated: on DuckDB it may be a view of files."""
    if _is_view(connection, staged_events):
        for statement in ("own_rows", "drop_view", "rename"):
            connection.execute(statements("landing")[statement])


def drop_staged(connection: sa.Connection) -> None:
    """Drop ``staged_events`` if it is there, whatever it is."""
    if _is_view(connection, staged_events):
        connection.execute(statements("landing")["drop_view"])
    else:
        drop(connection, staged_events)


def drop(connection: sa.Connection, *unwanted: Table) -> None:
    """Drop temporary tables if they are there."""
    for table in unwanted:
        connection.execute(sa.schema.DropTable(table, if_exists=True))


def insert_rows(connection: sa.Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, several in a statement: DuckDB takes 1 ms for each that comes alone."""
    for part in batched(rows, lambda _: 1, _INSERTED):
        connection.execute(sa.insert(table).values(part))


def fill(connection: sa.Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make a temporary table anew, of these rows."""
    renew(connection, table)
    insert_rows(connection, table, rows)
    analyze(connection, table)


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
