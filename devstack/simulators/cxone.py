"""NICE CXone as a process: ``python -m devstack.simulators.cxone``.

- ``POST /auth/token``: client credentials. ``GET /auth/jwks``: the keys that sign.
- ``POST /ic3api/v2/integrations/webhooks``: registers a webhook; the same name and url again changes it.
- ``GET /inContactAPI/services/v30.0/agents/state-history?updatedSince&until&skip&top``: rows with ``startDate`` in
  [updatedSince, lastPollTime). ``lastPollTime`` is the simulated now; later pages pass the first one's as ``until``
  and so read one stable snapshot. 204 if no row is left.
- ``/control``: see :mod:`devstack.simulators.control`.

"Sent" counts webhooks answered 2xx, and agent states once their time has come.
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.simulators.agents import Status, StatusChange, status_changes
from devstack.simulators.clock import ReplayClock
from devstack.simulators.control import Control, RefusalMiddleware, Start, iso, problem
from devstack.simulators.misbehaviour import Misbehaviour, Orders
from devstack.simulators.oauth import Client, RefusedTokenError, TokenIssuer
from devstack.simulators.registrations import Registration, Registrations
from devstack.simulators.replay import Release, Replay
from devstack.simulators.schedule import Occurrence, build_schedule
from devstack.simulators.serving import Simulator, common_arguments, run
from devstack.simulators.signing import HmacSigner, JwsSigner, Signer
from devstack.simulators.trace import Call, read_trace
from devstack.simulators.webhooks import Outbox, Webhook, WebhookSender
from streaming.errors import ConfigurationError

EVENTS = ("CALL_STARTED", "QUEUE_ENTERED", "AGENT_ASSIGNED", "CALL_ENDED")
AGENT_STATE = "AGENT_STATE"
MAX_PAGE = 10_000

_STATE_NAMES = {
    Status.OFF_QUEUE: "Unavailable",
    Status.IDLE: "Available",
    Status.INTERACTING: "InboundContact",
}
_IDS = UUID("1c8a4f0b-5a55-5c0e-9a7e-53f1ab8f8d02")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def of_status(change: StatusChange) -> Occurrence:
    """A row of the state history, which is fetched and not sent."""
    return Occurrence(change.at_ms, AGENT_STATE, change, ("agent.status_changed",))


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
            "endReason": "Contact Hung Up" if call.hung_up else "Contact Ended",
        }
    return body


class StateHistory:
    """``agents/state-history``.

    Args:
        issuer: Knows the tokens.
        changes: By time.
        clock: Its "now" bounds what is told.
    """

    def __init__(self, issuer: TokenIssuer, changes: list[StatusChange], clock: ReplayClock) -> None:
        self._issuer = issuer
        self._changes = changes
        self._clock = clock

    async def endpoint(self, request: Request) -> Response:
        """``GET``: one page."""
        try:
            self._issuer.check(request)
        except RefusedTokenError as refused:
            return refused.answer
        query, now_ms = request.query_params, self._clock.now_ms()
        try:
            since_ms = _instant(query["updatedSince"]) if "updatedSince" in query else 0
            until_ms = min(_instant(query["until"]), now_ms) if "until" in query else now_ms
            skip, top = int(query.get("skip", 0)), int(query.get("top", MAX_PAGE))
        except (ValueError, TypeError, OverflowError):
            text = "updatedSince, until: ISO 8601 with an offset (+ as %2B); skip, top: whole numbers"
            return problem(400, "bad.request", text)
        if skip < 0 or not 1 <= top <= MAX_PAGE:
            return problem(400, "bad.request", f"skip: 0 or more; top: 1 to {MAX_PAGE}")
        begin = bisect_left(self._changes, (since_ms,))
        end = max(bisect_left(self._changes, (until_ms,)), begin)
        page = self._changes[begin:end][skip : skip + top]
        if not page:
            return Response(status_code=204)
        rows = [
            {"agentId": agent_id, "agentStateName": _STATE_NAMES[status], "startDate": iso(at_ms)}
            for at_ms, agent_id, status in page
        ]
        return JSONResponse({"lastPollTime": iso(until_ms), "totalRecords": end - begin, "agentStates": rows})


def _instant(text: str) -> int:
    """ISO 8601 with an offset as epoch ms; TypeError without one."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def make(arguments: argparse.Namespace) -> Simulator:
    """The simulator of one tenant.

    Raises:
        ConfigurationError: the trace or an argument is wrong.
    """
    calls = read_trace(
        arguments.trace,
        ivr=arguments.ivr,
        shift_days=arguments.date_shift_days,
        first_dates=arguments.first_dates,
    )
    signer = _signer(arguments)
    client = Client(arguments.client_id, arguments.client_secret, arguments.tenant, frozenset())
    issuer = TokenIssuer([client], expires_in=arguments.expires_in)
    registrations = Registrations(issuer, EVENTS)
    if arguments.target is not None:
        registrations.register(_registration(arguments))
    misbehaviour = Misbehaviour()
    sender = WebhookSender(signer, lambda: replay.tally)
    outbox = Outbox(sender)

    async def release(event: Release) -> None:
        if event.occurrence.kind == AGENT_STATE:
            replay.tally.mark_sent(event.place, event.occurrence)
        elif webhooks := registrations.wanting(event.occurrence.kind):
            await _post(event, webhooks, outbox)
        else:
            replay.tally.mark_missing(event.place, event.occurrence)

    replay = Replay(build_schedule(calls, of_call, of_status), misbehaviour, release, exempt=[AGENT_STATE])
    history = StateHistory(issuer, status_changes(calls), replay.clock)
    api_refused: Counter[str] = Counter()

    def begin(start: Start) -> None:
        outbox.batch_ms = start.batch_ms

    def status() -> dict[str, Any]:
        return {
            "delivered": sender.delivered,
            "given_up": sender.given_up,
            "retried": sender.retried,
            "outstanding": sender.outstanding,
            "api_refused": dict(api_refused),
        }

    def rotate(orders: Orders) -> None:
        if orders.rotate_keys is not None:
            signer.rotate(orders.rotate_keys.overlap_seconds)

    async def jwks(_: Request) -> Response:
        return JSONResponse(signer.jwks())

    control = Control(
        replay,
        misbehaviour,
        refused=sender.refused,
        status=status,
        may_start=registrations.obstacle,
        begin=begin,
        is_settled=lambda: outbox.is_empty and not sender.outstanding,
        at_once={"rotate_keys": rotate},
        unable=frozenset({"disconnect"} if signer.has_keys else {"disconnect", "rotate_keys"}),
    )
    app = Starlette(
        routes=[
            Route("/auth/token", issuer.endpoint, methods=["POST"]),
            Route("/auth/jwks", jwks, methods=["GET"]),
            Route("/ic3api/v2/integrations/webhooks", registrations.endpoint, methods=["POST"]),
            Route("/inContactAPI/services/v30.0/agents/state-history", history.endpoint, methods=["GET"]),
            control.mount(),
        ],
        middleware=[Middleware(RefusalMiddleware, misbehaviour=misbehaviour, refused=api_refused)],
    )
    summary = f"tenant {arguments.tenant}, IVR {arguments.ivr}, {len(calls)} calls, {replay.tally.total} native events"
    return Simulator(app, [replay.run, sender.run, outbox.run], lambda: None, summary)


