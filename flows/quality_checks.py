"""Deployment quality-checks. Every table against what is expected of it, and the events against the bus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect import flow
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, run_id, scheduled_time, show_table, window_of
from streaming.errors import CcaasError
from streaming.settings import load_settings
from warehouse.checkpoint import Result
from warehouse.engine import publish_read_copy
from warehouse.errors import first_of
from warehouse.quality_results import Checked, check_tables, record
from warehouse.schema import open_warehouse
from warehouse.windows import Window, floor

FAILED = "ccaas.quality.failed"
"""Event raised when a critical check does not hold."""

_REMEDY = (
    "See SELECT * FROM quality_results WHERE status = 'failed' ORDER BY checked_at DESC; docs/quality.md says of each "
    "check what to do."
)
_MOST_NAMES = 10


@flow(name="quality-checks")
def quality_checks(
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    look_back_days: int = 7,
    settle_minutes: int = 60,
) -> int:
    """Check the tables, and keep the results in `quality_results`.

    Args:
        start: Event time, UTC. Empty: the look-back before the scheduled time; events are then compared with the bus.
        end: Exclusive.
        look_back_days: Length of a scheduled run's window.
        settle_minutes: A scheduled run's window ends so long before its time: by then everything should be loaded.

    Returns:
        Checks that hold.

    Raises:
        CcaasError: a critical check does not hold; the results are kept.
    """
    window = window_of(start, end)
    by_hand = window is not None
    if window is None:
        until = scheduled_time() - timedelta(minutes=settle_minutes)
        window = Window(until - timedelta(days=look_back_days), until)
    checked = _check(window, None if by_hand else window.end)
    show_table("quality-checks", [_for_people(result) for result in _worst_first(checked.results)])
    failed = [_name(result) for result in checked.results if result.status == "failed"]
    if checked.not_compared:
        failed.append(f"events, every record of the bus is here (not compared: {checked.not_compared})")
    if failed:
        _tell(failed, checked)
        msg = f"{len(failed)} of {len(checked.results)} checks do not hold: {first_of(failed, _MOST_NAMES)}. {_REMEDY}"
        raise CcaasError(msg)
    return len(checked.results)


@retry_while_down
def _check(window: Window, bus_until: datetime | None) -> Checked:
    settings = load_settings()
    with open_warehouse(settings) as warehouse:
        # Bounds on the grid: a cell is within the window or is not.
        window = Window(floor(window.start, warehouse.interval_minutes), floor(window.end, warehouse.interval_minutes))
        publish_read_copy(warehouse, force=True)  # what was loaded a moment ago must be there
        checked = check_tables(warehouse, settings, window, now=scheduled_time(), bus_until=bus_until)
        record(
            warehouse,
            checked,
            run_id=run_id(),
            checked_at=scheduled_time(),
            keep_days=settings.quality.keep_days,
        )
    return checked


def _tell(failed: Sequence[str], checked: Checked) -> None:
    emit_event(
        event=FAILED,
        resource={
            "prefect.resource.id": "ccaas.warehouse",
            "prefect.resource.name": "warehouse",
            ALERT_KEY: FAILED,
        },
        payload={
            "title": "the warehouse's tables are not as they should be",
            "summary": f"{len(failed)} of {len(checked.results)} checks do not hold: {'; '.join(failed[:_MOST_NAMES])}",
            "window": str(checked.window),
            "remedy": _REMEDY,
        },
    )


def _name(result: Result) -> str:
    return f"{result.expectation.table}, {result.expectation.name} ({result.observed})"


def _worst_first(results: Sequence[Result]) -> list[Result]:
    order = {"failed": 0, "warning": 1, "passed": 2}
    return sorted(results, key=lambda result: order[result.status])


def _for_people(result: Result) -> dict[str, str | int]:
    expectation = result.expectation
    return {
        "table": expectation.table,
        "check": expectation.name,
        "result": result.status,
        "expected": expectation.expected,
        "observed": result.observed,
        "looked at": result.checked,
        "not as expected": result.unexpected,
        "among them": result.sample,
    }
