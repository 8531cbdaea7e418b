"""Deployment load-wfm-intervals. `queue_intervals` and `agent_intervals`."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import flow, get_run_logger

from flows._load import retry_while_down, run_id, scheduled_time, show_picture, show_result, show_table, window_of
from streaming.settings import load_settings
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.ledger import LoadResult
from warehouse.load_intervals import load_wfm_intervals as load_window
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.pictures import QueueSummary, offered_answered_png, queue_summaries
from warehouse.schema import open_warehouse
from warehouse.service_picture import occupancy_png, service_level_png
from warehouse.windows import Window, floor

# What a scheduled run shows: the day up to its scheduled time.
_SHOWN = timedelta(days=1)


@flow(name="load-wfm-intervals")
def load_wfm_intervals(start: datetime | None = None, end: datetime | None = None) -> int:
    """Build interval cells. Idempotent for any window.

    Args:
        start: Start of a window to rebuild, UTC, on the interval grid. Empty: what new or late events touch.
        end: Its end, exclusive.

    Returns:
        Cells written.
    """
    window = window_of(start, end)
    result = _load(window)
    show_result(result)
    try:
        _show(window or Window(scheduled_time() - _SHOWN, scheduled_time()))
    except Exception:  # noqa: BLE001 (the cells are there: a picture that fails does not make their load a failed one)
        get_run_logger().exception("the load succeeded, but what it loaded can't be shown")
    return result.rows


@retry_while_down
def _show(window: Window) -> None:
    """Pictures and tables from the readers' copy, so that no load waits for them."""
    settings = load_settings()
    warehouse = Warehouse.from_settings(settings)
    publish_read_copy(warehouse, force=True)  # else it would show the state before this load
    minutes = warehouse.interval_minutes
    with reader(warehouse) as connection:
        png = offered_answered_png(connection, window)
        service_level = service_level_png(
            connection,
            window,
            interval_minutes=minutes,
            threshold_seconds=warehouse.service_level_seconds,
            goal=settings.warehouse.service_level_goal,
        )
        occupancy = occupancy_png(connection, window, interval_minutes=minutes)
        queues = queue_summaries(connection, window)
    show_picture("offered-answered", png, f"Contacts offered, answered and abandoned, {window}")
    show_picture("service-level", service_level, f"Service level of the busiest queues, {window}")
    show_picture("occupancy", occupancy, f"Occupancy of the tenants' agents, {window}")
    show_table("queues", [_for_people(queue) for queue in queues])


def _for_people(queue: QueueSummary) -> dict[str, str | int]:
    return {
        "vendor": queue.vendor,
        "tenant": queue.tenant_id,
        "queue": queue.queue_id,
        "offered": queue.offered,
        "answered": queue.answered,
        "abandoned": queue.abandoned,
        "abandoned %": _percent(queue.abandon_rate),
        "service level": _percent(queue.service_level),
        "ASA s": _seconds(queue.asa_ms),
        "AHT s": _seconds(queue.aht_ms),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _seconds(ms: float | None) -> str:
    return "" if ms is None else f"{ms / 1000:.0f}"


@retry_while_down
def _load(window: Window | None) -> LoadResult:
    with open_warehouse(load_settings()) as warehouse:
        if window is not None:
            # What nobody can know yet, an agent's status after now, makes no time.
            return load_window(warehouse, window, run_id=run_id(), known_until=scheduled_time())
        horizon = floor(scheduled_time(), warehouse.interval_minutes)
        return load_wfm_intervals_incremental(warehouse, end=horizon, run_id=run_id())
