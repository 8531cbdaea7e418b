"""What a conversation adds to intervals of queues and agents, and where it is now: a function of the set of its facts.

So neither the order in which facts come plays a part, nor from which partition or member. The rules are those of the
warehouse (``warehouse/sql/facts.sql``, docs/warehouse.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from sys import intern
from typing import Any, NamedTuple

import orjson
from prometheus_client import Counter

from streaming.wfm.facts import (
    ABANDONED,
    ASSIGNED,
    CONNECTED,
    ENDED,
    FLOWED_OUT,
    HANDLED,
    QUEUED,
    STARTED,
    WRAPUP,
    Fact,
)

crowded_facts = Counter(
    "ccaas_wfm_crowded_facts", "Events not in live figures, since too many name the same conversation or agent"
)

MOST_FACTS = 1000
"""Of one conversation. An id that so many events share is none of a conversation: no more of it is counted."""

COLUMNS = (
    "offered",
    "answered",
    "abandoned",
    "flowed_out",
    "answered_in_threshold",
    "wait_answered_ms",
    "wait_abandoned_ms",
    "handled",
    "talk_ms",
    "hold_ms",
    "acw_ms",
)
"""Sums of a queue's interval, as in ``queue_intervals``."""

(
    _OFFERED, _ANSWERED, _ABANDONED, _FLOWED_OUT, _WITHIN, _WAIT_ANSWERED, _WAIT_ABANDONED, _HANDLED, _TALK, _HOLD, _ACW
) = range(len(COLUMNS))  # fmt: skip

_TIME_BYTES = 6
UNKNOWN_MEDIA = "UNKNOWN"
WAITING, IN_PROGRESS = "waiting", "in_progress"

Part = tuple[str, str, int, int, int]
"""Queue, media, interval's start (epoch ms), column, amount."""

# What is kept of a fact: kind, time, event_id, queue, agent, media and its two lengths.
_Kept = tuple[int, int, str, str | None, str | None, str | None, int | None, int | None]


class Rules(NamedTuple):
    """How figures are cut and judged.

    Attributes:
        step_ms: Length of an interval.
        threshold_ms: An answer after at most this wait is within the service level.
    """

    step_ms: int
    threshold_ms: int


class Place(NamedTuple):
    """Where a conversation is now.

    Attributes:
        doing: ``waiting`` or ``in_progress`` (with an agent).
        queue: Of that queue.
        media: Its media.
        since_ms: Since when, epoch ms.
    """

    doing: str
    queue: str
    media: str
    since_ms: int


