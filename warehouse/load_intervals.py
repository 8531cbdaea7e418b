"""Load ``queue_intervals`` and ``agent_intervals``: cells are deleted and built again from ``events``, never added to.

So a load is idempotent, and whatever the order in which events came, the same events give the same cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import sqlalchemy as sa

from streaming.instants import EPOCH, from_ms, to_ms
from warehouse import quality, scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.ledger import LoadResult, LoadRun, last_arrival, last_load, load_run
from warehouse.statements import run as execute
from warehouse.statements import statements
from warehouse.windows import Window, floor, require_grid, to_utc

_SCRATCH = (
    scratch.conversation_scope,
    scratch.queue_facts,
    scratch.queue_scope,
    scratch.agent_scope,
    scratch.agent_windows,
)

# Rebuilt at a time: a week of a large centre fits into DuckDB's memory limit; less would look back more often.
_CHUNK = timedelta(days=7)


def load_wfm_intervals(
    warehouse: Warehouse, window: Window, *, run_id: str, known_until: datetime | None = None
) -> LoadResult:
    """Rebuild every cell of a window, whatever was there.

    Does not move the horizon of the loads by arrival: these rebuild later what lies behind it.

    Args:
        warehouse: the warehouse, migrated.
        window: on the interval grid.
        run_id: the caller's id for the ledger.
        known_until: aware, on the grid or off it: agents' time after it is not known yet and in no cell, so a window
            that reaches past now invents none. Up to the horizon of the loads by arrival it is known in any case.
            None: a last status runs to the window's end.

    Raises:
        WindowError: a bound is off the grid, or ``known_until`` has no time zone.
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule is broken; the old cells stay.
    """
    window.require_grid(warehouse.interval_minutes)
    known = None if known_until is None else to_utc(known_until, "known_until")
    with writer(warehouse) as connection:
        _, horizon = last_arrival(connection, "wfm_intervals")
        connection.commit()
        if known and horizon:  # a run that was late must not take away what nobody would build again
            known = max(known, horizon)
        with load_run(connection, "wfm_intervals", "window", run_id, window) as run:
            _rebuild_range(connection, warehouse, run, window, to_ms(known) if known else None)
        return LoadResult(dataset="wfm_intervals", rows=run.rows, load_ids=(run.load_id,), window=window)


def load_wfm_intervals_incremental(warehouse: Warehouse, *, end: datetime, run_id: str) -> LoadResult:
    """Build the cells from the last load's horizon to ``end``, and rebuild those before it that newer events touch.

    An ``end`` before the horizon is no error (a run that was late): then only touched cells are rebuilt.

    Args:
        warehouse: the warehouse, migrated.
        end: new horizon, aware, on the grid: the scheduled time cut to the grid, so every interval before it is over.
        run_id: the caller's id for the ledger.

    Returns:
        ``rows`` 0 and no ``load_ids`` if nothing is new.

    Raises:
        WindowError: ``end`` is off the grid.
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule is broken; the old cells stay.
    """
    end = to_utc(end, "end")
    require_grid(end, warehouse.interval_minutes, "end")
    with writer(warehouse) as connection:
        through, horizon = last_arrival(connection, "wfm_intervals")
        newest = last_load(connection, "events")
        connection.commit()
        # After a change of interval_minutes the old horizon may lie within an interval: that one is built again.
        start = floor(horizon, warehouse.interval_minutes) if horizon else EPOCH
        if newest <= through and end <= start:
            return LoadResult(dataset="wfm_intervals", rows=0)
        fresh = Window(start, end) if end > start else None
        with load_run(connection, "wfm_intervals", "arrival", run_id) as run:
            run.window_start, run.window_end = start, max(start, end)
            run.through_load_id = newest
            if horizon:
                scratch.renew(connection, *_SCRATCH)
                _touch(connection, warehouse, through, newest, start)
                _rebuild(connection, warehouse, run)
            if fresh:
                _rebuild_range(connection, warehouse, run, fresh)
        return LoadResult(dataset="wfm_intervals", rows=run.rows, load_ids=(run.load_id,), window=fresh)


def _rebuild_range(
    connection: sa.Connection, warehouse: Warehouse, run: LoadRun, window: Window, known_ms: int | None = None
) -> None:
    """Rebuild everything in the window, some days at a time: that bounds memory, whatever the window."""
    bounds = {"range_start": window.start, "range_end": window.end}
    execute(connection, "intervals", "delete_queue_range", **bounds)
    execute(connection, "intervals", "delete_agent_range", **bounds)
    for chunk in _chunks(connection, warehouse, window):
        scratch.renew(connection, *_SCRATCH)
        values = {"from_ms": chunk.start_ms, "to_ms": chunk.end_ms, "step_ms": warehouse.step_ms}
        execute(connection, "intervals", "range_queues", **values)
        execute(connection, "intervals", "range_agents", **values)
        _rebuild(connection, warehouse, run, known_ms)


def _chunks(connection: sa.Connection, warehouse: Warehouse, window: Window) -> Iterator[Window]:
    """Cut a window at the ``_CHUNK`` grid; a stretch without events, where only statuses last, is one chunk.

    So one event dated 1970 costs one chunk more, not 2,800.
    """
    events = tables.events.c
    first = connection.execute(sa.select(sa.func.min(events.timestamp))).scalar()
    if first is None or first >= window.end:
        return  # nothing is known of the window or of a time before it
    begin = max(window.start, floor(first, warehouse.interval_minutes))
    size_ms = _CHUNK // timedelta(milliseconds=1)
    values = {"from_ms": window.start_ms, "to_ms": window.end_ms, "size_ms": size_ms}
    busy = connection.execute(statements("intervals")["busy_chunks"], values).scalars().all()
    cuts = {from_ms(number * size_ms) for chunk in busy for number in (chunk, chunk + 1)}
    points = sorted({begin, window.end, *(cut for cut in cuts if begin < cut < window.end)})
    for start, end in pairwise(points):
        yield Window(start, end)


def _touch(connection: sa.Connection, warehouse: Warehouse, through: int, newest: int, horizon: datetime) -> None:
    """Cells before the horizon, which is on the grid, that events of the loads in (through, newest] may change."""
    values = {
        "through": through,
        "newest": newest,
        "horizon_ms": to_ms(horizon),
        "step_ms": warehouse.step_ms,
        "longest_ms": warehouse.longest_status_ms,
    }
    for name in (
        "touch_conversations",
        "touch_queues",
        "touch_agents_by_legs",
        "touch_agents_by_status",
        "touch_agents_by_first_status",
        "agent_islands",
    ):
        execute(connection, "intervals", name, **values)
        scratch.analyze(connection, scratch.conversation_scope, scratch.agent_scope)


def _rebuild(connection: sa.Connection, warehouse: Warehouse, run: LoadRun, known_ms: int | None = None) -> None:
    """Delete the cells in scope, insert them anew, check. Agents' time ends at ``known_ms``, or with the scope."""
    scratch.analyze(connection, scratch.queue_scope, scratch.agent_windows)
    low_ms, high_ms = _bounds(connection, warehouse)
    values = {
        "low_ms": low_ms,
        "high_ms": high_ms,
        "known_ms": high_ms if known_ms is None else known_ms,
        "longest_ms": warehouse.longest_status_ms,
        "low": from_ms(low_ms),
        "high": from_ms(high_ms),
        "step_ms": warehouse.step_ms,
        "interval_minutes": warehouse.interval_minutes,
        "threshold_ms": warehouse.service_level_seconds * 1000,
    }
    scratch.renew(connection, scratch.conversation_scope)
    execute(connection, "intervals", "scope_conversations", **values)
    scratch.analyze(connection, scratch.conversation_scope)
    execute(connection, "facts", "insert")
    scratch.analyze(connection, scratch.queue_facts)
    execute(connection, "intervals", "delete_queues", **values)
    execute(connection, "intervals", "delete_agents", **values)
    run.rows += execute(connection, "intervals", "insert_queues", **values)
    run.rows += execute(connection, "intervals", "insert_agents", **values)
    quality.check(connection, "wfm_intervals", **values)
    scratch.drop(connection, *_SCRATCH)


def _bounds(connection: sa.Connection, warehouse: Warehouse) -> tuple[int, int]:
    """First and last instant of the scopes, epoch ms; (0, 0) if they are empty."""
    low, high = connection.execute(statements("intervals")["bounds"], {"step_ms": warehouse.step_ms}).one()
    return int(low or 0), int(high or 0)
