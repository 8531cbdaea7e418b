"""An agent's statuses and finished legs, and the intervals that they make: a function of the set of facts."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from sys import intern
from typing import Any

STATUSES = ("INTERACTING", "COMMUNICATING", "IDLE", "NOT_RESPONDING", "OFF_QUEUE")
"""In the order of the columns of ``agent_intervals``."""

AGENT_COLUMNS = (*(f"{status.lower()}_ms" for status in STATUSES), "handled")

OFF_QUEUE = "OFF_QUEUE"
_COLUMN = {status: number for number, status in enumerate(STATUSES)}
_OFF_QUEUE = _COLUMN[OFF_QUEUE]
_HANDLED = len(STATUSES)
# The id of a status change has its time cut to the second.
_SAME_MS = 1000

Status = tuple[int, str, str]
"""Time (epoch ms), event_id, status."""


class Agent:
    """One agent.

    Attributes:
        statuses: By time and event_id. The first may be older than what is kept: it is what the agent did then.
        handled: Finished legs by interval's start.
    """

    __slots__ = ("_added", "handled", "statuses")

    def __init__(self) -> None:
        # From when, up to which number, and the sums of sums_until_newest.
        self._added: tuple[int, int, list[int]] | None = None
        self.statuses: list[Status] = []
        self.handled: dict[int, int] = {}

    def add(self, at_ms: int, id_: str, status: str) -> int | None:
        """Take a status change in, once by event_id.

        Returns:
            Until when it lasts, as known now: the next change's time, or its own time if it is the newest; None if it
            was there already.
        """
        statuses = self.statuses
        place = len(statuses)
        if statuses and statuses[-1][0] > at_ms - _SAME_MS:
            for known_ms, known_id, _ in statuses[bisect_left(statuses, (at_ms - _SAME_MS,)) :]:
                if known_ms >= at_ms + _SAME_MS:
                    break
                if known_id == id_:
                    return None
            place = bisect_left(statuses, (at_ms, id_))
        if place < len(statuses):
            self._added = None
        insort(statuses, (at_ms, id_, intern(status)))
        return statuses[place + 1][0] if place + 1 < len(statuses) else at_ms

    def sums(self, start_ms: int, end_ms: int, longest_ms: int) -> list[int]:
        """Time in each status within ``[start, end)``, ms, as in :data:`STATUSES`.

        Args:
            start_ms: Epoch ms.
            end_ms: Epoch ms: the newest status lasts until then.
            longest_ms: For so long a status other than OFF_QUEUE lasts at most.
        """
        sums = [0] * len(STATUSES)
        first = max(0, bisect_left(self.statuses, (start_ms,)) - 1)
        self._add_spans(sums, first, len(self.statuses), start_ms, end_ms, longest_ms)
        return sums

    def sums_until_newest(self, start_ms: int, longest_ms: int) -> list[int]:
        """As :meth:`sums`, from an instant until the newest status began; what was added up already is remembered."""
        last = len(self.statuses) - 1
        if self._added is None or self._added[0] != start_ms:
            self._added = start_ms, max(0, bisect_left(self.statuses, (start_ms,)) - 1), [0] * len(STATUSES)
        _, first, sums = self._added
        self._add_spans(sums, first, last, start_ms, self.statuses[last][0], longest_ms)
        self._added = start_ms, last, sums
        return list(sums)

    def _add_spans(  # noqa: PLR0917 (by position: it runs for every agent at every publishing)
        self, sums: list[int], first: int, last: int, start_ms: int, end_ms: int, longest_ms: int
    ) -> None:
        """Add what the statuses numbered ``[first, last)`` lasted within ``[start, end)``."""
        statuses, count = self.statuses, len(self.statuses)
        for number in range(first, last):
            at_ms, _, status = statuses[number]
            if at_ms >= end_ms:
                return
            column = _COLUMN.get(status)
            if column is None:
                continue
            end = statuses[number + 1][0] if number + 1 < count else end_ms
            if column != _OFF_QUEUE:
                end = min(end, at_ms + longest_ms)
            lasted = min(end, end_ms) - max(at_ms, start_ms)
            if lasted > 0:
                sums[column] += lasted

    def interval(self, start_ms: int, end_ms: int, longest_ms: int) -> list[int] | None:
        """The sums of an interval by :data:`AGENT_COLUMNS`; None where the warehouse has no row.

        That is: an agent that never reported a status, and an interval with nothing but OFF_QUEUE.
        """
        if not self.statuses:
            return None
        sums = self.sums(start_ms, end_ms, longest_ms)
        handled = self.handled.get(start_ms, 0)
        if not handled and not any(sums[:_OFF_QUEUE]):
            return None
        return [*sums, handled]

    def forget_before(self, horizon_ms: int) -> int:
        """Keep what is at or after an instant, and the newest status before it; how many statuses went."""
        gone = max(0, bisect_left(self.statuses, (horizon_ms,)) - 1)
        del self.statuses[:gone]
        self._added = None
        self.handled = {start: count for start, count in self.handled.items() if start >= horizon_ms}
        return gone

    def dump(self) -> list[Any]:
        """Everything that is to be known of it, for JSON."""
        return [self.statuses, list(self.handled.items())]

    @classmethod
    def load(cls, state: Sequence[Any]) -> Agent:
        """What :meth:`dump` gave."""
        agent = cls()
        statuses, handled = state
        agent.statuses = [(at_ms, id_, intern(status)) for at_ms, id_, status in statuses]
        agent.handled = dict(handled)
        return agent


def occupancy(sums: Sequence[int]) -> float | None:
    """Share of interacting in (interacting + communicating + idle); None where there is no such time."""
    busy = sums[0] + sums[1] + sums[2]
    return sums[0] / busy if busy else None
