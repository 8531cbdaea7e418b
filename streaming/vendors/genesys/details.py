"""From REST details to the native messages that the stream would have sent.

Only the shape differs: what comes out goes through the same field map as the stream's messages, so events get the same
payload and the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from streaming.errors import BadEventError
from streaming.instants import to_ms

Json = dict[str, Any]
Message = dict[str, Any]

_CONVERSATION = "v2.detail.events.conversation"
# The agent's leg may begin a moment before the queue's segment ends.
_SKEW_MS = 2_000
_WRAPUP, _ALERT, _HOLD = "wrapup", "alert", "hold"


def conversation_messages(conversation: Any) -> list[Message]:
    """All native messages of one element of ``conversations[]``, as far as they have happened.

    Args:
        conversation: participants → sessions → segments; a segment that is not over has no ``segmentEnd``.

    Raises:
        BadEventError: it has not that structure.
    """
    return _converted(conversation, _of_conversation, "conversationId")


def status_messages(user: Any) -> list[Message]:
    """The ``routingStatus`` messages of one element of ``userDetails[]``.

    Raises:
        BadEventError: it has not that structure.
    """
    return _converted(user, _of_user, "userId")


def _converted(row: Any, convert: Callable[[Json], Iterable[Message]], id_key: str) -> list[Message]:
    if not isinstance(row, dict):
        msg = f"details: a JSON object is needed, not {type(row).__name__}"
        raise BadEventError(msg, reason="unparsable")
    try:
        return list(convert(row))
    except KeyError as missing:
        msg = f"details of {row.get(id_key)}: {missing.args[0]} is missing"
        raise BadEventError(msg, reason="missing_field", path=str(missing.args[0])) from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        msg = f"details of {row.get(id_key)}: not of the documented structure ({type(error).__name__})"
        raise BadEventError(msg, reason="unparsable") from None


def _of_user(user: Json) -> Iterator[Message]:
    for status in user.get("routingStatus") or ():
        routing = {"status": status["routingStatus"], "startTime": status["startTime"]}
        yield {
            "topicName": f"v2.users.{user['userId']}.routingStatus",
            "version": "2",
            "eventBody": {"id": user["userId"], "routingStatus": routing},
        }


def _of_conversation(conversation: Json) -> Iterator[Message]:
    conversation_id = conversation["conversationId"]
    participants = conversation.get("participants") or ()
    told = _Told(_agent_legs(participants), conversation.get("conversationEnd") is not None)
    customer = _customer_address(participants)
    for participant in participants:
        make = _MAKERS.get(participant["purpose"])
        if make is None:
            continue  # ivr, workflow, external, …: the stream has no topic of theirs
        for session in participant.get("sessions") or ():
            if not session.get("segments"):
                continue  # just made: nothing has happened in it yet
            common = {
                "conversationId": conversation_id,
                "participantId": participant.get("participantId"),
                "sessionId": session.get("sessionId"),
                "mediaType": str(session["mediaType"]).upper(),
                "direction": str(session.get("direction") or conversation.get("originatingDirection") or "").upper(),
                "provider": session.get("provider"),
                **customer,
            }
            for kind, at_ms, body in make(participant, session, told):
                yield {
                    "topicName": f"{_CONVERSATION}.{conversation_id}.{kind}",
                    "version": "2",
                    "eventBody": {"eventTime": at_ms, **_known(common), **_known(body)},
                }


Part = tuple[str, int, Json]
Legs = list[tuple[int, str, str | None]]  # begin, epoch ms; user; queue


class _Told(NamedTuple):
    """What one session's messages need of the others."""

    legs: Legs
    is_over: bool


def _customer(participant: Json, session: Json, told: _Told) -> Iterator[Part]:  # noqa: ARG001 (one signature)
    segments = session["segments"]
    yield "customer.start", _ms(segments[0]["segmentStart"]), {}
    # Between two segments the last one is over, and the conversation is not.
    if told.is_over and (end := segments[-1].get("segmentEnd")) is not None:
        yield "customer.end", _ms(end), {"disconnectType": _upper(segments[-1])}


def _acd(participant: Json, session: Json, told: _Told) -> Iterator[Part]:  # noqa: ARG001
    segments = session["segments"]
    for segment in segments:
        queue = {"queueId": segment["queueId"]}
        begin = _ms(segment["segmentStart"])
        yield "acd.start", begin, queue
        if segment.get("segmentEnd") is None:
            continue
        end = _ms(segment["segmentEnd"])
        # The session's metrics are of its end, so of its last segment.
        metrics = _metrics(session) if segment is segments[-1] else {}
        left = _outcome(metrics, told, end, segment["queueId"])
        if left is None:
            continue
        waited = metrics.get("tAcd", end - begin) if len(segments) == 1 else end - begin
        yield "acd.end", end, {**queue, **left, "connectedDurationMs": waited}


