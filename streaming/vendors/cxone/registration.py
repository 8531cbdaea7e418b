"""Registers the webhook at the vendor: created or updated.

The vendor knows a registration by its name and url: a POST of both changes what is there. If each POST made another
one, every event would come as often: that is seen at once and said, and nothing more is registered until a person has
removed all but one.

A token is rotated without losing a request: 1. put the new token first in ``connection.webhook_tokens``, the old one
second, and restart the receivers: they take both; 2. ``ccaas cxone register``: the vendor uses the first one from now
on; 3. once the vendor's retries of older requests are over (some minutes), remove the old token from
the file and restart the receivers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import httpx
import structlog

from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.rest import RestClient
from streaming.settings import Tenant, config_file
from streaming.vendors import connection_of
from streaming.vendors.cxone.access import rest_client
from streaming.vendors.cxone.connection import CxoneConnection

log = structlog.get_logger()

EVENTS = ("CALL_STARTED", "CALL_ENDED", "QUEUE_ENTERED", "AGENT_ASSIGNED")
SCOPE = "webhook:manage"
_PATH = "/ic3api/v2/integrations/webhooks"
_RETRY_POLICY = {"maxRetries": 5, "backoffMs": 1000}


class Outcome(StrEnum):
    """What a registration changed at the vendor."""

    CREATED = "created"
    UPDATED = "updated"
    # As far as the vendor shows it. It never shows the token, which is therefore sent each time.
    UNCHANGED = "unchanged"
    FAILED = "failed"


class Registered(NamedTuple):
    """A tenant's registration.

    Attributes:
        tenant_id: Whose.
        url: Where the vendor sends events, empty if it is not configured.
        outcome: What changed.
        tokens: Number of bearer tokens that the receiver accepts: two while one replaces the other.
        twins: Ids of the registrations of this name and url, if there is more than one: every event comes as often.
        elsewhere: Urls of registrations of this name that point elsewhere, perhaps to where this receiver was before.
        newest: Of the twins, those that were made now; only they have the first token for sure.
        error: Why it failed.
    """

    tenant_id: str
    url: str
    outcome: Outcome
    tokens: int
    twins: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    newest: tuple[str, ...] = ()
    error: str | None = None

    @property
    def advice(self) -> str:
        """What a person should do now; empty if nothing."""
        if self.error is not None:
            return self.error
        if self.twins:
            told = f"registered {len(self.twins)} times, remove all but one at the vendor: {', '.join(self.twins)}"
            if self.newest:
                return f"{told}; keep {self.newest[-1]}, which has the first token"
            return f"{told}; nothing more is registered until then"
        if self.elsewhere:
            return f"also registered for {', '.join(self.elsewhere)}: remove it at the vendor if nothing listens there"
        if self.tokens > 1:
            return "the vendor uses the first token; remove the others from webhook_tokens when its retries are over"
        return ""


async def register_all(tenants: Sequence[Tenant]) -> list[Registered]:
    """Register each tenant's webhook; one tenant's failure harms no other.

    Args:
        tenants: CXone tenants.

    Returns:
        In their order; those that failed with their error.
    """
    async with httpx.AsyncClient(timeout=30) as http:
        return [await _registered(http, tenant) for tenant in tenants]


def register_webhooks(tenants: Sequence[Tenant]) -> list[Registered]:
    """As :func:`register_all`, for callers without an event loop."""
    return asyncio.run(register_all(tenants))


async def _registered(http: httpx.AsyncClient, tenant: Tenant) -> Registered:
    try:
        connection = connection_of(tenant, CxoneConnection)
        return await register(rest_client(http, connection), tenant, connection)
    except CcaasError as error:
        log.error("webhook not registered", tenant_id=tenant.tenant_id, error=str(error))
        return Registered(tenant.tenant_id, "", Outcome.FAILED, 0, error=str(error))


async def register(rest: RestClient, tenant: Tenant, connection: CxoneConnection) -> Registered:
    """Register one tenant's webhook with its first token: 1. what is there, 2. create or update, 3. is it there once.

    If it is there several times already, nothing is sent.

    Args:
        rest: The tenant's REST access.
        tenant: Whose.
        connection: Its connection section.

    Raises:
        ConfigurationError: ``webhook_base_url`` is missing, credentials are wrong, or the client lacks webhook:manage.
        VendorRefusedError: the vendor finds fault with the registration.
        ServiceUnavailableError: the vendor does not answer, or not as documented.
    """
    if connection.webhook_base_url is None:
        msg = (
            f"{config_file()}: tenants: {tenant.vendor}/{tenant.tenant_id}: connection: webhook_base_url: missing; "
            "set it to the address at which the vendor reaches this receiver, e.g. https://events.example.com"
        )
        raise ConfigurationError(msg)
    url = f"{connection.webhook_base_url.rstrip('/')}/cxone/webhook/{tenant.tenant_id}"
    endpoint = connection.api_url.rstrip("/") + _PATH
    body = {"name": connection.webhook_name, "url": url, "events": list(EVENTS), "retryPolicy": _RETRY_POLICY}
    before = [found for found in await _list(rest, endpoint) if _is_ours(found, connection.webhook_name, url)]
    if len(before) > 1:
        several = Registered(tenant.tenant_id, url, Outcome.FAILED, len(connection.webhook_tokens), twins=_ids(before))
        log.error("webhook not registered", tenant_id=tenant.tenant_id, advice=several.advice)
        return several
    token = connection.webhook_tokens[0].get_secret_value()
    await rest.request(
        "POST", endpoint, scope=SCOPE, json=body | {"authentication": {"type": "bearer", "token": token}}
    )
    after = await _list(rest, endpoint)
    ours = [found for found in after if _is_ours(found, connection.webhook_name, url)]
    if not ours:
        msg = f"{endpoint}: the webhook is not in the vendor's list after it was registered"
        raise ServiceUnavailableError(msg)
    known = {found.get("id") for found in before}
    unchanged = any(_says(found, body) for found in before)
    registered = Registered(
        tenant.tenant_id,
        url,
        Outcome.UNCHANGED if unchanged else Outcome.UPDATED if before else Outcome.CREATED,
        len(connection.webhook_tokens),
        twins=_ids(ours) if len(ours) > 1 else (),
        newest=_ids(found for found in ours if found.get("id") not in known) if len(ours) > 1 else (),
        elsewhere=tuple(
            str(found.get("url"))
            for found in after
            if found.get("name") == connection.webhook_name and found not in ours
        ),
    )
    say = log.error if registered.twins else log.warning if registered.elsewhere else log.info
    say("webhook registered", tenant_id=tenant.tenant_id, outcome=registered.outcome, advice=registered.advice)
    return registered


def _ids(registrations: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(found.get("id")) for found in registrations)


async def _list(rest: RestClient, endpoint: str) -> list[dict[str, Any]]:
    """All registrations that the client may see; their tokens are not told."""
    answer = await rest.request("GET", endpoint, scope=SCOPE)
    if answer.status_code == httpx.codes.NO_CONTENT:
        return []
    try:
        webhooks = answer.json()["webhooks"]
        return [dict(webhook) for webhook in webhooks]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{endpoint}: no list of webhooks in the answer ({type(error).__name__})"
        raise ServiceUnavailableError(msg) from None


def _is_ours(found: dict[str, Any], name: str, url: str) -> bool:
    if found.get("name") != name:
        return False
    try:
        return httpx.URL(str(found.get("url"))) == httpx.URL(url)
    except httpx.InvalidURL:
        return False


def _says(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a registration has the wanted settings, as far as the vendor shows them."""
    events = found.get("events")
    return (
        isinstance(events, list)
        and sorted(map(str, events)) == sorted(wanted["events"])
        and found.get("retryPolicy") == wanted["retryPolicy"]
    )
