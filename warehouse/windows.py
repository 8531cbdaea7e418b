"""Half-open UTC windows and the interval grid.

The grid counts from 1970-01-01T00:00Z in steps of 15, 30 or 60 minutes, so it has no daylight saving and every
midnight UTC lies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from streaming.instants import EPOCH, from_ms, to_ms
from warehouse.errors import WindowError

DAY_MINUTES = 24 * 60
"""The grid of whole days, for :func:`floor` and :func:`ceil`."""


@dataclass(frozen=True, slots=True)
class Window:
    """``[start, end)``, both aware; kept in UTC.

    Raises:
        WindowError: a bound has no time zone, lies before 1970, or ``start`` is not before ``end``.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", to_utc(self.start, "start"))
        object.__setattr__(self, "end", to_utc(self.end, "end"))
        if self.start >= self.end:
            msg = f"window [{self.start.isoformat()}, {self.end.isoformat()}) is empty: give an end after the start"
            raise WindowError(msg)

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M:%SZ}, {self.end:%Y-%m-%dT%H:%M:%SZ})"

    @property
    def start_ms(self) -> int:
        """Inclusive bound, epoch ms."""
        return to_ms(self.start)

    @property
    def end_ms(self) -> int:
        """Exclusive bound, epoch ms."""
        return to_ms(self.end)

    def require_grid(self, interval_minutes: int) -> None:
        """Check that both bounds lie on the interval grid.

        Raises:
            WindowError: naming the bound and its nearest grid points.
        """
        for name, instant in (("start", self.start), ("end", self.end)):
            require_grid(instant, interval_minutes, name)

    def require_begun(self, now: datetime) -> None:
        """Check that something of the window can have happened.

        Args:
            now: aware.

        Raises:
            WindowError: it lies in the future.
        """
        if self.start >= now:
            msg = f"start is {self.start.isoformat()}, in the future: give one before now, {now.isoformat()}"
            raise WindowError(msg)

    def widened(self, interval_minutes: int) -> Window:
        """The smallest window on the grid that holds this one."""
        return Window(floor(self.start, interval_minutes), ceil(self.end, interval_minutes))

    def chunks(self, size: timedelta) -> Iterator[Window]:
        """Cut into consecutive windows of ``size``; the last may be shorter.

        Raises:
            WindowError: ``size`` is not positive.
        """
        if size <= timedelta(0):
            msg = f"chunk is {size}: give a positive length, for example one day"
            raise WindowError(msg)
        start = self.start
        while start < self.end:
            end = min(start + size, self.end)
            yield Window(start, end)
            start = end


def to_utc(instant: datetime, name: str) -> datetime:
    """The instant in UTC.

    Raises:
        WindowError: it has no time zone or lies before 1970.
    """
    if instant.tzinfo is None or instant.utcoffset() is None:
        msg = f"{name} is {instant.isoformat()} without a time zone: append Z or an offset"
        raise WindowError(msg)
    instant = instant.astimezone(UTC)
    if instant < EPOCH:
        msg = f"{name} is {instant.isoformat()}: events are dated from 1970 on, give a later instant"
        raise WindowError(msg)
    return instant


def midnight(day: date) -> datetime:
    """Start of a UTC day."""
    return datetime.combine(day, time(), UTC)


def floor(instant: datetime, interval_minutes: int) -> datetime:
    """Start of the interval in which the instant lies."""
    step = interval_minutes * 60_000
    return from_ms(to_ms(instant) // step * step)


def ceil(instant: datetime, interval_minutes: int) -> datetime:
    """The first grid point at or after the instant."""
    step = interval_minutes * 60_000
    return from_ms(-(-to_ms(instant) // step) * step)


def require_grid(instant: datetime, interval_minutes: int, name: str) -> None:
    """Check that an instant lies on the grid.

    Raises:
        WindowError: naming the nearest grid points.
    """
    below = floor(instant, interval_minutes)
    if below != instant:
        msg = (
            f"{name} is {instant.isoformat()}, off the grid of {interval_minutes} min: "
            f"give {below.isoformat()} or {ceil(instant, interval_minutes).isoformat()}"
        )
        raise WindowError(msg)
