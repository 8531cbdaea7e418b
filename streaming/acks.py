"""Contiguous acknowledgement: how far a sequence of inputs is safely in Kafka."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class _Entry(Generic[T]):
    __slots__ = ("position", "waiting")

    def __init__(self, position: T, waiting: int) -> None:
        self.position = position
        self.waiting = waiting


class AckTracker(Generic[T]):
    """Positions in input order, each done once all the records that it became are acknowledged.

    An input that became nothing (an ignored frame) is done at once, one that became a dead letter waits for that. Not
    thread-safe: delivery callbacks run in the thread that polls the producer; use it there only.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry[T]] = deque()
        self.acknowledged: T | None = None
        """Last position up to which everything is acknowledged; None before the first."""

    def __len__(self) -> int:
        """Inputs not yet passed by the acknowledged position."""
        return len(self._entries)

    def begin(self, position: T, records: int) -> _Entry[T]:
        """Note an input that becomes ``records`` records."""
        entry = _Entry(position, records)
        self._entries.append(entry)
        if records == 0:
            self._advance()
        return entry

    def acknowledge(self, entry: _Entry[T]) -> None:
        """One record of an input is in Kafka."""
        entry.waiting -= 1
        if entry.waiting == 0:
            self._advance()

    def _advance(self) -> None:
        entries = self._entries
        while entries and entries[0].waiting <= 0:
            self.acknowledged = entries.popleft().position
