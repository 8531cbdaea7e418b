"""The ``daily_analytics`` table that a trace must become, in plain Python: call by call, added up by day.

A yardstick as :mod:`tests.truth.conversations_from_trace`. The trace has no transfers, holds, wrap-ups or flow-outs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from tests.truth.conversations_from_trace import TENANTS, Call

_SERVICE_LEVEL_MS = 20_000
_REPEATED_WITHIN = timedelta(hours=24)

_SUMS = (
    "conversations",
    "known_callers",
    "repeat_callers",
    "offered",
    "answered",
    "abandoned",
    "flowed_out",
    "answered_in_threshold",
    "wait_answered_ms",
    "wait_abandoned_ms",
    "handled",
    "transferred",
    "talk_ms",
    "hold_ms",
    "acw_ms",
)

Cell = tuple[str, date, str | None, str | None]
"""Vendor, day, queue, agent."""


def expected_days(calls: list[Call], tenants: Mapping[str, str] = TENANTS) -> list[dict[str, Any]]:
    """Rows of ``daily_analytics``, all columns, in no order."""
    starts: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.started):
        if call.caller:
            starts[call.vendor, call.caller].append(call.started)
    cells: dict[Cell, Counter[str]] = defaultdict(Counter)
    for call in calls:
        for cell, sums in _counted(call, starts):
            cells[cell].update(sums)
    return [
        {
            "vendor": vendor,
            "tenant_id": tenants[vendor],
            "day": day,
            "queue_id": queue_id,
            "agent_id": agent_id,
            "media_type": "VOICE",
            **{name: sums[name] for name in _SUMS},
        }
        for (vendor, day, queue_id, agent_id), sums in cells.items()
    ]


def _counted(call: Call, starts: Mapping[tuple[str, str], list[datetime]]) -> Iterator[tuple[Cell, dict[str, int]]]:
    """What a call adds to which cells: each thing on the day on which it is complete."""
    queue = call.queue_id if call.queued else None
    begun = {"conversations": 1}
    if call.caller:
        begun |= {"known_callers": 1, "repeat_callers": int(_called_before(call, starts[call.vendor, call.caller]))}
    yield (call.vendor, call.started.date(), queue, None), begun
    if not call.queued or not call.left_queue:
        return
    yield (call.vendor, call.queued.date(), queue, None), {"offered": 1}
    left = call.left_queue.date()
    if call.agent_id is None:
        yield (call.vendor, left, queue, None), {"abandoned": 1, "wait_abandoned_ms": call.wait_ms}
        return
    within = int(call.wait_ms <= _SERVICE_LEVEL_MS)
    answer = {"answered": 1, "answered_in_threshold": within, "wait_answered_ms": call.wait_ms}
    yield (call.vendor, left, queue, call.agent_id), answer
    yield (call.vendor, call.ended.date(), queue, call.agent_id), {"handled": 1, "talk_ms": call.talk_ms}


def _called_before(call: Call, own: list[datetime]) -> bool:
    """Whether the caller began another call within the day before; ``own`` are the caller's starts by time."""
    place = bisect_left(own, call.started)  # those at the very same instant are not before
    return place > 0 and call.started - own[place - 1] <= _REPEATED_WITHIN
