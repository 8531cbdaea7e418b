"""How long after their own time events arrive, and how many come behind the load of their interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from warehouse.pictures import GRID, INK, MUTED, png_of
from warehouse.statements import statements
from warehouse.windows import Window

BOUNDS_MS: tuple[int | None, ...] = (
    0, 100, 200, 500, 1_000, 2_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000, None,
)  # fmt: skip
"""Upper bounds of the buckets, as in ``arrival_buckets``; 0: dated after its arrival, None: beyond the last."""

_MOST_VENDORS = 4
_COLOURS = ("#1f5f8b", "#e0a458", "#5d6b78", "#9db4c8", "#c8553d")  # told apart also in grey
_OTHERS = "others"


@dataclass(slots=True)
class Arrivals:
    """Events that were loaded by arrival within a window.

    Attributes:
        counts: per vendor and upper bound of the bucket, ms.
        behind: that came when their interval was built already, so that it had to be built again.
        p50_ms: median of arrival minus the event's time.
        p95_ms: 95 % arrive within it.
        p99_ms: 99 % arrive within it.
    """

    counts: dict[str, Counter[int | None]] = field(default_factory=dict)
    behind: int = 0
    p50_ms: int = 0
    p95_ms: int = 0
    p99_ms: int = 0

    @property
    def total(self) -> int:
        """Number of events."""
        return sum(counter.total() for counter in self.counts.values())


def arrivals(connection: sa.Connection, window: Window) -> Arrivals:
    """Delays of the events whose loads ended within the window (wall time); those without a time are left out."""
    first, last = connection.execute(
        statements("pictures")["loads_of"], {"start": window.start, "end": window.end}
    ).one()
    bounds = {"first_load": first, "last_load": last}
    found = Arrivals()
    for vendor, bound, count, behind in connection.execute(statements("pictures")["arrival_buckets"], bounds):
        found.counts.setdefault(vendor, Counter())[bound] += int(count)
        found.behind += int(behind)
    if found.total:
        percentiles = connection.execute(statements("pictures")["arrival_percentiles"], bounds).one()
        found.p50_ms, found.p95_ms, found.p99_ms = (int(value) for value in percentiles)
    return found


def late_arrivals_png(connection: sa.Connection, window: Window) -> bytes:
    """Histogram of arrival minus the event's time, a colour a vendor.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: wall time within which the events were loaded.

    Returns:
        A PNG; without any events it says so.
    """
    return draw_arrivals(arrivals(connection, window), window)


def draw_arrivals(found: Arrivals, window: Window) -> bytes:
    """Draw what :func:`arrivals` gave."""
    # Matplotlib takes a second to import, and few runs draw.
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.8), facecolor="white")
    figure.text(0.012, 0.925, "How late events arrive", size=14, color=INK, weight="bold")
    when = f"loaded {window.start:%a %d %b %H:%M} to {window.end:%a %d %b %Y %H:%M} UTC"
    figure.text(0.012, 0.868, f"arrival on Kafka less the vendor's own time · {when}", size=10, color=MUTED)
    axes = figure.add_axes((0.06, 0.15, 0.925, 0.56))
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not found.total:
        axes.text(0.5, 0.5, "no events in this window", transform=axes.transAxes, ha="center", color=MUTED, size=13)
        axes.set_axis_off()
        return png_of(figure)
    figure.text(0.012, 0.8, _summary(found), size=10, color=INK)
    _bars(axes, found)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(BOUNDS_MS)), [_label(bound) for bound in BOUNDS_MS])
    axes.tick_params(colors=MUTED, length=0, labelsize=8.5)
    axes.margins(y=0.12)
    figure.legend(loc="upper right", bbox_to_anchor=(0.99, 0.985), ncols=5, frameon=False, fontsize=10, labelcolor=INK)
    note = "Arrival is when the event was published: replays, backfills and reconciliation publish long after the fact."
    figure.text(0.012, 0.03, note, size=9, color=MUTED)
    return png_of(figure)


def _bars(axes: Any, found: Arrivals) -> None:
    below = [0] * len(BOUNDS_MS)
    for (vendor, counts), colour in zip(_bounded(found.counts), _COLOURS, strict=False):
        heights = [counts[bound] for bound in BOUNDS_MS]
        axes.bar(range(len(heights)), heights, 0.82, bottom=below, color=colour, linewidth=0, label=vendor)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for place, height in enumerate(below):
        if height:
            text = _percent(height / found.total)
            axes.annotate(text, (place, height), (0, 3), textcoords="offset points", ha="center", color=MUTED, size=8.5)


def _bounded(counts: dict[str, Counter[int | None]]) -> Sequence[tuple[str, Counter[int | None]]]:
    """The vendors with the most events; further ones are one."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    rest = Counter[int | None]()
    for _, counter in ranked[_MOST_VENDORS:]:
        rest += counter
    return [*ranked[:_MOST_VENDORS], *([(_OTHERS, rest)] if rest else [])]


def _summary(found: Arrivals) -> str:
    half, most, nearly_all = map(duration_text, (found.p50_ms, found.p95_ms, found.p99_ms))
    behind = f"{found.behind:,} ({_percent(found.behind / found.total)})" if found.behind else "none"
    return (
        f"{found.total:,} events · half within {half}, 95% within {most}, 99% within {nearly_all} · "
        f"{behind} after the load of their interval{', then built again' if found.behind else ''}"
    )


def _percent(share: float) -> str:
    """Never 0 % of something."""
    if 0 < share < 0.001:
        return "< 0.1%"
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _label(bound: int | None) -> str:
    if bound is None:
        return "more"
    return f"≤ {duration_text(bound)}" if bound else "early"


def duration_text(ms: int) -> str:
    """A duration for people: 45 ms, 1.5 s, 3 min, 2 h, 1.5 d."""
    size = abs(ms)
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if size >= length:
            return f"{round(ms / length, 1):g} {unit}"
    return f"{ms} ms"
