"""What broke, for people: sums and a picture from a read connection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from warehouse.pictures import INK, MUTED, day_number, new_figure, png_of, span_text, time_axis
from warehouse.statements import statements
from warehouse.windows import Window

# Most frequent reason first; the last colour is for what is left.
_COLOURS = ("#c8553d", "#1f5f8b", "#e0a458", "#6a994e", "#7d5ba6", "#4d908e")
_REST = "#9db4c8"
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class BrokenKind:
    """Dead letters of one kind over a window; ``open`` are those that nothing was done about."""

    vendor: str
    tenant_id: str
    transport: str
    stage: str
    reason: str
    path: str
    event_type: str
    events: int
    open: int
    parked: int
    first_seen: datetime
    last_seen: datetime
    message: str | None


def what_broke(connection: sa.Connection, window: Window, *, top: int = 20) -> list[BrokenKind]:
    """The most frequent kinds of failure, by the hour of the failure.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: whole hours.
        top: at most so many.
    """
    values = {"start": window.start, "end": window.end, "top": top}
    return [BrokenKind(*row) for row in connection.execute(statements("failed_events")["what_broke"], values)]


def failures_png(connection: sa.Connection, window: Window) -> bytes:
    """Dead letters per hour, stacked by reason.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: what to show, whole hours; at most a few days stay readable.

    Returns:
        A PNG of 1430 x 598 pixels; without any failure it says so.
    """
    values = {"start": window.start, "end": window.end}
    by_reason: dict[str, Counter[datetime]] = defaultdict(Counter)
    for hour, reason, events in connection.execute(statements("failed_events")["failures_per_hour"], values):
        by_reason[reason][hour] += int(events)
    return draw_failures(_most_frequent(by_reason), window)


def _most_frequent(by_reason: Mapping[str, Counter[datetime]]) -> dict[str, Counter[datetime]]:
    """The reasons with most failures first; beyond the colours that there are, the rest together."""
    ordered = sorted(by_reason.items(), key=lambda item: (-item[1].total(), item[0]))
    kept = dict(ordered[: len(_COLOURS)])
    if rest := ordered[len(_COLOURS) :]:
        kept["other reasons"] = sum((counts for _, counts in rest), Counter())
    return kept


def draw_failures(by_reason: Mapping[str, Mapping[datetime, int]], window: Window) -> bytes:
    """Draw counts by reason and hour, first reason at the bottom."""
    figure, axes = new_figure()
    total = sum(sum(counts.values()) for counts in by_reason.values())
    figure.text(0.012, 0.925, "Dead letters per hour", size=14, color=INK, weight="bold")
    figure.text(0.012, 0.865, f"all tenants · {span_text(window)} UTC · {total:,} in all", size=10, color=MUTED)
    below: Counter[datetime] = Counter()
    for number, (reason, counts) in enumerate(by_reason.items()):
        hours = sorted(counts)
        axes.bar(
            [day_number(hour) for hour in hours],
            [counts[hour] for hour in hours],
            0.92 * _HOUR / timedelta(days=1),
            bottom=[below[hour] for hour in hours],
            color=(*_COLOURS, _REST)[number],
            label=reason,
            align="edge",
            linewidth=0,
        )
        below.update(counts)
    if by_reason:
        figure.legend(
            loc="upper right", bbox_to_anchor=(0.992, 0.99), ncols=4, frameon=False, fontsize=10, labelcolor=INK
        )
    else:
        axes.text(
            0.5, 0.5, "nothing failed in this window", transform=axes.transAxes, ha="center", color=MUTED, size=13
        )
    time_axis(axes, window.start, window.end)
    if not by_reason:
        axes.set_yticks([])
    return png_of(figure)
