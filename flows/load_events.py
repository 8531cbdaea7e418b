"""Deployment load-events. New landing files into `events`, once by event_id."""

from __future__ import annotations

from prefect import flow

from flows._load import run_id, show_result
from streaming.settings import load_settings
from warehouse.load_events import load_events as load
from warehouse.schema import open_warehouse


@flow(name="load-events", retries=2, retry_delay_seconds=15)
def load_events() -> int:
    """Load what has landed since the last run. Idempotent; two runs at once are safe.

    Returns:
        Rows loaded.
    """
    with open_warehouse(load_settings()) as warehouse:
        result = load(warehouse, run_id=run_id())
    show_result(result)
    return result.rows
