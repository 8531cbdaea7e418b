"""Deployment load-wfm-intervals. `queue_intervals` and `agent_intervals`."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows._load import retry_while_down, run_id, scheduled_time, show_result, window_of
from streaming.settings import load_settings
from warehouse.ledger import LoadResult
from warehouse.load_intervals import load_wfm_intervals as load_window
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.schema import open_warehouse
from warehouse.windows import Window, floor


@flow(name="load-wfm-intervals")
def load_wfm_intervals(start: datetime | None = None, end: datetime | None = None) -> int:
    """Build interval cells. Idempotent for any window.

    Args:
        start: Start of a window to rebuild, UTC, on the interval grid. Empty: what new or late events touch.
        end: Its end, exclusive.

    Returns:
        Cells written.
    """
    result = _load(window_of(start, end))
    show_result(result)
    return result.rows


@retry_while_down
def _load(window: Window | None) -> LoadResult:
    with open_warehouse(load_settings()) as warehouse:
        if window is not None:
            return load_window(warehouse, window, run_id=run_id())
        horizon = floor(scheduled_time(), warehouse.interval_minutes)
        return load_wfm_intervals_incremental(warehouse, end=horizon, run_id=run_id())
