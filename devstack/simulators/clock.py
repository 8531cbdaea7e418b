"""The simulated clock: event time as the simulator's own "now"."""

from __future__ import annotations

import time
from collections.abc import Callable


class ReplayClock:
    """Runs from the first event to a moment after the last one, at a multiple of wall time. Instants: epoch ms, UTC.

    It is read from a monotonic clock each time, never summed up, so it does not drift however late it is asked.

    Args:
        begin_ms: Time before the start, and at it.
        end_ms: Where it stops.
        monotonic: Wall clock, s.
    """

    def __init__(self, begin_ms: int, end_ms: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._begin_ms = begin_ms
        self.end_ms = end_ms
        self._monotonic = monotonic
        self._started: float | None = None
        self._reached_ms = begin_ms
        self.speed = 1.0

    @property
    def is_started(self) -> bool:
        """Whether it runs or has run."""
        return self._started is not None

    @property
    def is_unpaced(self) -> bool:
        """Whether it follows the events instead of leading them (speed 0)."""
        return self.speed == 0

    def start(self, speed: float) -> None:
        """Begin to run.

        Args:
            speed: Simulated seconds in one of wall time; 0 is as fast as possible.
        """
        self.speed = speed
        self._started = self._monotonic()

    def now_ms(self) -> int:
        """The simulated time."""
        if self._started is None or self.is_unpaced:
            return self._reached_ms
        elapsed = self._monotonic() - self._started
        return min(self._begin_ms + int(elapsed * 1000 * self.speed), self.end_ms)

    def advance(self, to_ms: int) -> None:
        """At speed 0: events up to this instant have gone out."""
        self._reached_ms = max(self._reached_ms, min(to_ms, self.end_ms))

    def extend(self, end_ms: int) -> None:
        """Stop no earlier than this instant: something will happen until then."""
        self.end_ms = max(self.end_ms, end_ms)
