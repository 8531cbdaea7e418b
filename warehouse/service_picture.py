"""Service level of queues and occupancy of agents per interval, as pictures for who runs the centre."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from streaming.instants import from_ms
from warehouse.interval_panels import Bar, Panel, panels_png
from warehouse.pictures import bucket_of, length_text, span_text
from warehouse.statements import statements
from warehouse.windows import Window

MOST = 6
"""So many queues or tenants have a panel; the others share one."""

LITTLE = 5
"""Of fewer answers a service level says little: such bars are pale."""


class _Sums(NamedTuple):
    """Of a bucket: the share's parts, and a weight: answers, or time on queue in ms."""

    part: int
    whole: int
    weight: int


class _Line(NamedTuple):
    name: str
    buckets: dict[datetime, _Sums]


def service_level_png(
    connection: sa.Connection, window: Window, *, interval_minutes: int, threshold_seconds: int, goal: float
) -> bytes:
    """Service level per interval (up to two days), hour or day: all queues, the busiest six, and the others.

    Args:
        connection: from :func:`warehouse.engine.reader`.
        window: what to show.
        interval_minutes: length of the cells.
        threshold_seconds: wait within which an answer counts, for the text.
        goal: share that is aimed at, 0 to 1.

    Returns:
        A PNG; without any answers it says so.
    """
    bucket = bucket_of(window, interval_minutes)
    lines = _lines(connection, "service_levels", window, bucket, "queues")
    panels = []
    for line in lines:
        total = _total(line)
        if total.whole:
            note = f"{total.part / total.whole:.0%} of {total.weight:,} answered"
            panels.append(Panel(line.name, note, _bars(line, LITTLE)))
    title = f"Service level per {length_text(bucket)}"
    subtitle = f"answered within {threshold_seconds} s / answered · {span_text(window)} UTC"
    little = f"fewer than {LITTLE} answers"
    return panels_png(panels, window, bucket, title=title, subtitle=subtitle, little=little, goal=goal)


def occupancy_png(connection: sa.Connection, window: Window, *, interval_minutes: int) -> bytes:
    """Occupancy per interval (up to two days), hour or day: all agents, the six greatest tenants, and the others.

    Returns:
        A PNG; without any agent's time it says so.
    """
    bucket = bucket_of(window, interval_minutes)
    bucket_ms = bucket // timedelta(milliseconds=1)
    lines = _lines(connection, "occupancies", window, bucket, "tenants")
    panels = []
    for line in lines:
        total = _total(line)
        if total.whole:
            staffed = total.weight / (len(line.buckets) * bucket_ms)
            note = f"{total.part / total.whole:.0%} occupied · {staffed:,.1f} agents on queue on average"
            panels.append(Panel(line.name, note, _bars(line, bucket_ms // 2)))
    title = f"Occupancy per {length_text(bucket)}"
    subtitle = f"interacting / (interacting + communicating + idle) · {span_text(window)} UTC"
    return panels_png(panels, window, bucket, title=title, subtitle=subtitle, little="less than half an agent")


def _lines(connection: sa.Connection, statement: str, window: Window, bucket: timedelta, things: str) -> list[_Line]:
    """All together first, if there is more than one; then each; then the others."""
    bucket_ms = bucket // timedelta(milliseconds=1)
    values = {"start": window.start, "end": window.end, "most": MOST, "bucket_ms": bucket_ms}
    lines: dict[int, _Line] = {}
    everything: dict[datetime, _Sums] = defaultdict(lambda: _Sums(0, 0, 0))
    for place, vendor, tenant_id, queue_id, start_ms, *sums in connection.execute(
        statements("pictures")[statement], values
    ):
        name = " · ".join(filter(None, (vendor, tenant_id, queue_id))) if place <= MOST else f"all other {things}"
        start, here = from_ms(int(start_ms)), _Sums(*map(int, sums))
        lines.setdefault(place, _Line(name, {})).buckets[start] = here
        everything[start] = _add(everything[start], here)
    together = [_Line(f"all {things}", dict(everything))] if len(lines) > 1 else []
    return [*together, *lines.values()]


def _add(one: _Sums, other: _Sums) -> _Sums:
    return _Sums(one.part + other.part, one.whole + other.whole, one.weight + other.weight)


def _total(line: _Line) -> _Sums:
    total = _Sums(0, 0, 0)
    for sums in line.buckets.values():
        total = _add(total, sums)
    return total


def _bars(line: _Line, little: int) -> list[Bar]:
    return [
        Bar(start, sums.part / sums.whole, sums.whole < little)
        for start, sums in sorted(line.buckets.items())
        if sums.whole
    ]
