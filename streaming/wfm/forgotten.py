"""Conversations that are over and of which only that is known any more: what comes of them is not counted twice."""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

_PIECE = 50_000
_PER_ROW = 50


class Forgotten:
    """Eight bytes of a conversation's name, kept by the interval in which it ended."""

    def __init__(self) -> None:
        self._by_start: dict[int, array[int]] = {}

    @property
    def rows(self) -> int:
        """How much that is in rows of ``wfm.max_rows``."""
        return sum(len(hashes) for hashes in self._by_start.values()) // _PER_ROW

    def __contains__(self, name: str) -> bool:
        if not self._by_start:
            return False
        wanted = _hash(name)
        for hashes in self._by_start.values():
            place = bisect_left(hashes, wanted)
            if place < len(hashes) and hashes[place] == wanted:
                return True
        return False

    def add(self, start_ms: int, names: Iterable[str]) -> None:
        """Remember conversations.

        Args:
            start_ms: Start of the interval in which they ended, epoch ms.
            names: Theirs.
        """
        known = self._by_start.get(start_ms, ())
        self._by_start[start_ms] = array("Q", sorted([*known, *map(_hash, names)]))

    def forget_before(self, horizon_ms: int) -> None:
        """Keep those that ended at or after an instant, epoch ms."""
        self._by_start = {start: hashes for start, hashes in self._by_start.items() if start >= horizon_ms}

    def dump(self) -> Iterator[tuple[int, str]]:
        """Everything that is to be known, in small pieces for JSON."""
        for start, hashes in self._by_start.items():
            for first in range(0, len(hashes), _PIECE):
                yield start, b64encode(hashes[first : first + _PIECE].tobytes()).decode()

    def load(self, start_ms: int, state: Any) -> None:
        """A piece that :meth:`dump` gave."""
        found = array("Q")
        found.frombytes(b64decode(state))
        self._by_start[start_ms] = array("Q", sorted([*self._by_start.get(start_ms, ()), *found]))


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
