"""Contacts by weekday and hour: when people call."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from streaming.instants import from_ms
from warehouse.pictures import INK, MUTED, png_of, span_text
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window, floor

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_PALEST, _DARKEST = "#f3f6f9", "#0b3c5d"  # one hue, from light to dark: read by anybody, and in print

Cells = list[list[float | None]]
"""Seven weekdays from Monday, 24 hours each; None for a weekday of which the window has none."""


def weekday_hours(connection: sa.Connection, window: Window, *, tenant_id: str | None = None) -> Cells:
    """Offered contacts per weekday and hour, UTC, on average over the days of that weekday.

    Averaged are whole days of the window from the first one with a contact on: what lies before was not recorded, but
    a later day without contacts counts with 0.
    """
    values = {"start": window.start, "end": window.end, "tenant_id": tenant_id}
    rows = connection.execute(statements("pictures")["hourly_offered"], values)
    hours = {from_ms(int(hour_ms)): int(offered) for hour_ms, offered in rows}
    days = Counter[int]()
    if hours:
        day = floor(min(hours), DAY_MINUTES)
        while day < window.end:
            days[day.weekday()] += 1
            day += timedelta(days=1)
    sums = Counter[tuple[int, int]]()
    for hour, offered in hours.items():
        sums[hour.weekday(), hour.hour] += offered
    return [
        [sums[weekday, hour] / days[weekday] if days[weekday] else None for hour in range(24)] for weekday in range(7)
    ]


def heat_map_png(connection: sa.Connection, window: Window, *, tenant_id: str | None = None) -> bytes:
    """Mean contacts offered per weekday and hour, the darker the more, with the number in the square.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: whole UTC days; some weeks.
        tenant_id: only this tenant, else all together.

    Returns:
        A PNG; without any contacts it says so.
    """
    return draw_heat_map(weekday_hours(connection, window, tenant_id=tenant_id), window, tenant_id or "all tenants")


def draw_heat_map(cells: Cells, window: Window, whose: str) -> bytes:
    """Draw what :func:`weekday_hours` gave; ``whose`` names the tenant."""
    # Matplotlib takes a second to import, and few runs draw.
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.2), facecolor="white")
    figure.text(0.012, 0.915, "Contacts offered by weekday and hour", size=14, color=INK, weight="bold")
    text = f"{whose} · mean per hour over {span_text(window)} · hours and days are UTC, not local time"
    figure.text(0.012, 0.85, text, size=10, color=MUTED)
    axes = figure.add_axes((0.05, 0.07, 0.935, 0.68))
    most = max((value for row in cells for value in row if value is not None), default=0.0)
    if not most:
        axes.text(0.5, 0.5, "no contacts in this window", transform=axes.transAxes, ha="center", color=MUTED, size=13)
        axes.set_axis_off()
        return png_of(figure)
    colours = LinearSegmentedColormap.from_list("contacts", [_PALEST, _DARKEST])
    for weekday, row in enumerate(cells):
        for hour, value in enumerate(row):
            if value is not None:
                _square(axes, (hour, weekday), value, value / most, colours(value / most))
    axes.set_xlim(0, 24)
    axes.set_ylim(7, 0)
    axes.set_xticks([hour + 0.5 for hour in range(24)], [f"{hour:02}" for hour in range(24)])
    axes.set_yticks([day + 0.5 for day in range(7)], _DAYS)
    axes.xaxis.tick_top()
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return png_of(figure)


def _square(axes: Any, place: tuple[int, int], value: float, share: float, colour: Any) -> None:
    hour, weekday = place
    axes.barh(weekday + 0.5, 0.94, left=hour + 0.03, height=0.9, color=colour, linewidth=0)
    ink = "white" if share > 0.5 else INK if value else MUTED
    axes.text(hour + 0.5, weekday + 0.52, number_text(value), ha="center", va="center", color=ink, size=8.5)


def number_text(value: float) -> str:
    """Short enough for a square: 0, 0.4, 63, 1.2k."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"


def last_weeks(end: datetime, weeks: int) -> Window:
    """The whole UTC weeks' worth of days before the day of ``end``."""
    day = floor(end, DAY_MINUTES)
    return Window(day - timedelta(weeks=weeks), day)
