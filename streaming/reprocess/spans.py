"""Offsets of one partition, kept as spans: what was replayed lies close together."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge

Pair = tuple[int, int]
"""First and last offset, both inclusive."""

# So many are taken in before they are put in order.
_MAX_LOOSE = 50_000


class Spans:
    """A set of offsets; 16 bytes a span, whatever the span's length."""

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        # 64-bit integers: a list of tuples would take ten times the memory.
        self._firsts, self._lasts = array("q"), array("q")
        self._loose: list[Pair] = []
        for first, last in pairs:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Put the offsets from ``first`` to ``last`` in."""
        self._loose.append((first, last))
        if len(self._loose) >= _MAX_LOOSE:
            self._settle()

    def __contains__(self, offset: int) -> bool:
        if self._loose:
            self._settle()
        place = bisect_right(self._firsts, offset) - 1
        return place >= 0 and offset <= self._lasts[place]

    def __iter__(self) -> Iterator[Pair]:
        """The spans, apart and ascending."""
        if self._loose:
            self._settle()
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def first_absent(self, offset: int) -> int:
        """The first offset from ``offset`` on that is not in it."""
        if self._loose:
            self._settle()
        place = bisect_right(self._firsts, offset) - 1
        return self._lasts[place] + 1 if place >= 0 and offset <= self._lasts[place] else offset

    def _settle(self) -> None:
        firsts, lasts = array("q"), array("q")
        for first, last in merge(zip(self._firsts, self._lasts, strict=True), sorted(self._loose)):
            if lasts and first <= lasts[-1] + 1:
                lasts[-1] = max(lasts[-1], last)
            else:
                firsts.append(first)
                lasts.append(last)
        self._firsts, self._lasts, self._loose = firsts, lasts, []
