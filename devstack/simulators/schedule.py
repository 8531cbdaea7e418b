"""The native events of a replay, in order of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from devstack.simulators.agents import StatusChange, status_changes
from devstack.simulators.trace import Call


class Occurrence(NamedTuple):
    """One native event to come; its message is made only when it is sent.

    Attributes:
        at_ms: When it happens, epoch ms, UTC.
        kind: The vendor's name of it.
        subject: What it tells of.
        canonical: Types of the canonical events that it must become.
    """

    at_ms: int
    kind: str
    subject: Call | StatusChange
    canonical: tuple[str, ...]


def build_schedule(
    calls: list[Call],
    of_call: Callable[[Call], Iterable[Occurrence]],
    of_status: Callable[[StatusChange], Occurrence],
) -> list[Occurrence]:
    """All occurrences by time; at the same instant those of one call stay in the order of cause and effect.

    Args:
        calls: In the file's order.
        of_call: A call's occurrences, in the order of cause and effect.
        of_status: The occurrence of a status change.
    """
    schedule = [occurrence for call in calls for occurrence in of_call(call)]
    schedule += map(of_status, status_changes(calls))
    schedule.sort(key=lambda occurrence: occurrence.at_ms)  # stable
    return schedule


def canonical_counts(occurrences: Iterable[Occurrence]) -> Counter[str]:
    """How many canonical events of each type the occurrences must become."""
    return Counter(event_type for occurrence in occurrences for event_type in occurrence.canonical)
