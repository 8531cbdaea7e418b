"""CXone's contacts over REST: those that are over, and the states that they went through.

Instants and durations are whole seconds. With a skew of N, a contact's start, its durations other than 0 and the
instants of its states differ from the truth by up to N s, each by a number of its own that is always the same. Which
rows lie in a window goes by the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from devstack.simulators.clock import ReplayClock
from devstack.simulators.cxone_events import end_reason, of_call
from devstack.simulators.instants import iso_seconds
from devstack.simulators.polling import PolledList
from devstack.simulators.queries import Pages
from devstack.simulators.schedule import Occurrence
from devstack.simulators.trace import Call

_STATES = {
    "CALL_STARTED": "PreQueue",
    "QUEUE_ENTERED": "InQueue",
    "AGENT_ASSIGNED": "Active",
    "CALL_ENDED": "EndContact",
}


class Skew:
    """How far REST is off.

    Args:
        seconds: Greatest difference, s.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def instant(self, at_ms: int, key: str) -> str:
        """An instant (epoch ms) as REST tells it; the key says which one it is."""
        return iso_seconds(at_ms + 1000 * self._draw(key))

    def duration(self, duration_ms: int, key: str) -> int:
        """A duration (ms) as REST tells it, s. What never was, such as hold time, stays 0."""
        seconds = duration_ms // 1000
        return max(0, seconds + self._draw(key)) if seconds else 0

    def _draw(self, key: str) -> int:
        return _hash(key) % (2 * self._seconds + 1) - self._seconds if self._seconds else 0


def completed_contacts(calls: list[Call], clock: ReplayClock, pages: Pages, skew: Skew) -> PolledList[Call]:
    """``contacts/completed``: by the time of their end, then by id."""

    def show(call: Call, query: Mapping[str, str]) -> dict[str, Any]:
        row = _completed(call, skew)
        if "fields" not in query:
            return row
        wanted = {name.strip().lower() for name in query["fields"].split(",")}
        return {name: value for name, value in row.items() if name.lower() in wanted}

    return PolledList(
        "completedContacts",
        sorted(calls, key=lambda call: (call.ended_ms, call.conversation_id)),
        at_ms=lambda call: call.ended_ms,
        show=show,
        clock=clock,
        pages=pages,
        whole_seconds=True,
    )


def contact_states(calls: list[Call], clock: ReplayClock, pages: Pages, skew: Skew) -> PolledList[Occurrence]:
    """``contacts/state-history``: by time; a contact's own in the order of cause and effect."""
    occurrences = [occurrence for call in calls for occurrence in of_call(call)]

    def show(occurrence: Occurrence, _: Mapping[str, str]) -> dict[str, Any]:
        return _state(occurrence, skew)

    return PolledList(
        "contactStates",
        sorted(occurrences, key=lambda occurrence: occurrence.at_ms),
        at_ms=lambda occurrence: occurrence.at_ms,
        show=show,
        clock=clock,
        pages=pages,
        whole_seconds=True,
    )


def _completed(call: Call, skew: Skew) -> dict[str, Any]:
    contact = call.conversation_id
    # The vendor spells it either way.
    acw = "ACWSeconds" if _hash(f"{contact}.spelling") % 2 else "acwSeconds"
    durations = {
        "inQueueSeconds": call.wait_ms,
        "agentSeconds": call.talk_ms,
        "holdSeconds": 0,
        acw: 0,
        "totalDurationSeconds": call.ended_ms - call.started_ms,
    }
    return {
        "contactId": contact,
        "masterContactId": contact,
        "contactStartDate": skew.instant(call.started_ms, f"{contact}.start"),
        **({} if call.queued_ms is None else {"skillId": call.queue_id}),
        **({} if call.agent_id is None else {"agentId": call.agent_id}),
        **{name: skew.duration(value, f"{contact}.{name.lower()}") for name, value in durations.items()},
        "abandoned": call.hung_up,
        "mediaTypeName": "Call",
        "isOutbound": False,
        "fromAddress": call.caller or "anonymous",
        "toAddress": call.line,
        "endReason": end_reason(call),
    }


def _state(occurrence: Occurrence, skew: Skew) -> dict[str, Any]:
    at_ms, kind, call, _ = occurrence
    if not isinstance(call, Call):
        raise TypeError(kind)
    has_skill = kind != "CALL_STARTED" and call.queued_ms is not None
    has_agent = kind in {"AGENT_ASSIGNED", "CALL_ENDED"} and call.agent_id is not None
    return {
        "contactId": call.conversation_id,
        "contactStateName": _STATES[kind],
        "stateStartDate": skew.instant(at_ms, f"{call.conversation_id}.{kind}"),
        **({"skillId": call.queue_id} if has_skill else {}),
        **({"agentId": call.agent_id} if has_agent else {}),
    }


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