async def _post(event: Release, webhooks: list[Webhook], outbox: Outbox) -> None:
    """Hand an event over for each of the webhooks."""
    document = message(event.occurrence)
    if event.fields is not None:
        event.fields.change(document)
    body = orjson.dumps(document)
    for webhook in webhooks:
        await outbox.add(webhook, body, event)


def _signer(arguments: argparse.Namespace) -> Signer:
    if arguments.signature == "jws":
        return JwsSigner(arguments.algorithm)
    if not arguments.hmac_secret:
        msg = "--signature hmac needs --hmac-secret"
        raise ConfigurationError(msg)
    return HmacSigner(arguments.hmac_secret)


def _registration(arguments: argparse.Namespace) -> Registration:
    try:
        return Registration.model_validate(
            {
                "name": "command line",
                "url": f"{arguments.target.rstrip('/')}/cxone/webhook/{arguments.tenant}",
                "events": EVENTS,
                "authentication": {"token": arguments.webhook_token or ""},
            }
        )
    except ValueError:
        msg = f"--target {arguments.target}: give http://host:port of the receiver, and its token as --webhook-token"
        raise ConfigurationError(msg) from None


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to end."""
    parser = common_arguments("NICE CXone simulator")
    parser.add_argument("--target", help="receiver, http://host:port; registers its webhook without the API")
    parser.add_argument("--webhook-token", help="bearer token of the webhooks, with --target")
    parser.add_argument("--signature", choices=["jws", "hmac"], default="jws")
    parser.add_argument("--algorithm", choices=["ES256", "RS256"], default="ES256", help="of the JWS")
    parser.add_argument("--hmac-secret", help="with --signature hmac")
    return run("cxone", make, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