def _outcome(metrics: Json, told: _Told, at_ms: int, queue_id: str) -> Json | None:
    """How the queue was left: the vendor's metrics say so, else the agent's leg that begins then.

    None while it can't be known: REST may tell of the agent a moment after it told of the queue.
    """
    if "tAbandon" in metrics:
        return {"acdOutcome": "ABANDON"}
    if "tFlowOut" in metrics:
        return {"acdOutcome": "FLOW_OUT"}
    answering = [leg for leg in told.legs if leg[0] >= at_ms - _SKEW_MS and leg[2] in {queue_id, None}]
    if answering:
        return {"acdOutcome": "ANSWERED", "answeredUserId": min(answering)[1]}
    return {"acdOutcome": "UNKNOWN"} if told.is_over else None


def _agent(participant: Json, session: Json, told: _Told) -> Iterator[Part]:
    talked = [segment for segment in session["segments"] if segment["segmentType"] not in {_WRAPUP, _ALERT}]
    if not talked:
        return  # alerted only: the agent had no leg
    leg = {"userId": participant["userId"], "queueId": talked[0].get("queueId")}
    metrics = _metrics(session)
    yield "user.start", _ms(talked[0]["segmentStart"]), leg
    # Between two segments, talk and hold, the last one is over, and the leg is not.
    last = talked[-1]
    is_over = told.is_over or last.get("disconnectType") is not None or session["segments"][-1] is not last
    if is_over and last.get("segmentEnd") is not None:
        durations = {
            "interactingDurationMs": metrics.get("tTalk", _lasted(s for s in talked if s["segmentType"] != _HOLD)),
            "heldDurationMs": metrics.get("tHeld", _lasted(s for s in talked if s["segmentType"] == _HOLD)),
            "alertingDurationMs": metrics.get("tAlert", 0),
        }
        yield "user.end", _ms(last["segmentEnd"]), {**leg, **durations, "disconnectType": _upper(last)}
    for segment in session["segments"]:
        if segment["segmentType"] == _WRAPUP and segment.get("segmentEnd") is not None:
            wrapup = {"wrapupCode": segment.get("wrapUpCode"), "wrapupDurationMs": _lasted([segment])}
            yield "acw", _ms(segment["segmentEnd"]), {**leg, **wrapup}


_MAKERS: dict[str, Callable[[Json, Json, _Told], Iterator[Part]]] = {
    "customer": _customer,
    "acd": _acd,
    "agent": _agent,
}


def _agent_legs(participants: Iterable[Json]) -> Legs:
    legs: Legs = []
    for participant in participants:
        if participant.get("purpose") != "agent":
            continue
        for session in participant.get("sessions") or ():
            talked = [s for s in session.get("segments") or () if s["segmentType"] not in {_WRAPUP, _ALERT}]
            if talked:
                legs.append((_ms(talked[0]["segmentStart"]), participant["userId"], talked[0].get("queueId")))
    return legs


def _customer_address(participants: Iterable[Json]) -> Json:
    """The stream names the caller in every message; REST only with the customer's session, if there."""
    for participant in participants:
        if participant.get("purpose") == "customer":
            for session in participant.get("sessions") or ():
                return _known({"ani": session.get("ani"), "dnis": session.get("dnis")})
    return {}


def _metrics(session: Json) -> Json:
    """Name → value of the session's metrics; one that is given more than once is added up."""
    values: Json = {}
    for metric in session.get("metrics") or ():
        values[metric["name"]] = values.get(metric["name"], 0) + metric["value"]
    return values


def _lasted(segments: Iterable[Json]) -> int:
    return sum(_ms(segment["segmentEnd"]) - _ms(segment["segmentStart"]) for segment in segments)


def _known(body: Json) -> Json:
    return {key: value for key, value in body.items() if value is not None}


def _upper(segment: Json) -> str | None:
    kind = segment.get("disconnectType")
    return kind.upper() if isinstance(kind, str) else None


def _ms(instant: str) -> int:
    """ISO 8601 with an offset as epoch ms; TypeError without one."""
    return to_ms(datetime.fromisoformat(instant))
