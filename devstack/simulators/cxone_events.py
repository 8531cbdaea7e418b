"""The native events of NICE CXone: what a call becomes in webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

from devstack.simulators.instants import iso
from devstack.simulators.schedule import Occurrence
from devstack.simulators.trace import Call

EVENTS = ("CALL_STARTED", "QUEUE_ENTERED", "AGENT_ASSIGNED", "CALL_ENDED")
AGENT_STATE = "AGENT_STATE"

_IDS = UUID("1c8a4f0b-5a55-5c0e-9a7e-53f1ab8f8d02")


def of_call(call: Call) -> Iterator[Occurrence]:
    """A call's native events in the order of cause and effect."""
    yield Occurrence(call.started_ms, "CALL_STARTED", call, ("conversation.started",))
    ended: tuple[str, ...] = ("conversation.ended",)
    if call.queued_ms is not None:
        yield Occurrence(call.queued_ms, "QUEUE_ENTERED", call, ("conversation.queued",))
        if call.hung_up:
            ended = ("conversation.abandoned", *ended)
    if call.answered_ms is not None:
        yield Occurrence(call.answered_ms, "AGENT_ASSIGNED", call, ("conversation.assigned",))
        ended = ("conversation.handled", *ended)
    yield Occurrence(call.ended_ms, "CALL_ENDED", call, ended)


def message(occurrence: Occurrence) -> dict[str, Any]:
    """The body of a webhook.

    Raises:
        TypeError: it is no call's event.
    """
    at_ms, kind, call, _ = occurrence
    if not isinstance(call, Call):
        raise TypeError(kind)
    body: dict[str, Any] = {
        "eventId": str(uuid5(_IDS, f"{call.conversation_id}.{kind}")),
        "eventType": kind,
        "timestamp": iso(at_ms),
        "contactId": call.conversation_id,
        "masterContactId": call.conversation_id,
        "mediaType": "Call",
        "isOutbound": False,
        "fromAddr": call.caller or "anonymous",
        "toAddr": call.line,
    }
    if kind != "CALL_STARTED" and call.queued_ms is not None:
        body["skillId"] = call.queue_id
    if kind in {"AGENT_ASSIGNED", "CALL_ENDED"} and call.agent_id is not None:
        body["agentId"] = call.agent_id
    if kind == "CALL_ENDED":
        body |= {
            "abandoned": call.hung_up,
            "inQueueSeconds": call.wait_ms // 1000,
            "agentSeconds": call.talk_ms // 1000,
            "holdSeconds": 0,
            "acwSeconds": 0,
            "totalDurationSeconds": (call.ended_ms - call.started_ms) // 1000,
            "endReason": end_reason(call),
        }
    return body


def end_reason(call: Call) -> str:
    """Why a contact is over."""
    return "Contact Hung Up" if call.hung_up else "Contact Ended"
