"""The native events of Genesys Cloud CX: what a call and a status change become on the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

import orjson

from devstack.simulators.agents import StatusChange
from devstack.simulators.instants import iso
from devstack.simulators.replay import Release
from devstack.simulators.schedule import Occurrence
from devstack.simulators.trace import Call

STREAMS = ("conversation", "routing", "interaction")
CONVERSATION_KINDS = ("customer.start", "customer.end", "acd.start", "acd.end", "user.start", "user.end", "acw")
ROUTING_STATUS = "routingStatus"
PROVIDER = "Edge"

_STREAM_OF = {"customer": "conversation", "acd": "routing", "user": "interaction", ROUTING_STATUS: "routing"}
_IDS = UUID("6d0f7f0e-8f0c-5d52-9d1a-0c2f1b7a9e11")
DIVISION_ID = str(uuid5(_IDS, "division"))


def of_call(call: Call) -> Iterator[Occurrence]:
    """A call's native events in the order of cause and effect."""
    yield Occurrence(call.started_ms, "customer.start", call, ("conversation.started",))
    if call.queued_ms is not None:
        yield Occurrence(call.queued_ms, "acd.start", call, ("conversation.queued",))
        if call.answered_ms is None:
            yield Occurrence(call.ended_ms, "acd.end", call, ("conversation.abandoned",))
        else:
            yield Occurrence(call.answered_ms, "acd.end", call, ("conversation.assigned",))
            yield Occurrence(call.answered_ms, "user.start", call, ("conversation.connected",))
            yield Occurrence(call.ended_ms, "user.end", call, ("conversation.handled",))
    yield Occurrence(call.ended_ms, "customer.end", call, ("conversation.ended",))


def of_status(change: StatusChange) -> Occurrence:
    """The native event of a status change."""
    return Occurrence(change.at_ms, ROUTING_STATUS, change, ("agent.status_changed",))


def message(occurrence: Occurrence) -> dict[str, Any]:
    """The message as the vendor sends it."""
    at_ms, kind, subject, _ = occurrence
    if isinstance(subject, StatusChange):
        routing = {"status": subject.status.value, "startTime": iso(at_ms)}
        topic = status_topic(subject.agent_id)
        body: dict[str, Any] = {"id": subject.agent_id, ROUTING_STATUS: routing}
    else:
        topic = conversation_topic(subject.conversation_id, kind)
        body = _conversation(subject, kind, at_ms)
    correlation = str(uuid5(_IDS, f"{topic}.{at_ms}"))
    return {"topicName": topic, "version": "2", "eventBody": body, "metadata": {"CorrelationId": correlation}}


def participant_id(call: Call, role: str) -> str:
    """Id of a conversation's participant; role ``customer``, ``acd`` or ``user``."""
    return str(uuid5(_IDS, f"{call.conversation_id}.{role}"))


def session_id(call: Call, role: str) -> str:
    """Id of that participant's session."""
    return str(uuid5(_IDS, f"{call.conversation_id}.{role}.session"))


def ani(call: Call) -> str:
    """Who calls."""
    return f"tel:{call.caller}" if call.caller else "anonymous"


def dnis(call: Call) -> str:
    """Who is called."""
    return f"tel:{call.line}"


def status_topic(agent_id: str) -> str:
    """Topic of an agent's statuses."""
    return f"v2.users.{agent_id}.{ROUTING_STATUS}"


def conversation_topic(conversation_id: str, kind: str) -> str:
    """Topic of a conversation's events of a kind."""
    return f"v2.detail.events.conversation.{conversation_id}.{kind}"


def _conversation(call: Call, kind: str, at_ms: int) -> dict[str, Any]:
    role = kind.partition(".")[0]
    body: dict[str, Any] = {
        "eventTime": at_ms,
        "conversationId": call.conversation_id,
        "participantId": participant_id(call, role),
        "sessionId": session_id(call, role),
        "mediaType": "VOICE",
        "provider": PROVIDER,
        "direction": "INBOUND",
        "ani": ani(call),
        "dnis": dnis(call),
    }
    if role in {"acd", "user"}:
        body["queueId"] = call.queue_id
    match kind:
        case "acd.start":
            body["divisionId"] = DIVISION_ID
        case "acd.end":
            body["divisionId"] = DIVISION_ID
            body["connectedDurationMs"] = call.wait_ms
            if call.hung_up:
                body["acdOutcome"] = "ABANDON"
            else:
                body |= {"acdOutcome": "ANSWERED", "answeredUserId": call.agent_id}
        case "user.start":
            body["userId"] = call.agent_id
        case "user.end":
            durations = {"interactingDurationMs": call.talk_ms, "heldDurationMs": 0, "alertingDurationMs": 0}
            body |= {"userId": call.agent_id, **durations, "disconnectType": "PEER"}
        case "customer.end":
            body["disconnectType"] = "CLIENT" if call.hung_up else "PEER"
    return body


def render(release: Release) -> bytes:
    """The message's JSON, changed if its fields misbehave."""
    document = message(release.occurrence)
    if release.fields is not None:
        release.fields.change(document)
    return orjson.dumps(document)


def stream_of(kind: str) -> str:
    """The stream on which events of a kind go out."""
    return _STREAM_OF[kind.partition(".")[0]]
