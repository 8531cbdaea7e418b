"""Deployment load-events. New landing files into `events`, once by event_id."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows._load import retry_while_down, run_id, show_result, window_of
from streaming.settings import load_settings
from warehouse.ledger import LoadResult
from warehouse.load_events import load_events as load
from warehouse.load_events import load_events_window
from warehouse.schema import open_warehouse
from warehouse.windows import Window


@flow(name="load-events")
def load_events(start: datetime | None = None, end: datetime | None = None) -> int:
    """Load landing files. Idempotent; two runs at once are safe.

    Args:
        start: Start of a window of event time to load anew from all landing files, UTC. Empty: what landed since the
            last run.
        end: Its end, exclusive.

    Returns:
        Rows loaded.
    """
    result = _load(window_of(start, end))
    show_result(result)
    return result.rows


@retry_while_down
def _load(window: Window | None) -> LoadResult:
    with open_warehouse(load_settings()) as warehouse:
        if window is None:
            return load(warehouse, run_id=run_id())
        return load_events_window(warehouse, window, run_id=run_id())
