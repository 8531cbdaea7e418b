"""Lets the scheduled events go, by the clock and as the misbehaviour has it, and counts them."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Literal, NamedTuple

from devstack.simulators.clock import ReplayClock
from devstack.simulators.misbehaviour import Fields, Misbehaviour
from devstack.simulators.schedule import Occurrence, canonical_counts

# Time between two looks at the clock. Each look releases all that is due, so that a late one costs no pace.
_TICK_S = 0.005
# Events released before other tasks get their turn.
_CHUNK = 200
# The clock stops so long after the last event: whoever asks for what happened before "now" gets all of it.
_AFTER_THE_LAST_MS = 1000

# What became of an event; 0 is nothing yet.
_SENT, _MISSING = 1, 2

State = Literal["idle", "running", "done"]


class Release(NamedTuple):
    """One event as it goes out.

    Attributes:
        place: Its place in the schedule.
        occurrence: What happened.
        fields: Changes to its message.
        signs_wrongly: Fault of its signature, if the vendor signs.
    """

    place: int
    occurrence: Occurrence
    fields: Fields | None = None
    signs_wrongly: Literal["wrong", "unknown"] | None = None


class Tally:
    """Counts of native events and of the canonical ones that they must become.

    Args:
        schedule: All that is to come.
    """

    def __init__(self, schedule: Sequence[Occurrence]) -> None:
        self.total = len(schedule)
        self.expected = canonical_counts(schedule)
        self.sent: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.sent_native = 0
        self._fates = bytearray(len(schedule))

    def mark_sent(self, index: int, occurrence: Occurrence) -> None:
        """The event is out: counted once, however often it goes out."""
        fate, self._fates[index] = self._fates[index], _SENT
        if fate == _SENT:
            return
        if fate == _MISSING:  # another copy of it was given up before
            self.missing.subtract(occurrence.canonical)
        self.sent_native += 1
        self.sent.update(occurrence.canonical)

    def mark_missing(self, index: int, occurrence: Occurrence) -> None:
        """The event will not go out any more; nothing if a copy of it did."""
        if not self._fates[index]:
            self._fates[index] = _MISSING
            self.missing.update(occurrence.canonical)


class Replay:
    """One replay of a schedule.

    Args:
        schedule: By time, not empty.
        misbehaviour: Decides what goes wrong.
        release: Takes an event that goes out; may wait until there is room for it.
        flush: Called after each batch of them.
        exempt: Kinds that are not sent but fetched, so that they can't be dropped, late or double.
    """

    def __init__(
        self,
        schedule: Sequence[Occurrence],
        misbehaviour: Misbehaviour,
        release: Callable[[Release], Awaitable[None]],
        *,
        flush: Callable[[], None] = lambda: None,
        exempt: Collection[str] = (),
    ) -> None:
        self.clock = ReplayClock(schedule[0].at_ms, schedule[-1].at_ms + _AFTER_THE_LAST_MS)
        self.tally = Tally(schedule)
        self._schedule = schedule
        self._misbehaviour = misbehaviour
        self._release = release
        self._flush = flush
        self._exempt = frozenset(exempt)
        self._next = 0
        # (due ms, rank among the schedule's places, index, copy, event); bounded by the schedule.
        self._due: list[tuple[int, float, int, int, Release]] = []
        self._begun = asyncio.Event()
        self._is_over = False

    @property
    def state(self) -> State:
        """``done`` once every event is out or dropped and the clock stands."""
        return "done" if self._is_over else "running" if self._begun.is_set() else "idle"

    def start(self, speed: float) -> None:
        """Begin at the first event; see :meth:`ReplayClock.start`."""
        self.clock.start(speed)
        self._begun.set()

    async def run(self) -> None:
        """Wait for the start, then release everything."""
        await self._begun.wait()
        schedule, clock = self._schedule, self.clock
        while self._next < len(schedule) or self._due:
            if clock.is_unpaced:
                upcoming = schedule[self._next].at_ms if self._next < len(schedule) else self._due[0][0]
                now_ms = min(upcoming, self._due[0][0]) if self._due else upcoming
            else:
                now_ms = clock.now_ms()
            until_ms = self._misbehaviour.held_ms(now_ms)
            await self._release_until(until_ms)
            clock.advance(until_ms)
            await asyncio.sleep(0 if clock.is_unpaced and until_ms == now_ms else _TICK_S)
        clock.advance(clock.end_ms)
        if not clock.is_unpaced:
            await asyncio.sleep((clock.end_ms - clock.now_ms()) / 1000 / clock.speed + _TICK_S)
        self._is_over = True

    async def _release_until(self, now_ms: int) -> None:
        schedule, due = self._schedule, self._due
        while self._next < len(schedule) and schedule[self._next].at_ms <= now_ms:
            self._take(self._next, schedule[self._next])
            self._next += 1
        released = 0
        while due and due[0][0] <= now_ms:
            await self._release(heapq.heappop(due)[-1])
            released += 1
            if released % _CHUNK == 0:
                self._flush()
                await asyncio.sleep(0)
        if released:
            self._flush()

    def _take(self, index: int, occurrence: Occurrence) -> None:
        """Decide what becomes of an event whose time has come."""
        plan, kind, faults = self._misbehaviour, occurrence.kind, self.tally.faults
        if kind in self._exempt:
            heapq.heappush(self._due, (occurrence.at_ms, index, index, 0, Release(index, occurrence)))
            return
        if plan.drops(kind, index):
            faults["dropped"] += 1
            self.tally.mark_missing(index, occurrence)
            return
        due_ms, rank = occurrence.at_ms, float(index)
        if delay_ms := plan.delay_ms(kind, index):
            faults["delayed"] += 1
            due_ms += delay_ms
        overtaker = min(index + plan.places(kind, index), len(self._schedule) - 1)
        if overtaker > index:
            faults["reordered"] += 1
            due_ms, rank = max(due_ms, self._schedule[overtaker].at_ms), overtaker + 0.5
        self.clock.extend(due_ms + _AFTER_THE_LAST_MS)
        fields, signs_wrongly = plan.fields(kind, index, occurrence.at_ms), plan.signs_wrongly(kind, index)
        faults["changed"] += fields is not None
        faults["wrongly_signed"] += signs_wrongly is not None
        release = Release(index, occurrence, fields, signs_wrongly)
        heapq.heappush(self._due, (due_ms, rank, index, 0, release))
        if plan.duplicates(kind, index):
            faults["duplicated"] += 1
            heapq.heappush(self._due, (due_ms, rank, index, 1, release))