class Conversation:
    """Facts of one conversation, each once by event_id.

    Attributes:
        parts: What it added to queues' intervals when it was last measured.
        legs: Agents' finished legs: agent and interval's start.
        place: Where it is now, None if nowhere.
        last_ms: Its newest time, epoch ms.
    """

    __slots__ = ("_connected", "_ended", "_facts", "_first_media", "_stale", "last_ms", "legs", "parts", "place")

    def __init__(self) -> None:
        self._facts: dict[str, _Kept] = {}
        # Of the facts that matter only by one of them: the first that names a media, the newest leg begun.
        self._first_media: tuple[int, str, str] | None = None
        self._connected: tuple[int, str, str | None, str | None] | None = None
        self._ended = False
        self._stale = True
        self.last_ms = 0
        self.parts: list[Part] = []
        self.legs: list[tuple[str, int]] = []
        self.place: Place | None = None

    def __len__(self) -> int:
        return 1 + len(self._facts)

    @property
    def is_full(self) -> bool:
        """Whether it takes in nothing more."""
        return len(self._facts) >= MOST_FACTS

    @property
    def is_over(self) -> bool:
        """Whether its end was seen."""
        return self._ended

    def add(self, fact: Fact) -> bool:
        """Take a fact in; False if it was there already, or there is no room."""
        _, kind, at_ms, id_, _, queue, agent, media, a_ms, b_ms = fact
        if id_ in self._facts:
            return False
        if len(self._facts) >= MOST_FACTS:
            crowded_facts.inc()
            return False
        self.last_ms = max(self.last_ms, at_ms)
        # The same few names come again and again, each time as a new object.
        queue, agent, media = _one(queue), _one(agent), _one(media)
        if media is not None and (self._first_media is None or (at_ms, id_) < self._first_media[:2]):
            self._first_media = at_ms, id_, media
            self._stale = True
        if kind == ENDED:
            self._ended = True
        elif kind == CONNECTED:
            if self._connected is None or (at_ms, id_) > self._connected[:2]:
                self._connected = at_ms, id_, queue, agent
        elif kind != STARTED:
            self._facts[id_] = kind, at_ms, id_, queue, agent, media, a_ms, b_ms
            self._stale = True
            if len(self._facts) >= MOST_FACTS:  # it is nowhere any more: no end of it would be known from another's
                self._ended = True
        return True

    def measure(self, rules: Rules) -> None:
        """Compute parts, legs and place anew."""
        if self._ended and not self._stale:
            self.place = None
            return
        self._stale = False
        self.parts, self.legs = [], []
        queued: list[_Kept] = []
        exits: list[_Kept] = []
        handled: list[_Kept] = []
        wrapups: list[_Kept] = []
        for kept in self._facts.values():
            kind = kept[0]
            if kind == QUEUED:
                queued.append(kept)
            elif kind == HANDLED:
                handled.append(kept)
            elif kind == WRAPUP:
                wrapups.append(kept)
            else:
                exits.append(kept)
        default = UNKNOWN_MEDIA if self._first_media is None else self._first_media[2]
        step = rules.step_ms
        for _, at_ms, _, queue, _, media, _, _ in queued:
            if queue is not None:
                self.parts.append((queue, _or(media, default), at_ms - at_ms % step, _OFFERED, 1))
        if exits:
            self._measure_exits(exits, queued, default, rules)
        if handled:
            self._measure_legs(handled, wrapups, default, step)
        self.place = None if self._ended else self._find_place(queued, exits, handled, default)

    def _measure_exits(self, exits: list[_Kept], queued: list[_Kept], default: str, rules: Rules) -> None:
        """Answers, abandons, flow-outs: at their time, with the vendor's wait, else the time since the last entry."""
        parts, step = self.parts, rules.step_ms
        for kind, at_ms, _, queue, _, media, told, _ in exits:
            if queue is None:
                continue
            name, interval = _or(media, default), at_ms - at_ms % step
            if kind == FLOWED_OUT:
                parts.append((queue, name, interval, _FLOWED_OUT, 1))
                continue
            wait = told
            if wait is None or wait < 0:
                entered = [entry[1] for entry in queued if entry[3] == queue and entry[1] <= at_ms]
                wait = at_ms - max(entered) if entered else None
            if kind == ABANDONED:
                parts.append((queue, name, interval, _ABANDONED, 1))
                if wait:
                    parts.append((queue, name, interval, _WAIT_ABANDONED, wait))
                continue
            parts.append((queue, name, interval, _ANSWERED, 1))
            if wait is not None:
                if wait <= rules.threshold_ms:
                    parts.append((queue, name, interval, _WITHIN, 1))
                if wait:
                    parts.append((queue, name, interval, _WAIT_ANSWERED, wait))

    def _measure_legs(self, handled: list[_Kept], wrapups: list[_Kept], default: str, step: int) -> None:
        """A leg counts when its wrap-up ends: the first one at or after it and before the agent's next leg there."""
        ends: dict[str, _Kept] = {}
        for wrapup in sorted(wrapups, key=_when, reverse=True):  # so that the first one stays
            before = [leg for leg in handled if leg[3:5] == wrapup[3:5] and leg[1] <= wrapup[1]]
            if before:
                ends[max(before, key=_when)[2]] = wrapup
        for leg in handled:
            _, at_ms, id_, queue, agent, media, talk, hold = leg
            end = ends.get(id_)
            if end is not None:
                at_ms = end[1]
            interval = at_ms - at_ms % step
            if agent is not None:
                self.legs.append((agent, interval))
            if queue is None:
                continue
            name = _or(media, default)
            self.parts.append((queue, name, interval, _HANDLED, 1))
            for column, amount in ((_TALK, talk), (_HOLD, hold), (_ACW, end[6] if end else None)):
                if amount is not None and amount > 0:
                    self.parts.append((queue, name, interval, column, amount))

    def _find_place(self, queued: list[_Kept], exits: list[_Kept], handled: list[_Kept], default: str) -> Place | None:
        """In the queue that it entered last and has not left; else on the newest leg, if that has not ended."""
        if queued:
            _, at_ms, _, queue, _, media, _, _ = max(queued, key=_when)
            if queue is not None and not any(left[3] == queue and left[1] >= at_ms for left in exits):
                return Place(WAITING, queue, _or(media, default), at_ms)
        begun = [(left[1], left[2], left[3], left[4]) for left in exits if left[0] == ASSIGNED]
        if self._connected is not None:
            begun.append(self._connected)
        if not begun:
            return None
        at_ms, _, queue, agent = max(begun, key=lambda leg: leg[:2])
        if queue is None or any(leg[3] == queue and leg[4] == agent and leg[1] >= at_ms for leg in handled):
            return None
        return Place(IN_PROGRESS, queue, default, at_ms)

    def pack(self) -> bytes:
        """Everything that is to be known of it, in a sixth of the room."""
        return self.last_ms.to_bytes(_TIME_BYTES) + zlib.compress(orjson.dumps(self.dump()), 1)

    def dump(self) -> list[Any]:
        """Everything that is to be known of it, for JSON."""
        facts = list(self._facts.values())
        return [facts, self._first_media, self._connected, self._ended, self.last_ms]

    @classmethod
    def load(cls, state: Sequence[Any]) -> Conversation:
        """What :meth:`dump` gave; not measured yet."""
        conversation = cls()
        facts, media, connected, conversation._ended, conversation.last_ms = state
        conversation._facts = {
            id_: (kind, at_ms, id_, _one(queue), _one(agent), _one(media), a_ms, b_ms)
            for kind, at_ms, id_, queue, agent, media, a_ms, b_ms in facts
        }
        conversation._first_media = None if media is None else tuple(media)
        conversation._connected = None if connected is None else tuple(connected)
        return conversation


def last_ms_of(packed: bytes) -> int:
    """``last_ms`` of what :meth:`Conversation.pack` gave."""
    return int.from_bytes(packed[:_TIME_BYTES])


def json_of(packed: bytes) -> bytes:
    """What :meth:`Conversation.dump` gave before it was packed, as JSON."""
    return zlib.decompress(packed[_TIME_BYTES:])


def _one(name: str | None) -> str | None:
    return None if name is None else intern(name)


def _or(media: str | None, default: str) -> str:
    return default if media is None else media


def _when(kept: _Kept) -> tuple[int, str]:
    """Order of time; ties are broken by event_id."""
    return kept[1], kept[2]
