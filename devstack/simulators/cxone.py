"""NICE CXone as a process: ``python -m devstack.simulators.cxone``.

- ``POST /auth/token``: client credentials. ``GET /auth/jwks``: the keys that sign.
- ``POST /ic3api/v2/integrations/webhooks``: registers a webhook; the same name and url again changes it. ``GET``: the
  registrations without their tokens. Scope ``webhook:manage``.
- ``GET /inContactAPI/services/v30.0/agents/state-history?updatedSince&until&skip&top``: rows with ``startDate`` in
  [updatedSince, lastPollTime). ``lastPollTime`` is the simulated now; later pages pass the first one's as ``until``
  and so read one stable snapshot. 204 if no row is left. Scope ``event:read``.
- ``GET /inContactAPI/services/v30.0/contacts/completed?updatedSince&until&fields&skip&top``: contacts that ended in
  [updatedSince, lastPollTime), whatever became of their webhooks; ``contacts/state-history``: their states that began
  there. Pages and scope as above; see :mod:`devstack.simulators.contacts`.
- ``GET /inContactAPI/services/v30.0/skills?fields&skip&top`` and ``…/agents``: see
  :mod:`devstack.simulators.directory`.
- Requests to ``/inContactAPI`` above the rate limit get 429 without ``Retry-After``.
- ``/control``: see :mod:`devstack.simulators.control`.

"Sent" counts webhooks answered 2xx, and agent states once their time has come.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devstack.simulators.agents import status_changes
from devstack.simulators.contacts import Skew, completed_contacts, contact_states
from devstack.simulators.control import Control, RefusalMiddleware, Start
from devstack.simulators.cxone_events import AGENT_STATE, EVENTS, message, of_call
from devstack.simulators.directory import cxone_agents, cxone_skills
from devstack.simulators.keyset import key_set
from devstack.simulators.misbehaviour import Misbehaviour, Orders
from devstack.simulators.oauth import Client, TokenIssuer, client_scopes
from devstack.simulators.queries import Pages
from devstack.simulators.ratelimit import RateLimit
from devstack.simulators.registrations import Registration, Registrations
from devstack.simulators.replay import Release, Replay
from devstack.simulators.schedule import build_schedule
from devstack.simulators.serving import Simulator, common_arguments, run, whole_number
from devstack.simulators.signing import HmacSigner, JwsSigner, Signer
from devstack.simulators.state_history import agent_states, of_status
from devstack.simulators.trace import read_trace
from devstack.simulators.webhooks import Outbox, Webhook, WebhookSender
from streaming.errors import ConfigurationError

SCOPES = frozenset({"webhook:manage", "event:read"})

_STREAM_ORDERS = frozenset({"disconnect", "forget_cursors", "garbage"})
_WEBHOOKS = "/ic3api/v2/integrations/webhooks"
_REST = "/inContactAPI/services/v30.0"


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
    scopes = client_scopes(arguments.scopes, SCOPES)
    client = Client(arguments.client_id, arguments.client_secret, arguments.tenant, scopes)
    issuer = TokenIssuer([client], expires_in=arguments.expires_in)
    registrations = Registrations(EVENTS)
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
    pages, skew = Pages(misbehaviour), Skew(arguments.skew_seconds)
    rest = {
        "agents/state-history": agent_states(status_changes(calls), replay.clock, pages).endpoint,
        "contacts/completed": completed_contacts(calls, replay.clock, pages, skew).endpoint,
        "contacts/state-history": contact_states(calls, replay.clock, pages, skew).endpoint,
        "skills": cxone_skills(calls, pages).endpoint,
        "agents": cxone_agents(calls, pages).endpoint,
    }
    rate = RateLimit(arguments.rest_per_minute, says_when=False)
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
        return key_set(signer, misbehaviour.orders.jwks)

    control = Control(
        replay,
        misbehaviour,
        refused=sender.refused,
        status=status,
        may_start=registrations.obstacle,
        begin=begin,
        is_settled=lambda: outbox.is_empty and not sender.outstanding,
        at_once={"rotate_keys": rotate},
        unable=_STREAM_ORDERS if signer.has_keys else _STREAM_ORDERS | {"rotate_keys", "jwks"},
    )
    app = Starlette(
        routes=[
            Route("/auth/token", issuer.endpoint, methods=["POST"]),
            Route("/auth/jwks", jwks, methods=["GET"]),
            Route(_WEBHOOKS, issuer.guard("webhook:manage", registrations.endpoint), methods=["POST"]),
            Route(_WEBHOOKS, issuer.guard("webhook:manage", registrations.show), methods=["GET"]),
            *(
                Route(f"{_REST}/{path}", issuer.guard("event:read", rate.limit(endpoint)))
                for path, endpoint in rest.items()
            ),
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
    parser.add_argument("--skew-seconds", type=whole_number(0), default=0, help="greatest error of REST's times, s")
    parser.add_argument("--hmac-secret", help="with --signature hmac")
    return run("cxone", make, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
