"""Load ``queue_intervals`` and ``agent_intervals``: cells are deleted and built again from ``events``, never added to.

So a load is idempotent, and whatever the order in which events came, the same events give the same cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise

import sqlalchemy as sa

from streaming.instants import DAY_MS, EPOCH, from_ms, to_ms
from warehouse import expired, quality, scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.facts import insert_facts
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
    scratch.touched_events,
    scratch.fresh_agents,
    scratch.statuses_before,
    scratch.windows_left,
)

# Rebuilt at a time: a week, or fewer days if agents have more cells in it, for DuckDB's memory limit. Less would look
# back more often.
_AGENT_CELLS = 3_000_000
_CHUNK_DAYS = 7


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
    known = expired.not_expired(connection, window)
    if known is None:
        return
    window = known
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
    """Cut a window at a grid of some days; a stretch without events, where only statuses last, is one chunk.

    So one event dated 1970 costs one chunk more, not 2,800.
    """
    events = tables.events.c
    first = connection.execute(sa.select(sa.func.min(events.timestamp))).scalar()
    if first is None or first >= window.end:
        return  # nothing is known of the window or of a time before it
    begin = max(window.start, floor(first, warehouse.interval_minutes))
    size_ms = _chunk_days(connection, warehouse) * DAY_MS
    values = {"from_ms": window.start_ms, "to_ms": window.end_ms, "size_ms": size_ms}
    busy = connection.execute(statements("intervals")["busy_chunks"], values).scalars().all()
    cuts = {from_ms(number * size_ms) for chunk in busy for number in (chunk, chunk + 1)}
    points = sorted({begin, window.end, *(cut for cut in cuts if begin < cut < window.end)})
    for start, end in pairwise(points):
        yield Window(start, end)


def _chunk_days(connection: sa.Connection, warehouse: Warehouse) -> int:
    agents = int(connection.execute(statements("intervals")["count_agents"]).scalar_one())
    a_day = agents * DAY_MS // warehouse.step_ms
    return min(max(_AGENT_CELLS // max(a_day, 1), 1), _CHUNK_DAYS)


def _touch(connection: sa.Connection, warehouse: Warehouse, through: int, newest: int, horizon: datetime) -> None:
    """Cells before the horizon, which is on the grid, that events of the loads in (through, newest] may change."""
    values = {
        "through": through,
        "newest": newest,
        "horizon_ms": to_ms(horizon),
        "step_ms": warehouse.step_ms,
        "longest_ms": warehouse.longest_status_ms,
    }
    execute(connection, "intervals", "touch_conversations", **values)
    scratch.analyze(connection, scratch.conversation_scope)
    for name in ("touched_events", "touch_queues", "touch_agents_by_legs", "fresh_agents"):
        execute(connection, "intervals", name, **values)
    scratch.analyze(connection, scratch.fresh_agents)
    fresh = connection.execute(statements("intervals")["earliest_fresh"]).one()
    if fresh.from_ms is not None:
        execute(connection, "intervals", "touch_agents_by_status", **values, fresh_ms=fresh.from_ms)
    if fresh.agents:
        execute(connection, "intervals", "touch_agents_by_first_status", **values)
    scratch.analyze(connection, scratch.agent_scope)
    execute(connection, "intervals", "agent_islands", **values)


def _rebuild(connection: sa.Connection, warehouse: Warehouse, run: LoadRun, known_ms: int | None = None) -> None:
    """Delete the cells in scope, insert them anew, check. Agents' time ends at ``known_ms``, or with the scope."""
    expired.shield_cells(connection)
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
    insert_facts(connection)
    execute(connection, "intervals", "delete_queues", **values)
    execute(connection, "intervals", "delete_agents", **values)
    run.rows += execute(connection, "intervals", "insert_queues", **values)
    _statuses_before(connection, values)
    run.rows += execute(connection, "intervals", "insert_agents", **values)
    quality.check(connection, "wfm_intervals", **values)
    scratch.drop(connection, *_SCRATCH)


def _statuses_before(connection: sa.Connection, values: Mapping[str, object]) -> None:
    """In which status agents enter their windows. Only for those that were silent for long, all of the past is read."""
    for name in ("recent_statuses", "without_status"):
        execute(connection, "intervals", name, **values)
    if connection.execute(statements("intervals")["count_left"]).scalar_one():
        execute(connection, "intervals", "older_statuses", **values)
    scratch.analyze(connection, scratch.statuses_before)


def _bounds(connection: sa.Connection, warehouse: Warehouse) -> tuple[int, int]:
    """First and last instant of the scopes, epoch ms; (0, 0) if they are empty."""
    low, high = connection.execute(statements("intervals")["bounds"], {"step_ms": warehouse.step_ms}).one()
    return int(low or 0), int(high or 0)
