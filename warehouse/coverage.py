"""Coverage: which datasets are loaded for which spans of time, by what the ledger of loads says.

It tells what loads took account of, not whether a vendor sent everything: that is for reconciliation and the quality
checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from streaming.instants import EPOCH, from_ms, to_ms
from warehouse.ledger import Dataset
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window, ceil, floor

DATASETS: tuple[Dataset, ...] = (
    "events",
    "conversations",
    "wfm_intervals",
    "daily_analytics",
    "metadata_field_usage",
)
"""Those that are loaded by window, each after what it is made of."""

DAY = timedelta(days=1)


class State(StrEnum):
    """What the ledger says of a dataset in a span of time.

    ``LOADED``: successful loads cover all of it, and no event of its days came after them. ``PARTLY``: they cover a
    part, or events came since that no load has taken account of. ``MISSING``: no load covers any of it. ``FAILED``:
    of a part of it the latest load failed; what was there before is there still.
    """

    LOADED = "loaded"
    PARTLY = "partly"
    MISSING = "missing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Span:
    """One dataset in one span of time."""

    dataset: Dataset
    window: Window
    state: State


def coverage(connection: sa.Connection, window: Window) -> list[Span]:
    """Every dataset on every UTC day that the window touches, cut to the window; by dataset and day."""
    return _by_span(connection, window, floor(window.start, DAY_MINUTES), DAY)


def coverage_of_chunks(
    connection: sa.Connection,
    window: Window,
    size: timedelta,
    *,
    dataset: Dataset | None = None,
    loaded_since: datetime = EPOCH,
) -> list[Span]:
    """Every one of the window's chunks, as :meth:`~warehouse.windows.Window.chunks` cuts them.

    Args:
        connection: To the warehouse.
        window: Any.
        size: Of a chunk.
        dataset: Only this one. None: every one.
        loaded_since: Loads that began before it cover nothing.
    """
    return _by_span(connection, window, window.start, size, dataset=dataset, loaded_since=loaded_since)


def _by_span(
    connection: sa.Connection,
    window: Window,
    origin: datetime,
    size: timedelta,
    *,
    dataset: Dataset | None = None,
    loaded_since: datetime = EPOCH,
) -> list[Span]:
    days = Window(floor(window.start, DAY_MINUTES), ceil(window.end, DAY_MINUTES))
    values = {
        "first_day": days.start,
        "past_days": days.end,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "first_day_ms": days.start_ms,
        "past_days_ms": days.end_ms,
        "origin_ms": to_ms(origin),
        "size_ms": size // timedelta(milliseconds=1),
        "dataset": dataset,
        "loaded_since": loaded_since,
    }
    found = [
        Span(name, Window(from_ms(start), from_ms(end)), State(state))
        for name, start, end, state in connection.execute(statements("coverage")["by_span"], values)
    ]
    return sorted(found, key=lambda span: (DATASETS.index(span.dataset), span.window.start))


def stretches(spans: Iterable[Span]) -> list[Span]:
    """Neighbours in the same state as one span, in the given order."""
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else None
        if last and (last.dataset, last.state, last.window.end) == (span.dataset, span.state, span.window.start):
            found[-1] = Span(span.dataset, Window(last.window.start, span.window.end), span.state)
        else:
            found.append(span)
    return found
