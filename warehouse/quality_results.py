"""The hourly checks as a whole, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings
from warehouse import tables
from warehouse.checkpoint import Result, judge
from warehouse.completeness import BusCheck, compare_with_bus, note_reached
from warehouse.engine import Warehouse, reader, writer
from warehouse.frames import Frame, frames
from warehouse.retention import cuts
from warehouse.windows import Window

SUITE = "quality-checks"


@dataclass(frozen=True, slots=True)
class Checked:
    """A run's results.

    Attributes:
        window: Span of event time that was looked at.
        results: One an expectation.
        bus: The comparison with the bus, if there was one.
        not_compared: Why there was none although there should have been one; empty otherwise.
    """

    window: Window
    results: Sequence[Result]
    bus: BusCheck | None
    not_compared: str = ""


def check_tables(
    warehouse: Warehouse, settings: Settings, window: Window, *, now: datetime, bus_until: datetime | None
) -> Checked:
    """Have every expectation judged, on the readers' copy. Changes nothing.

    Args:
        warehouse: The warehouse, migrated, its readers' copy up to date.
        settings: Kafka and tenants for the comparison with the bus, and what retention keeps.
        window: Span of event time; its part that retention has deleted is left out.
        now: The run's scheduled time.
        bus_until: Records that were published before it are compared; None: no comparison.

    Without Kafka or the registry the tables are checked all the same.

    Raises:
        ServiceUnavailableError: the warehouse does not answer.
        WindowError: of the window nothing is kept.
    """
    window = _kept(settings, window)
    bus, not_compared = None, ""
    if bus_until is not None:
        try:
            bus = compare_with_bus(warehouse, settings, until=bus_until)
        except ServiceUnavailableError as error:
            not_compared = str(error)
    with reader(warehouse) as connection:
        results = judge(_all_frames(connection, warehouse, window, now, bus))
    return Checked(window, results, bus, not_compared)


def _all_frames(
    connection: sa.Connection, warehouse: Warehouse, window: Window, now: datetime, bus: BusCheck | None
) -> Iterator[Frame]:
    yield from frames(connection, warehouse, window, now)
    if bus is not None:
        yield bus.frame


def _kept(settings: Settings, window: Window) -> Window:
    """The part of the window of which everything is kept."""
    due = cuts(settings.retention, window.end)
    looked_at = [due[name] for name in ("events", "conversations", "intervals") if name in due]
    return Window(max(window.start, *looked_at), window.end) if looked_at else window


def record(warehouse: Warehouse, checked: Checked, *, run_id: str, checked_at: datetime, keep_days: int) -> None:
    """Keep a run's results, instead of those that an earlier attempt of it left; old ones are deleted.

    Args:
        warehouse: The warehouse.
        checked: What was found.
        run_id: The caller's id.
        checked_at: The run's scheduled time.
        keep_days: Results of earlier runs than that are deleted.

    Raises:
        WarehouseBusyError: a load kept the lock.
    """
    found = tables.quality_results
    common = {
        "run_id": run_id,
        "checked_at": checked_at,
        "suite": SUITE,
        "window_start": checked.window.start,
        "window_end": checked.window.end,
    }
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.delete(found).where(found.c.suite == SUITE, found.c.run_id == run_id))
        connection.execute(sa.insert(found), [common | _row(result) for result in checked.results])
        expire(connection, checked_at, keep_days)
        if checked.bus is not None:
            note_reached(connection, checked.bus.reached)


def expire(connection: sa.Connection, now: datetime, keep_days: int) -> None:
    """Delete results that are older, in the caller's transaction."""
    found = tables.quality_results
    connection.execute(sa.delete(found).where(found.c.checked_at < now - timedelta(days=keep_days)))


def _row(result: Result) -> dict[str, Any]:
    expectation = result.expectation
    return {
        "table_name": expectation.table,
        "expectation": expectation.name,
        "severity": expectation.severity,
        "status": result.status,
        "expected": expectation.expected,
        "observed": result.observed,
        "checked": result.checked,
        "unexpected": result.unexpected,
        "sample": result.sample or None,
    }
