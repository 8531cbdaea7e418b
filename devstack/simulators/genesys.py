"""Genesys Cloud CX as a process: ``python -m devstack.simulators.genesys``.

- ``POST /login/oauth/token``: client credentials.
- ``GET /stream?topics=conversation,routing,interaction``: server-sent events, scope ``streaming:read``.
  ``Last-Event-ID`` resumes after that event; without it the stream begins at the first event of the replay. 401 bad
  token, 403 scope missing, 400 unknown topic, 412 ``cursor.unknown`` for a cursor that this process never gave.
- ``POST /api/v2/analytics/conversations/details/query``, ``POST /api/v2/analytics/users/details/query``,
  ``GET /api/v2/users`` and ``GET /api/v2/routing/queues``: scope ``conversation:view``. See
  :mod:`devstack.simulators.details`, :mod:`devstack.simulators.users` and :mod:`devstack.simulators.directory`.
  Analytics requests above the rate limit get 429 with ``Retry-After``.
- ``POST /api/v2/notifications/channels``, ``DELETE …/{id}``, ``PUT`` and ``POST …/{id}/subscriptions``: scope
  ``integration:write``; ``/channels/{id}``: a channel's WebSocket. See :mod:`devstack.simulators.notifications` and
  :mod:`devstack.simulators.sockets`.
- ``/control``: see :mod:`devstack.simulators.control`.

"Sent" counts what was released on the stream, whoever was connected: who resumes gets it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from devstack.simulators.agents import status_changes
from devstack.simulators.control import Control, RefusalMiddleware, problem
from devstack.simulators.details import ConversationDetails
from devstack.simulators.directory import GenesysQueues
from devstack.simulators.eventlog import Entry, EventLog, EventStream, UnknownCursorError
from devstack.simulators.genesys_events import STREAMS, of_call, of_status, render, stream_of
from devstack.simulators.misbehaviour import Misbehaviour, Orders
from devstack.simulators.notifications import Notifications, subscription_of
from devstack.simulators.oauth import Client, RefusedTokenError, TokenIssuer, client_scopes
from devstack.simulators.queries import Pages
from devstack.simulators.ratelimit import RateLimit
from devstack.simulators.replay import Release, Replay
from devstack.simulators.schedule import build_schedule
from devstack.simulators.serving import Simulator, common_arguments, run
from devstack.simulators.sockets import ChannelSocket
from devstack.simulators.trace import read_trace
from devstack.simulators.users import Users

STREAM_SCOPE, VIEW_SCOPE, NOTIFY_SCOPE = "streaming:read", "conversation:view", "integration:write"
SCOPES = frozenset({STREAM_SCOPE, VIEW_SCOPE, NOTIFY_SCOPE})

_ANALYTICS = "/api/v2/analytics"
_CHANNELS = "/api/v2/notifications/channels"


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
            client = self._issuer.check(request, STREAM_SCOPE)
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
        occurrence = event.occurrence
        log.append(Entry(stream_of(occurrence.kind), subscription_of(occurrence), event))
        replay.tally.mark_sent(event.place, occurrence)

    replay = Replay(build_schedule(calls, of_call, of_status), misbehaviour, release, flush=log.publish)
    pages = Pages(misbehaviour)
    details = ConversationDetails(calls, replay.clock, pages)
    users = Users(status_changes(calls), replay.clock, pages)
    notifications = Notifications(log, users.ids, lifetime=arguments.channel_seconds)
    scopes = client_scopes(arguments.scopes, SCOPES)
    client = Client(arguments.client_id, arguments.client_secret, arguments.tenant, scopes)
    issuer = TokenIssuer([client], expires_in=arguments.expires_in)
    rate = RateLimit(arguments.rest_per_minute)

    def disconnect(_: Orders | None = None) -> None:
        log.disconnect()
        notifications.disconnect()

    def spoil(orders: Orders) -> None:
        log.garbage.order(orders.garbage or 0)

    control = Control(
        replay,
        misbehaviour,
        refused=refused,
        status=lambda: {
            "streams_open": log.readers,
            "sockets_open": notifications.connected,
            "channels": notifications.count,
            "garbage": dict(log.garbage.sent),
        },
        at_once={"disconnect": disconnect, "forget_cursors": lambda _: log.forget(), "garbage": spoil},
        unable=frozenset({"wrong_key", "unknown_key", "rotate_keys", "jwks"}),
    )
    routes: list[BaseRoute] = [
        Route("/login/oauth/token", issuer.endpoint, methods=["POST"]),
        Route("/stream", StreamEndpoint(issuer, {arguments.tenant: log}), methods=["GET"]),
        *_rest(issuer, rate, details, users),
        Route("/api/v2/routing/queues", issuer.guard(VIEW_SCOPE, GenesysQueues(calls, pages).listing), methods=["GET"]),
        *_channels(issuer, notifications),
        WebSocketRoute("/channels/{channel_id}", ChannelSocket(notifications, log).endpoint),
        control.mount(),
    ]
    refusals = Middleware(RefusalMiddleware, misbehaviour=misbehaviour, refused=refused)
    summary = f"tenant {arguments.tenant}, IVR {arguments.ivr}, {len(calls)} calls, {replay.tally.total} native events"
    app = Starlette(routes=routes, middleware=[refusals])
    return Simulator(app, [replay.run], disconnect, summary, has_left=lambda: not notifications.connected)


def _rest(issuer: TokenIssuer, rate: RateLimit, details: ConversationDetails, users: Users) -> list[Route]:
    conversations = issuer.guard(VIEW_SCOPE, rate.limit(details.endpoint))
    statuses = issuer.guard(VIEW_SCOPE, rate.limit(users.statuses))
    return [
        Route(f"{_ANALYTICS}/conversations/details/query", conversations, methods=["POST"]),
        Route(f"{_ANALYTICS}/users/details/query", statuses, methods=["POST"]),
        Route("/api/v2/users", issuer.guard(VIEW_SCOPE, users.listing), methods=["GET"]),
    ]


def _channels(issuer: TokenIssuer, notifications: Notifications) -> list[Route]:
    create = issuer.guard(NOTIFY_SCOPE, notifications.create)
    delete = issuer.guard(NOTIFY_SCOPE, notifications.delete)
    subscribe = issuer.guard(NOTIFY_SCOPE, notifications.subscribe)
    return [
        Route(_CHANNELS, create, methods=["POST"]),
        Route(f"{_CHANNELS}/{{channel_id}}", delete, methods=["DELETE"]),
        Route(f"{_CHANNELS}/{{channel_id}}/subscriptions", subscribe, methods=["PUT", "POST"]),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to end."""
    parser = common_arguments("Genesys Cloud CX simulator")
    parser.add_argument("--heartbeat-seconds", type=float, default=10, help="silence that a comment breaks, s")
    parser.add_argument("--channel-seconds", type=float, default=86_400, help="lifetime of a notification channel, s")
    return run("genesys", make, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
