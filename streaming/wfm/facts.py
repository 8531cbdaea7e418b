"""Facts: what live queues and agents need of an event, and the blocks in which members pass them on.

A block is one record of a tenant's facts topic: JSON, ``[[partition, first, next, newest_ms, [fact, …]], …]``. Each
segment says for which offsets ``[first, next)`` of which partition of the events topic it stands. So a reader knows
what it has had already, and whether something is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson
from prometheus_client import Counter

from schemas.canonical import CanonicalEvent, EventType

STARTED, QUEUED, ASSIGNED, ABANDONED, FLOWED_OUT, CONNECTED, HANDLED, WRAPUP, ENDED, STATUS = range(10)
"""Kinds of facts: canonical event types as small numbers."""

_KINDS = {
    EventType.STARTED: STARTED,
    EventType.QUEUED: QUEUED,
    EventType.ASSIGNED: ASSIGNED,
    EventType.ABANDONED: ABANDONED,
    EventType.FLOWED_OUT: FLOWED_OUT,
    EventType.CONNECTED: CONNECTED,
    EventType.HANDLED: HANDLED,
    EventType.WRAPUP: WRAPUP,
    EventType.ENDED: ENDED,
    EventType.STATUS_CHANGED: STATUS,
}
# Plain text finds its entry faster than an enum's member does.
KINDS: dict[str, int] = {str(name): kind for name, kind in _KINDS.items()}

# As the warehouse reads numbers of a payload: whole decimals of at most 12 digits; others are no measurement.
_WHOLE = re.compile(r"-?[0-9]{1,12}")
_LONGEST_ID = 256
# Even if each character of each of its ids takes six bytes, so many facts are half of what a record may have.
_FACTS_OF_BLOCK = 1000
_END_OF_TIME_MS = 253_402_300_800_000  # year 10000; the warehouse keeps what is later without a time

long_ids = Counter("ccaas_wfm_long_ids", "Events not in live figures: an id has more than 256 characters")


Fact = tuple[int, int, int, str, str, str | None, str | None, str | None, int | None, int | None]
"""One event, as far as live figures need it; JSON makes an array of it.

Offset of its record, kind, time (epoch ms), event_id, conversation (of a status change: the agent's status), queue,
agent, media, and two lengths in ms: of a leaving the vendor's wait, of a leg talk and hold, of a wrap-up its own.
"""


def whole(text: str | None) -> int | None:
    """A payload's number; None if it is none."""
    if text is None:
        return None
    return int(text) if _WHOLE.fullmatch(text) and text.isascii() else None


def fact_of(event: CanonicalEvent, offset: int) -> Fact | None:
    """The fact in an event; None if live figures have no use for it: another type, no time, no conversation or agent.

    Nor have they one for names and ids that are longer than 256 characters.

    Args:
        event: The event.
        offset: Of its record.
    """
    kind = KINDS.get(event["event_type"])
    at_ms = event["timestamp"]
    if kind is None or not 0 <= at_ms < _END_OF_TIME_MS:
        return None
    get = event["payload"].get
    if kind == STATUS:
        agent = get("agent_id")
        if agent is None:
            return None
        # One without a name still ends the status before it.
        status = get("agent_status", "")
        return _bounded((offset, kind, at_ms, event["event_id"], status, None, agent, None, None, None))
    conversation = get("conversation_id")
    if conversation is None:
        return None
    a_ms = b_ms = None
    if kind == HANDLED:
        a_ms, b_ms = whole(get("talk_ms")), whole(get("hold_ms"))
    elif kind == WRAPUP:
        a_ms = whole(get("acw_ms"))
    elif ASSIGNED <= kind <= FLOWED_OUT:
        a_ms = whole(get("wait_ms"))
    queue, agent, media = get("queue_id"), get("agent_id"), get("media_type")
    return _bounded((offset, kind, at_ms, event["event_id"], conversation, queue, agent, media, a_ms, b_ms))


def _bounded(fact: Fact) -> Fact | None:
    _, _, _, id_, name, queue, agent, media, _, _ = fact
    if (
        len(id_) > _LONGEST_ID
        or len(name) > _LONGEST_ID
        or (queue is not None and len(queue) > _LONGEST_ID)
        or (agent is not None and len(agent) > _LONGEST_ID)
        or (media is not None and len(media) > _LONGEST_ID)
    ):
        long_ids.inc()
        return None
    return fact


class Segment(NamedTuple):
    """Consecutive records of one partition of the events topic.

    Attributes:
        partition: Its number.
        first: Offset at which the segment begins.
        next: Offset behind its last record.
        newest_ms: Newest event time in it that may move the clock, epoch ms; 0 if none.
        facts: In the order of offsets; records without a fact are none.
    """

    partition: int
    first: int
    next: int
    newest_ms: int
    facts: Sequence[Fact]


def cut(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """The same in portions of at most 1,000 facts, of which each makes a record."""
    portion: list[Segment] = []
    room = _FACTS_OF_BLOCK
    for partition, begin, next_, newest_ms, facts in segments:
        first, rest = begin, facts
        while len(rest) > room:
            portion.append(Segment(partition, first, rest[room][0], newest_ms, rest[:room]))
            yield portion
            first, rest = rest[room][0], rest[room:]
            portion, room = [], _FACTS_OF_BLOCK
        portion.append(Segment(partition, first, next_, newest_ms, rest))
        room -= len(rest)
    yield portion


def write_block(segments: Sequence[Segment]) -> bytes:
    """A record's value."""
    return orjson.dumps([tuple(segment) for segment in segments])


def read_block(value: bytes | None) -> list[Segment]:
    """The segments of a record.

    Raises:
        ValueError: it is no block.
    """
    try:
        return [Segment(*segment) for segment in orjson.loads(value or b"")]
    except (TypeError, orjson.JSONDecodeError) as error:
        msg = f"no block of facts: {error}"
        raise ValueError(msg) from None
