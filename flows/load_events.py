"""Deployment load-events. New landing files into `events`, once by event_id."""

from __future__ import annotations

from prefect import flow

from flows._load import retry_while_down, run_id, show_result
from streaming.settings import load_settings
from warehouse.ledger import LoadResult
from warehouse.load_events import load_events as load
from warehouse.schema import open_warehouse


@flow(name="load-events")
def load_events() -> int:
    """Load what has landed since the last run. Idempotent; two runs at once are safe.

    Returns:
        Rows loaded.
    """
    result = _load()
    show_result(result)
    return result.rows


@retry_while_down
def _load() -> LoadResult:
    with open_warehouse(load_settings()) as warehouse:
        return load(warehouse, run_id=run_id())
