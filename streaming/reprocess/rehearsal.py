"""Whether every fix-up meets a field: a wrong path is told before anything is published."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import orjson

from streaming.deadletter import KAFKA
from streaming.errors import ConfigurationError
from streaming.reprocess.batch import Found
from streaming.reprocess.fixups import FixUps, KeyPath, RefusedError, SetValue, shown

SAMPLE = 10_000
"""Dead letters that are looked at."""

_MAX_KEYS = 40
_MAX_KEY_CHARS = 60


class _Level:
    """How far along its path a fix-up came, and which keys are there."""

    def __init__(self) -> None:
        self.is_met = False
        self.depth = 0
        self.keys: dict[str, None] = {}

    def see(self, element: dict[str, Any], path: KeyPath) -> None:
        """Look for a path in an object."""
        node = element
        for depth, key in enumerate(path):
            if key not in node:
                self._stopped(depth, node)
                return
            below = node[key]
            if depth == len(path) - 1:
                break
            if not isinstance(below, dict):
                self._stopped(depth, node)
                return
            node = below
        self.is_met = True

    def _stopped(self, depth: int, node: dict[str, Any]) -> None:
        if depth > self.depth:
            self.depth, self.keys = depth, {}
        if depth == self.depth:
            for key in islice(node, _MAX_KEYS):
                if len(self.keys) < _MAX_KEYS:
                    self.keys[key[:_MAX_KEY_CHARS]] = None


def check_paths(fixups: FixUps, letters: Iterable[Found]) -> None:
    """Refuse fix-ups of which one has a path that none of the dead letters has.

    A field that is set need not be there, but the object around it. A fix-up sees what those before it made.

    Args:
        fixups: Of the run; not changed.
        letters: Selected ones; at most :data:`SAMPLE` are looked at.

    Raises:
        ConfigurationError: naming the fix-up and the keys that are there.
    """
    rehearsed = FixUps(fixups.given)
    levels = [_Level() for _ in rehearsed.parts]

    def watch(place: int, element: dict[str, Any]) -> None:
        level, part = levels[place], rehearsed.parts[place]
        if not level.is_met:
            level.see(element, part.path[:-1] if isinstance(part, SetValue) else part.path)

    seen = 0
    for found in islice(letters, SAMPLE):
        letter = found.letter
        if letter.said.transport == KAFKA:
            continue
        seen += 1
        try:
            rehearsed.apply(orjson.loads(letter.value or b""), watch)
        except (orjson.JSONDecodeError, RefusedError):
            continue
        if all(level.is_met for level in levels):
            return
    if not seen:
        return
    for number, (level, part) in enumerate(zip(levels, rehearsed.parts, strict=True), 1):
        if not level.is_met:
            where = shown(part.path[: level.depth]) if level.depth else "the message"
            there = ", ".join(map(repr, level.keys)) or "no fields, since none is a JSON object"
            msg = (
                f"fixups: fix-up {number} ({part.op} {shown(part.path)}): none of the {seen} selected dead letters "
                f"looked at has this path. In {where} there are: {there}. Mend the path, or select fewer (by time, "
                "event type, reason); nothing was changed"
            )
            raise ConfigurationError(msg)
