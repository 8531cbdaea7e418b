"""Pictures and sums for people, from a read connection. Pure: a connection in, PNG bytes or sums out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import sqlalchemy as sa

from streaming.instants import EPOCH
from warehouse.statements import statements
from warehouse.windows import Window, floor

_OFFERED, _ANSWERED, _ABANDONED = "#9db4c8", "#1f5f8b", "#c8553d"
INK, MUTED, GRID = "#22303c", "#5d6b78", "#dfe5ea"
_WIDTH_IN, _HEIGHT_IN, _DPI = 11.0, 4.6, 130
_HOURS_SHOWN = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class IntervalCounts:
    """Sums of one interval, or of several that are drawn as one, over the chosen queues."""

    start: datetime
    minutes: int
    offered: int
    answered: int
    abandoned: int


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """Sums and rates of one queue over a window; a rate is None if its denominator is 0."""

    vendor: str
    tenant_id: str
    queue_id: str
    offered: int
    answered: int
    abandoned: int
    service_level: float | None
    asa_ms: float | None
    aht_ms: float | None
    abandon_rate: float | None


def interval_counts(
    connection: sa.Connection, window: Window, *, tenant_id: str | None = None, queue_id: str | None = None
) -> list[IntervalCounts]:
    """Offered, answered, abandoned per interval with activity, in order of time."""
    values = {"start": window.start, "end": window.end, "tenant_id": tenant_id, "queue_id": queue_id}
    rows = connection.execute(statements("pictures")["interval_counts"], values)
    return [IntervalCounts(start, int(minutes), int(o), int(a), int(b)) for start, minutes, o, a, b in rows]


def queue_summaries(connection: sa.Connection, window: Window) -> list[QueueSummary]:
    """Per queue, busiest first."""
    rows = connection.execute(statements("pictures")["queue_summaries"], {"start": window.start, "end": window.end})
    return [QueueSummary(*row) for row in rows]


def offered_answered_png(
    connection: sa.Connection, window: Window, *, tenant_id: str | None = None, queue_id: str | None = None
) -> bytes:
    """Offered and answered per interval (up to two days), hour, day or week; abandons below the line.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: what to show.
        tenant_id: only this tenant, else all together.
        queue_id: only this queue, else all together.

    Returns:
        A PNG of 1430 x 598 pixels; without any data it says so.
    """
    counts = interval_counts(connection, window, tenant_id=tenant_id, queue_id=queue_id)
    whose = " · ".join([tenant_id or "all tenants", f"queue {queue_id}" if queue_id else "all queues"])
    return draw_counts(counts, window, whose)


def draw_counts(counts: Sequence[IntervalCounts], window: Window, whose: str) -> bytes:
    """Draw what :func:`interval_counts` gave; ``whose`` names tenant and queue in the title."""
    figure, axes = new_figure()
    bucket = bucket_of(window, max((count.minutes for count in counts), default=15))
    counts = _merged(counts, bucket)
    totals = ", ".join(
        f"{sum(getattr(count, name) for count in counts):,} {name}" for name in ("offered", "answered", "abandoned")
    )
    figure.text(
        0.012, 0.925, f"Contacts offered and answered per {length_text(bucket)}", size=14, color=INK, weight="bold"
    )
    figure.text(0.012, 0.865, f"{whose} · {span_text(window)} UTC · {totals}", size=10, color=MUTED)
    if counts:
        _bars(axes, counts, narrow=window.end - window.start <= _HOURS_SHOWN)
        figure.legend(
            loc="upper right", bbox_to_anchor=(0.992, 0.99), ncols=3, frameon=False, fontsize=10, labelcolor=INK
        )
    else:
        axes.text(0.5, 0.5, "no contacts in this window", transform=axes.transAxes, ha="center", color=MUTED, size=13)
    time_axis(axes, *_limits(counts, window))
    if not counts:
        axes.set_yticks([])
    return png_of(figure)


def _merged(counts: Sequence[IntervalCounts], bucket: timedelta) -> list[IntervalCounts]:
    """Sums per bucket, in order of time: a bar an interval would be thinner than a pixel in a window of weeks."""
    minutes = bucket // timedelta(minutes=1)
    merged: dict[datetime, IntervalCounts] = {}
    for count in counts:
        start = floor(count.start, minutes)
        sums = merged.get(start, IntervalCounts(start, minutes, 0, 0, 0))
        merged[start] = replace(
            sums,
            offered=sums.offered + count.offered,
            answered=sums.answered + count.answered,
            abandoned=sums.abandoned + count.abandoned,
        )
    return list(merged.values())


def bucket_of(window: Window, interval_minutes: int) -> timedelta:
    """Width of a bar: so that a window of up to half a year has at most some 200."""
    length = window.end - window.start
    if length <= _HOURS_SHOWN:
        return timedelta(minutes=interval_minutes)
    if length <= timedelta(days=8):
        return timedelta(hours=1)
    return timedelta(days=1) if length <= timedelta(days=200) else timedelta(days=7)


def length_text(bucket: timedelta) -> str:
    """What a bar is: 15 min, hour, day, week."""
    if bucket >= timedelta(days=1):
        return "day" if bucket == timedelta(days=1) else "week"
    return "hour" if bucket == timedelta(hours=1) else f"{bucket // timedelta(minutes=1)} min"


def new_figure() -> tuple[Any, Any]:
    """An empty figure with room for a title, and its axes, for counts per time: whole numbers, quiet grid."""
    # Matplotlib takes a second to import, and few loads draw. Figure without pyplot: no global state, no display.
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0.045, 0.1, 0.925, 0.7))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def png_of(figure: Any) -> bytes:
    """The figure as a PNG, its texts as they are: ids and names come from vendors, and ``$`` begins no formula."""
    for text in figure.findobj(import_module("matplotlib.text").Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)  # without a display: the Agg canvas
    return buffer.getvalue()


def _bars(axes: Any, counts: Sequence[IntervalCounts], *, narrow: bool) -> None:
    """Answered before offered, so that both are seen also where more is answered than offered."""
    width = timedelta(minutes=counts[0].minutes) / timedelta(days=1)
    starts = [day_number(count.start) for count in counts]
    inset, inner, outer = (0.2, 0.52, 0.92) if narrow else (0.0, 1.0, 1.0)
    shared = {"align": "edge", "linewidth": 0}
    axes.bar(starts, [c.offered for c in counts], width * outer, color=_OFFERED, label="offered", **shared)
    axes.bar(
        [start + width * inset for start in starts],
        [c.answered for c in counts],
        width * inner,
        color=_ANSWERED,
        label="answered",
        **shared,
    )
    axes.bar(starts, [-c.abandoned for c in counts], width * outer, color=_ABANDONED, label="abandoned", **shared)
    axes.axhline(0, color=INK, linewidth=0.8)


def time_axis(axes: Any, start: datetime, end: datetime) -> None:
    """The axis of a window: hours for up to two days, else days."""
    dates: Any = import_module("matplotlib.dates")  # Any: it is half typed
    axes.set_xlim(day_number(start), day_number(end))
    hours = (end - start) / timedelta(hours=1)
    if end - start <= _HOURS_SHOWN:
        axes.xaxis.set_major_locator(dates.HourLocator(byhour=range(0, 24, max(1, round(hours / 12)))))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    else:
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=4, maxticks=10))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%a %d %b"))


def day_number(instant: datetime) -> float:
    """Matplotlib's unit of time: days since 1970."""
    return (instant - EPOCH) / timedelta(days=1)


def _limits(counts: Sequence[IntervalCounts], window: Window) -> tuple[datetime, datetime]:
    """The busy part of the window and an hour around it, so that closed hours do not fill the picture."""
    if not counts:
        return window.start, window.end
    return busy_part(window, counts[0].start, counts[-1].start + timedelta(minutes=counts[-1].minutes))


def busy_part(window: Window, first: datetime, last: datetime) -> tuple[datetime, datetime]:
    """A window cut to an hour around what is in it, from ``first`` to ``last``."""
    margin = timedelta(hours=1)
    return max(window.start, first - margin), min(window.end, last + margin)


def span_text(window: Window) -> str:
    """A window's day, or its first and last day."""
    last = window.end - timedelta(milliseconds=1)
    if last.date() == window.start.date():
        return f"{window.start:%a %d %b %Y}"
    return f"{window.start:%a %d %b %Y} to {last:%a %d %b %Y}"
