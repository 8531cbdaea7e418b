"""Deployment coverage. Which datasets of the warehouse are loaded for which days."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows._load import retry_while_down, scheduled_time, show_picture, show_table
from streaming.settings import load_settings
from warehouse.coverage import Span, State, stretches
from warehouse.coverage import coverage as coverage_of
from warehouse.coverage_picture import coverage_png
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.schema import migrate
from warehouse.windows import DAY_MINUTES, Window, floor

_MOST_SHOWN = 300
"""Rows of a table: one of thousands does not open in the UI."""


@flow(name="coverage")
def coverage(days: Annotated[int, Field(ge=1, le=1000)] = 60) -> dict[str, int]:
    """Show what is loaded, by dataset and UTC day.

    Args:
        days: So many, up to the last whole one before the scheduled time.

    Returns:
        Days of each state, of all datasets together.
    """
    migrate(Warehouse.from_settings(load_settings()))
    end = floor(scheduled_time(), DAY_MINUTES)
    spans = retry_while_down(show_coverage)(Window(end - timedelta(days=days), end))
    return {str(state): sum(span.state is state for span in spans) for state in State}


def show_coverage(window: Window) -> list[Span]:
    """Table and picture of what is loaded now, from the readers' copy."""
    warehouse = Warehouse.from_settings(load_settings())
    publish_read_copy(warehouse, force=True)  # else it would show the state before the last loads
    with reader(warehouse) as connection:
        spans = coverage_of(connection, window)
    rows = [_for_people(span) for span in stretches(spans)]
    more = [{"dataset": f"and {len(rows) - _MOST_SHOWN} more"}] if len(rows) > _MOST_SHOWN else []
    show_table("coverage-days", rows[:_MOST_SHOWN] + more)
    show_picture("coverage", coverage_png(spans, window), f"What is loaded, by dataset and day, {window}")
    return spans


def _for_people(span: Span) -> dict[str, str]:
    return {
        "dataset": span.dataset,
        "from": f"{span.window.start:%Y-%m-%d %H:%MZ}",
        "to": f"{span.window.end:%Y-%m-%d %H:%MZ}",
        "state": span.state,
    }
