"""Load ``conversations``: the rows of touched conversations are deleted and built again from all their events."""

from __future__ import annotations

import sqlalchemy as sa

from warehouse import expired, quality, scratch, tables
from warehouse.engine import Warehouse, writer
from warehouse.facts import insert_facts
from warehouse.ledger import LoadResult, LoadRun, last_arrival, last_load, load_run
from warehouse.statements import run as execute
from warehouse.windows import Window


def load_conversations(warehouse: Warehouse, window: Window | None = None, *, run_id: str) -> LoadResult:
    """Rebuild rows of conversations, by arrival or by window. Again changes nothing.

    Args:
        warehouse: the warehouse, migrated.
        window: conversations with an event in it; any bounds. None: conversations with events that are new.
        run_id: the caller's id for the ledger.

    Returns:
        ``rows`` 0 and no ``load_ids`` if by arrival nothing is new.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule is broken; the old rows stay.
    """
    with writer(warehouse) as connection:
        if window:
            with load_run(connection, "conversations", "window", run_id, window) as run:
                scratch.renew(connection, scratch.conversation_scope, scratch.queue_facts)
                bounds = {
                    "start_ms": window.start_ms,
                    "end_ms": window.end_ms,
                    "start": window.start,
                    "end": window.end,
                }
                execute(connection, "conversations", "touch_window", **bounds)
                _rebuild(connection, run)
        else:
            through, _ = last_arrival(connection, "conversations")
            newest = last_load(connection, "events")
            connection.commit()
            if newest <= through:
                return LoadResult(dataset="conversations", rows=0)
            with load_run(connection, "conversations", "arrival", run_id) as run:
                run.through_load_id = newest
                scratch.renew(connection, scratch.conversation_scope, scratch.queue_facts)
                execute(connection, "conversations", "touch_arrival", through=through, newest=newest)
                _rebuild(connection, run)
        return LoadResult(dataset="conversations", rows=run.rows, load_ids=(run.load_id,), window=window)


def _rebuild(connection: sa.Connection, run: LoadRun) -> None:
    expired.shield_conversations(connection)
    insert_facts(connection)
    execute(connection, "conversations", "delete")
    run.rows = execute(connection, "conversations", "insert")
    quality.check(connection, "conversations")
    scratch.analyze_grown(connection, tables.conversations, run.rows)
    scratch.drop(connection, scratch.conversation_scope, scratch.queue_facts)
