"""Genesys Cloud CX as a process: ``python -m devstack.simulators.genesys``.

- ``POST /login/oauth/token``: client credentials; scope ``streaming:read``.
- ``GET /stream?topics=conversation,routing,interaction``: server-sent events. ``Last-Event-ID`` resumes after that
  event; without it the stream begins at the first event of the replay. 401 bad token, 403 scope missing, 400 unknown
  topic, 412 ``cursor.unknown`` for a cursor that this process never gave.
- ``/control``: see :mod:`devstack.simulators.control`.

"Sent" counts what was released on the stream, whoever was connected: who resumes gets it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from devstack.simulators.agents import StatusChange
from devstack.simulators.control import Control, RefusalMiddleware, iso, problem
from devstack.simulators.eventlog import EventLog, EventStream, UnknownCursorError
from devstack.simulators.misbehaviour import Misbehaviour
from devstack.simulators.oauth import Client, RefusedTokenError, TokenIssuer
from devstack.simulators.replay import Release, Replay
from devstack.simulators.schedule import Occurrence, build_schedule
from devstack.simulators.serving import Simulator, common_arguments, run
from devstack.simulators.trace import Call, read_trace

SCOPE = "streaming:read"
# The client also gets a scope of another API, so that a token without streaming:read can be had.
SCOPES = frozenset({SCOPE, "analytics:read"})
STREAMS = ("conversation", "routing", "interaction")
ROUTING_STATUS = "routingStatus"

_STREAM_OF = {"customer": "conversation", "acd": "routing", "user": "interaction", ROUTING_STATUS: "routing"}
_IDS = UUID("6d0f7f0e-8f0c-5d52-9d1a-0c2f1b7a9e11")
_DIVISION = str(uuid5(_IDS, "division"))


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
        topic = f"v2.users.{subject.agent_id}.{ROUTING_STATUS}"
        body: dict[str, Any] = {"id": subject.agent_id, ROUTING_STATUS: routing}
    else:
        topic = f"v2.detail.events.conversation.{subject.conversation_id}.{kind}"
        body = _conversation(subject, kind, at_ms)
    correlation = str(uuid5(_IDS, f"{topic}.{at_ms}"))
    return {"topicName": topic, "version": "2", "eventBody": body, "metadata": {"CorrelationId": correlation}}


def _conversation(call: Call, kind: str, at_ms: int) -> dict[str, Any]:
    role = kind.partition(".")[0]
    body: dict[str, Any] = {
        "eventTime": at_ms,
        "conversationId": call.conversation_id,
        "participantId": str(uuid5(_IDS, f"{call.conversation_id}.{role}")),
        "sessionId": str(uuid5(_IDS, f"{call.conversation_id}.{role}.session")),
        "mediaType": "VOICE",
        "provider": "Edge",
        "direction": "INBOUND",
        "ani": f"tel:{call.caller}" if call.caller else "anonymous",
        "dnis": f"tel:{call.line}",
    }
    if role in {"acd", "user"}:
        body["queueId"] = call.queue_id
    match kind:
        case "acd.start":
            body["divisionId"] = _DIVISION
        case "acd.end":
            body["divisionId"] = _DIVISION
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


class StreamEndpoint:
    """``GET /stream``, as a plain ASGI application.

    Args:
        issuer: Knows the tokens.
        logs: The log of each tenant; the token's client says which one is read.
    """

    def __init__(self, issuer: TokenIssuer, logs: dict[str, EventLog]) -> None:
        self._issuer = issuer
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One reader."""
        request = Request(scope)
        try:
            client = self._issuer.check(request, SCOPE)
        except RefusedTokenError as refused:
            await refused.answer(scope, receive, send)
            return
        topics = [topic for topic in request.query_params.get("topics", ",".join(STREAMS)).split(",") if topic]
        if not topics or not set(topics) <= set(STREAMS):
            await problem(400, "bad.topics", f"topics: any of {','.join(STREAMS)}")(scope, receive, send)
            return
        log = self._logs[client.tenant_id]
        try:
            position = log.position(request.headers.get("last-event-id"))
        except UnknownCursorError:
            text = "Last-Event-ID is no cursor of this stream; fill the gap by REST and connect without it"
            await problem(412, "cursor.unknown", text)(scope, receive, send)
            return
        await EventStream(log, position, frozenset(topics))(scope, receive, send)


def make(arguments: argparse.Namespace) -> Simulator:
    """The simulator of one tenant.

    Raises:
        ConfigurationError: the trace is wrong.
    """
    calls = read_trace(
        arguments.trace,
        ivr=arguments.ivr,
        shift_days=arguments.date_shift_days,
        first_dates=arguments.first_dates,
    )
    log = EventLog(render, heartbeat=arguments.heartbeat_seconds)
    misbehaviour = Misbehaviour()
    refused: Counter[str] = Counter()

    async def release(event: Release) -> None:
        log.append(stream_of(event.occurrence.kind), event)
        replay.tally.mark_sent(event.place, event.occurrence)

    replay = Replay(build_schedule(calls, of_call, of_status), misbehaviour, release, flush=log.publish)
    client = Client(arguments.client_id, arguments.client_secret, arguments.tenant, SCOPES)
    issuer = TokenIssuer([client], expires_in=arguments.expires_in)
    control = Control(
        replay,
        misbehaviour,
        refused=refused,
        status=lambda: {"streams_open": log.readers},
        at_once={"disconnect": lambda _: log.disconnect()},
        unable=frozenset({"wrong_key", "unknown_key", "rotate_keys"}),
    )
    app = Starlette(
        routes=[
            Route("/login/oauth/token", issuer.endpoint, methods=["POST"]),
            Route("/stream", StreamEndpoint(issuer, {arguments.tenant: log}), methods=["GET"]),
            control.mount(),
        ],
        middleware=[Middleware(RefusalMiddleware, misbehaviour=misbehaviour, refused=refused)],
    )
    summary = f"tenant {arguments.tenant}, IVR {arguments.ivr}, {len(calls)} calls, {replay.tally.total} native events"
    return Simulator(app, [replay.run], log.disconnect, summary)


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to end."""
    parser = common_arguments("Genesys Cloud CX simulator")
    parser.add_argument("--heartbeat-seconds", type=float, default=10, help="silence that a comment breaks, s")
    return run("genesys", make, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
