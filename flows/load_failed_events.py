"""Deployment load-failed-events. Dead letters and their replays into `failed_events`, counted once."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow

from flows._load import retry_while_down, run_id, scheduled_time, show_picture, show_result, show_table
from streaming.settings import load_settings
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.failures import BrokenKind, failures_png, what_broke
from warehouse.ledger import LoadResult
from warehouse.load_failed_events import load_failed_events as load
from warehouse.schema import open_warehouse
from warehouse.windows import Window, floor

# What a run shows: the day up to its scheduled time.
_SHOWN = timedelta(days=1)
_HOUR_MINUTES = 60


@flow(name="load-failed-events")
def load_failed_events() -> int:
    """Count what came to the dead-letter topics, and what replays made of it. Two runs at once are safe.

    Returns:
        Rows of `failed_events` written.
    """
    result = _load()
    show_result(result)
    end = floor(scheduled_time(), _HOUR_MINUTES) + timedelta(minutes=_HOUR_MINUTES)
    _show(Window(end - _SHOWN, end), is_new=bool(result.rows))
    return result.rows


@retry_while_down
def _load() -> LoadResult:
    settings = load_settings()
    with open_warehouse(settings) as warehouse:
        return load(warehouse, settings, run_id=run_id())


def _show(window: Window, *, is_new: bool) -> None:
    """What broke, from the readers' copy, so that no load waits for it."""
    warehouse = Warehouse.from_settings(load_settings())
    publish_read_copy(warehouse, force=is_new)  # else it would show the state before this load
    with reader(warehouse) as connection:
        kinds = what_broke(connection, window)
        png = failures_png(connection, window)
    show_table("what-broke", [_for_people(kind) for kind in kinds])
    show_picture("failures-per-hour", png, f"Dead letters per hour by reason, {window}")


def _for_people(kind: BrokenKind) -> dict[str, str | int]:
    return {
        "vendor": kind.vendor,
        "tenant": kind.tenant_id,
        "came by": kind.transport,
        "stage": kind.stage,
        "reason": kind.reason,
        "field": kind.path,
        "event type": kind.event_type,
        "dead letters": kind.events,
        "still open": kind.open,
        "parked": kind.parked,
        "first": f"{kind.first_seen:%Y-%m-%d %H:%M:%SZ}",
        "last": f"{kind.last_seen:%Y-%m-%d %H:%M:%SZ}",
        "what is wrong": kind.message or "",
    }
