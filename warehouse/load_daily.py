"""Load ``daily_analytics``: a tenant's touched days are deleted and built again, never added to.

Metrics of the queue come from the same facts as ``queue_intervals``, so a day's sums are its cells' sums.
"""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from streaming.instants import DAY_MS, from_ms
from warehouse import expired, quality, scratch
from warehouse.engine import Warehouse, writer
from warehouse.facts import insert_facts
from warehouse.ledger import LoadResult, LoadRun, last_arrival, load_run
from warehouse.statements import run as execute
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window

# Built at a time, as for the interval cells: a week of a large centre fits into DuckDB's memory limit.
_CHUNK_MS = 7 * DAY_MS
# No event is dated later: the end of the year 9999.
_END_MS = 253_402_300_800_000


def load_daily_analytics(warehouse: Warehouse, window: Window | None = None, *, run_id: str) -> LoadResult:
    """Rebuild days, by arrival or by window. Again changes nothing.

    What is counted by conversation is taken from ``conversations``. So the loads by arrival follow
    :func:`~warehouse.load_conversations.load_conversations`: events that it has not taken account of come with a later
    load. A load by window takes the rows of ``conversations`` as they are.

    Args:
        warehouse: the warehouse, migrated.
        window: the UTC days that it touches, whole. None: days that new events change, which may be older ones (a
            wrap-up that is late) or the next one (a call of the same caller, now a repeated one).
        run_id: the caller's id for the ledger.

    Returns:
        ``rows`` 0 and no ``load_ids`` if by arrival nothing is new.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule is broken; the old rows stay.
    """
    with writer(warehouse) as connection:
        if window:
            window = window.widened(DAY_MINUTES)
            with load_run(connection, "daily_analytics", "window", run_id, window) as run:
                scratch.renew(connection, scratch.daily_scope)
                _scope_range(connection, window.start_ms, window.end_ms)
                _rebuild(connection, warehouse, run)
        else:
            through, _ = last_arrival(connection, "daily_analytics")
            newest, _ = last_arrival(connection, "conversations")
            connection.commit()
            if newest <= through:
                return LoadResult(dataset="daily_analytics", rows=0)
            with load_run(connection, "daily_analytics", "arrival", run_id) as run:
                run.through_load_id = newest
                scratch.renew(connection, scratch.daily_scope)
                if through:
                    _touch(connection, through, newest)
                else:  # everything is new
                    _scope_range(connection, 0, _END_MS)
                _rebuild(connection, warehouse, run)
        return LoadResult(dataset="daily_analytics", rows=run.rows, load_ids=(run.load_id,), window=window)


def _scope_range(connection: sa.Connection, low_ms: int, high_ms: int) -> None:
    """Days of a span between two midnights."""
    execute(connection, "daily", "range_days", day_ms=DAY_MS, **_span(low_ms, high_ms))


def _span(low_ms: int, high_ms: int) -> dict[str, int | date]:
    """A span of whole days as epoch ms (half-open) and as dates (the last one inclusive)."""
    last_ms = min(high_ms, _END_MS) - DAY_MS
    return {
        "low_ms": low_ms,
        "high_ms": high_ms,
        "first_day": from_ms(low_ms).date(),
        "last_day": from_ms(last_ms).date(),
    }


def _touch(connection: sa.Connection, through: int, newest: int) -> None:
    """Days that events of the loads in (through, newest] may change."""
    scratch.renew(connection, scratch.conversation_scope)
    execute(connection, "conversations", "touch_arrival", through=through, newest=newest)
    scratch.analyze(connection, scratch.conversation_scope)
    _add_relatives(connection, "masters_ever")
    scratch.analyze(connection, scratch.conversation_scope)
    execute(connection, "daily", "touch_days", day_ms=DAY_MS)


def _add_relatives(connection: sa.Connection, masters: str) -> None:
    """Take the contacts with the same master contact into the scope, too."""
    scratch.renew(connection, scratch.master_scope)
    execute(connection, "daily", masters)
    scratch.analyze(connection, scratch.master_scope)
    execute(connection, "daily", "relatives")
    scratch.drop(connection, scratch.master_scope)


def _rebuild(connection: sa.Connection, warehouse: Warehouse, run: LoadRun) -> None:
    """The days in scope, some at a time: that bounds memory, whatever the scope."""
    expired.shield_days(connection)
    scratch.analyze(connection, scratch.daily_scope)
    values = {"day_ms": DAY_MS, "threshold_ms": warehouse.service_level_seconds * 1000}
    for number in connection.execute(statements("daily")["chunks"], {"size_ms": _CHUNK_MS}).scalars().all():
        span = _span(number * _CHUNK_MS, (number + 1) * _CHUNK_MS)
        scratch.renew(connection, scratch.conversation_scope, scratch.queue_facts)
        execute(connection, "daily", "scope_conversations", **values, **span)
        scratch.analyze(connection, scratch.conversation_scope)
        _add_relatives(connection, "masters")
        insert_facts(connection)
        execute(connection, "daily", "delete", **span)
        run.rows += execute(connection, "daily", "insert", **values, **span)
        quality.check(connection, "daily_analytics", **values, **span)
    scratch.drop(connection, scratch.daily_scope, scratch.conversation_scope, scratch.queue_facts)
