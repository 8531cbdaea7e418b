"""Agents' statuses, derived from the calls they took: the trace itself has none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from devstack.simulators.trace import NO_SERVER, Call


class Status(StrEnum):
    """What an agent is doing; a later member outranks an earlier one."""

    OFF_QUEUE = "OFF_QUEUE"
    IDLE = "IDLE"
    INTERACTING = "INTERACTING"


class StatusChange(NamedTuple):
    """An agent begins a status."""

    at_ms: int  # epoch ms, UTC
    agent_id: str
    status: Status


def status_changes(calls: Iterable[Call]) -> list[StatusChange]:
    """Every status change of every agent, by time and then by agent.

    INTERACTING while a call is open, IDLE from a date's first assignment to its last end where no call is open,
    else OFF_QUEUE. OFF_QUEUE is told at 00:00 of each date on which the agent took a call, even if it lasts since the
    day before. Before the first such 00:00 nothing is known. A status of no duration is not told.
    """
    taken: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.agent_id is not None and call.agent_id != NO_SERVER:
            taken[call.agent_id].append(call)
    changes = [change for agent_id, own in taken.items() for change in _timeline(agent_id, own)]
    changes.sort()
    return changes


def _timeline(agent_id: str, calls: list[Call]) -> Iterable[StatusChange]:
    open_calls: dict[int, int] = defaultdict(int)  # instant -> how many calls begin less how many end
    shifts: dict[int, int] = defaultdict(int)  # the same for the dates' spans
    spans: dict[int, tuple[int, int]] = {}
    for call in calls:
        begin, end = call.answered_ms or 0, call.ended_ms
        open_calls[begin] += 1
        open_calls[end] -= 1
        first, last = spans.get(call.day_ms, (begin, end))
        spans[call.day_ms] = (min(first, begin), max(last, end))
    for first, last in spans.values():
        shifts[first] += 1
        shifts[last] -= 1
    calls_now = shifts_now = 0
    told: Status | None = None
    for at_ms in sorted({*open_calls, *shifts, *spans}):
        calls_now += open_calls.get(at_ms, 0)
        shifts_now += shifts.get(at_ms, 0)
        status = Status.INTERACTING if calls_now else Status.IDLE if shifts_now else Status.OFF_QUEUE
        if status is not told or (status is Status.OFF_QUEUE and at_ms in spans):
            yield StatusChange(at_ms, agent_id, status)
        told = status
