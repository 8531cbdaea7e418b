"""Small multiples of a share per bucket of time: one panel a queue or tenant, below each other, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from warehouse.pictures import GRID, INK, MUTED, busy_part, day_number, png_of, time_axis
from warehouse.windows import Window

# Blue and amber are told apart with any kind of colour blindness, and in grey.
REACHED, MISSED = "#1f5f8b", "#e0a458"
_PALE = 0.4
_WIDTH_IN, _HEAD_IN, _PANEL_IN, _FOOT_IN = 11.0, 0.78, 0.95, 0.4
_TITLE_IN = 0.3  # of a panel's height, for its name


class Bar(NamedTuple):
    """A bucket: its start, its share, 0 to 1, and whether that share is of too little to say much."""

    start: datetime
    share: float
    little: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One line of bars.

    Attributes:
        name: what it shows, e.g. tenant and queue.
        note: what is to be said of it as a whole.
        bars: where there is something to show.
    """

    name: str
    note: str
    bars: Sequence[Bar]


def panels_png(
    panels: Sequence[Panel],
    window: Window,
    bucket: timedelta,
    *,
    title: str,
    subtitle: str,
    little: str,
    goal: float | None = None,
) -> bytes:
    """Draw the panels.

    Args:
        panels: from the top; without any, the picture says that there is nothing.
        window: what was asked for; the axis shows the busy part of it.
        bucket: width of a bar.
        title: what it is.
        subtitle: whose, when and in which time zone.
        little: what makes a bar pale, for the legend.
        goal: a share that bars should reach, as a line; those below have another colour.

    Returns:
        A PNG, 1430 pixels wide.
    """
    # Matplotlib takes a second to import, and few loads draw. Figure without pyplot: no global state, no display.
    from matplotlib.figure import Figure  # noqa: PLC0415

    height = _HEAD_IN + _PANEL_IN * max(len(panels), 2) + _FOOT_IN
    figure = Figure(figsize=(_WIDTH_IN, height), facecolor="white")
    figure.text(0.012, 1 - 0.36 / height, title, size=14, color=INK, weight="bold")
    figure.text(0.012, 1 - 0.64 / height, subtitle, size=10, color=MUTED)
    if panels:
        _legend(figure, 1 - 0.3 / height, goal, little)
    start, end = _busy(panels, window, bucket)
    for number, panel in enumerate(panels):
        bottom = _FOOT_IN + _PANEL_IN * (len(panels) - 1 - number)
        axes = figure.add_axes((0.05, bottom / height, 0.918, (_PANEL_IN - _TITLE_IN) / height))
        _draw(axes, panel, bucket, goal)
        time_axis(axes, start, end)
        if number < len(panels) - 1:
            axes.tick_params(labelbottom=False)
    if not panels:
        figure.text(0.5, 0.35, "nothing in this window", size=13, color=MUTED, ha="center")
    return png_of(figure)


def _draw(axes: Any, panel: Panel, bucket: timedelta, goal: float | None) -> None:
    width = bucket / timedelta(days=1)
    axes.bar(
        [day_number(bar.start) for bar in panel.bars],
        [max(bar.share, 0.02) for bar in panel.bars],  # a share of 0 is no gap: a sliver shows that there was something
        width * 0.9,
        align="edge",
        color=[
            (MISSED if goal is not None and bar.share < goal else REACHED, _PALE if bar.little else 1.0)
            for bar in panel.bars
        ],
        linewidth=0,
    )
    if goal is not None:
        axes.axhline(goal, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=8.5)
    axes.tick_params(axis="x", pad=8)  # clear of the lowest share
    for spine in axes.spines.values():
        spine.set_visible(False)
    place = axes.transAxes
    axes.text(0, 1.08, panel.name, transform=place, size=9.5, color=INK, weight="bold")
    axes.text(1, 1.08, panel.note, transform=place, size=9.5, color=MUTED, ha="right")


def _legend(figure: Any, height: float, goal: float | None, little: str) -> None:
    if goal is not None:
        for place, mark, colour, text in (
            (0.53, "■", REACHED, "goal reached"),
            (0.635, "■", MISSED, "below"),
            (0.70, "╌", INK, f"goal {goal:.0%}"),
        ):
            figure.text(place, height, mark, color=colour, size=12, va="center")
            figure.text(place + 0.017, height, text, color=MUTED, size=10, va="center")
    figure.text(0.968, height, f"pale: {little}", color=MUTED, size=10, va="center", ha="right")


def _busy(panels: Sequence[Panel], window: Window, bucket: timedelta) -> tuple[datetime, datetime]:
    """The part of the window with bars and an hour around it, so that closed hours do not fill the picture."""
    starts = [bar.start for panel in panels for bar in panel.bars]
    if not starts:
        return window.start, window.end
    return busy_part(window, min(starts), max(starts) + bucket)
