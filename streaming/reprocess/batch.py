"""What one transaction of a replay holds."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from streaming.reprocess.again import Letter, Record
from streaming.reprocess.replays import GroupCount, Outcome, Replay
from streaming.reprocess.report import Row
from streaming.topic_reader import Place

# Large enough that a commit costs little a record; readers of the events topic wait for a transaction of this size.
_MAX_LETTERS = 5_000
_MAX_BYTES = 16 * 1024 * 1024
# The record of what was done must fit into a record, with paths and types of hundreds of characters.
_MAX_KINDS = 1_000

_Spans = defaultdict[int, list[list[int]]]


class Found(NamedTuple):
    """A dead letter that is to be replayed.

    Attributes:
        before: Offset of the record read before it in its partition: between the two there is none.
        was_parked: Whether an earlier replay parked it.
    """

    place: Place
    offset: int
    before: int
    letter: Letter
    was_parked: bool


class _Kind(NamedTuple):
    """Of one kind is what failed alike within an hour, and became alike."""

    transport: str
    stage: str
    reason: str
    path: str
    event_type: str
    hour_ms: int
    outcome: Outcome
    was_parked: bool
    reason_now: str
    path_now: str


class Batch:
    """Dead letters tried, and what is to be published of them, until it is committed or given up.

    Attributes:
        records: To be published, with their topics.
        events: How many of them are events.
    """

    def __init__(self) -> None:
        self.records: list[tuple[str, Record]] = []
        self.events = 0
        self._letters = 0
        self._bytes = 0
        self._done: _Spans = defaultdict(list)
        self._parked: _Spans = defaultdict(list)
        self._kinds: Counter[_Kind] = Counter()

    def __len__(self) -> int:
        return self._letters

    @property
    def is_full(self) -> bool:
        """Whether it is time to commit."""
        return self._letters >= _MAX_LETTERS or self._bytes >= _MAX_BYTES or len(self._kinds) >= _MAX_KINDS

    def publish(self, topic: str, record: Record) -> None:
        """Add a record to be published."""
        self.records.append((topic, record))
        self._bytes += len(record.value or b"")

    def add(self, found: Found, event_type: str, outcome: Outcome, reason_now: str = "", path_now: str = "") -> None:
        """Count a dead letter, under what became of it."""
        said, offset = found.letter.said, found.offset
        self._letters += 1
        self._bytes += len(found.letter.value or b"")
        # One that failed again is done with, as one replayed: its copy is another record.
        spans = (self._parked if outcome is Outcome.PARKED else self._done)[found.place.partition]
        if spans and spans[-1][1] == found.before:
            spans[-1][1] = offset
        else:
            spans.append([offset, offset])
        kind = _Kind(
            said.transport, said.stage, said.reason, said.path, event_type, said.hour_ms, outcome, found.was_parked,
            reason_now, path_now,
        )  # fmt: skip
        self._kinds[kind] += 1

    def rows(self) -> Counter[Row]:
        """Counts for the report."""
        rows: Counter[Row] = Counter()
        for kind, letters in self._kinds.items():
            row = Row(kind.stage, kind.reason, kind.path, kind.event_type, kind.outcome, kind.reason_now, kind.path_now)
            rows[row] += letters
        return rows

    def replay(
        self, *, run_id: str, vendor: str, tenant_id: str, topic: str, fixups: tuple[dict[str, Any], ...]
    ) -> Replay:
        """The record of what was done."""
        groups: Counter[tuple[Any, ...]] = Counter()
        for kind, letters in self._kinds.items():
            groups[kind[:8]] += letters
        return Replay(
            run_id=run_id,
            at_ms=time.time_ns() // 1_000_000,
            vendor=vendor,
            tenant_id=tenant_id,
            topic=topic,
            done=_as_pairs(self._done),
            parked=_as_pairs(self._parked),
            groups=tuple(
                GroupCount(**dict(zip(_Kind._fields, group, strict=False)), events=letters)
                for group, letters in groups.items()
            ),
            fixups=fixups,
        )


def _as_pairs(spans: _Spans) -> dict[str, tuple[tuple[int, int], ...]]:
    return {str(partition): tuple((first, last) for first, last in pairs) for partition, pairs in spans.items()}
