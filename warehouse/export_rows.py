"""Rows of the interval files: cells in seconds, with the rates that WFM tools take, in the order of time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from warehouse.statements import statements

_AT_A_TIME = 20_000  # rows in memory
_INSTANT = pa.timestamp("ms", tz="UTC")

QUEUES = pa.schema(
    [
        ("interval_start", _INSTANT),
        ("interval_minutes", pa.int32()),
        ("queue_id", pa.string()),
        ("queue_name", pa.string()),
        ("media_type", pa.string()),
        ("offered", pa.int64()),
        ("answered", pa.int64()),
        ("answered_in_threshold", pa.int64()),
        ("abandoned", pa.int64()),
        ("flowed_out", pa.int64()),
        ("handled", pa.int64()),
        ("handle_s", pa.float64()),
        ("talk_s", pa.float64()),
        ("hold_s", pa.float64()),
        ("acw_s", pa.float64()),
        ("wait_answered_s", pa.float64()),
        ("wait_abandoned_s", pa.float64()),
        ("aht_s", pa.float64()),
        ("asa_s", pa.float64()),
        ("service_level", pa.float64()),
        ("abandon_rate", pa.float64()),
    ]
)
"""Columns of ``queue-intervals``."""

AGENTS = pa.schema(
    [
        ("interval_start", _INSTANT),
        ("interval_minutes", pa.int32()),
        ("agent_id", pa.string()),
        ("agent_name", pa.string()),
        ("staffed_s", pa.float64()),
        ("occupied_s", pa.float64()),
        ("available_s", pa.float64()),
        ("communicating_s", pa.float64()),
        ("not_responding_s", pa.float64()),
        ("off_queue_s", pa.float64()),
        ("handled", pa.int64()),
        ("occupancy", pa.float64()),
    ]
)
"""Columns of ``agent-intervals``."""


def queue_tables(
    connection: sa.Connection, values: Mapping[str, object], minutes: int
) -> Generator[pa.Table, None, None]:
    """Rows of :data:`QUEUES`, some thousands at a time; ``values`` are those of ``queue_rows``."""
    for start, queue, name, media, *sums in _batches(connection, "queue_rows", values):
        numbers = [pa.array(column, pa.int64()) for column in sums]
        offered, answered, within, abandoned, flowed_out, handled, talk, hold, acw, waited, waited_in_vain = numbers
        handle = pc.add(pc.add(talk, hold), acw)
        columns = [
            pa.array(start, pa.int64()).cast(_INSTANT),
            pa.array([minutes] * len(start), pa.int32()),
            pa.array(queue, pa.string()),
            pa.array(name, pa.string()),
            pa.array(media, pa.string()),
            *(offered, answered, within, abandoned, flowed_out, handled),
            *(_seconds(column) for column in (handle, talk, hold, acw, waited, waited_in_vain)),
            _ratio(_seconds(handle), handled, 3),
            _ratio(_seconds(waited), answered, 3),
            _ratio(within, answered, 6),
            _ratio(abandoned, offered, 6),
        ]
        yield pa.table(columns, schema=QUEUES)


def agent_tables(
    connection: sa.Connection, values: Mapping[str, object], minutes: int
) -> Generator[pa.Table, None, None]:
    """Rows of :data:`AGENTS`, some thousands at a time; ``values`` are those of ``agent_rows``."""
    for start, agent, name, *sums in _batches(connection, "agent_rows", values):
        numbers = [pa.array(column, pa.int64()) for column in sums]
        interacting, communicating, idle, not_responding, off_queue, handled = numbers
        reachable = pc.add(pc.add(interacting, communicating), idle)
        columns = [
            pa.array(start, pa.int64()).cast(_INSTANT),
            pa.array([minutes] * len(start), pa.int32()),
            pa.array(agent, pa.string()),
            pa.array(name, pa.string()),
            _seconds(pc.add(reachable, not_responding)),
            *(_seconds(column) for column in (interacting, idle, communicating, not_responding, off_queue)),
            handled,
            _ratio(interacting, reachable, 6),
        ]
        yield pa.table(columns, schema=AGENTS)


def _batches(connection: sa.Connection, statement: str, values: Mapping[str, object]) -> Iterator[list[Sequence[Any]]]:
    """The statement's rows as columns, some thousands at a time."""
    bound = statements("export")[statement]
    given = {name: values[name] for name in bound._bindparams}  # it has no public list of them
    with connection.execute(bound, given, execution_options={"stream_results": True}) as result:
        while rows := result.fetchmany(_AT_A_TIME):
            yield list(zip(*rows, strict=True))


def _seconds(ms: pa.Array) -> pa.Array:
    """Exact to the millisecond: a double divided by 1000 is the nearest to the decimal, and is written as it."""
    return pc.divide(ms.cast(pa.float64()), 1000.0)


def _ratio(part: pa.Array, whole: pa.Array, digits: int) -> pa.Array:
    """The share, or nothing where the whole is 0."""
    known = pc.if_else(pc.equal(whole, 0), None, whole).cast(pa.float64())
    return pc.round(pc.divide(part.cast(pa.float64()), known), digits)
