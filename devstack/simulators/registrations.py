"""Webhooks that receivers register by a vendor's REST API."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

import httpx
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.control import parse, problem
from devstack.simulators.oauth import Client
from devstack.simulators.webhooks import Webhook

_IDS = UUID("0b7f7f8d-27a7-5c4e-8b1d-6f0a3f4f5a77")
_MAX_WEBHOOKS = 100


class RetryPolicy(BaseModel):
    """How often and how soon a webhook is tried again."""

    max_retries: Annotated[int, Field(alias="maxRetries", ge=0, le=20)] = 5
    backoff_ms: Annotated[int, Field(alias="backoffMs", ge=1, le=60_000)] = 1000


class Authentication(BaseModel):
    """What the webhook's requests carry."""

    type: Literal["bearer"] = "bearer"
    token: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,4096}$")]


class Registration(BaseModel):
    """Body of the registration."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)]
    events: Annotated[frozenset[str], Field(min_length=1)]
    authentication: Authentication
    retry_policy: Annotated[RetryPolicy, Field(alias="retryPolicy", default_factory=RetryPolicy)]


class Registrations:
    """The registered webhooks, one for each name and url.

    Args:
        events: Native types that can be had.
    """

    def __init__(self, events: Collection[str]) -> None:
        self._events = frozenset(events)
        self._webhooks: dict[tuple[str, str], Webhook] = {}

    def wanting(self, kind: str) -> list[Webhook]:
        """The webhooks that get events of a kind."""
        return [webhook for webhook in self._webhooks.values() if kind in webhook.events]

    def obstacle(self) -> str | None:
        """Why nothing can be sent, if so."""
        return None if self._webhooks else "no webhook is registered; register one, or start with --target"

    def register(self, registration: Registration) -> tuple[Webhook, bool]:
        """Add a webhook, or change the one of the same name and url.

        Returns:
            The webhook, and whether it is new.

        Raises:
            ValueError: unknown event types, a url that can't be called, or too many webhooks.
        """
        key = (registration.name, registration.url)
        is_new = key not in self._webhooks
        if unknown := registration.events - self._events:
            msg = f"events: {', '.join(sorted(unknown))} unknown; there are {', '.join(sorted(self._events))}"
            raise ValueError(msg)
        if is_new and len(self._webhooks) >= _MAX_WEBHOOKS:
            msg = f"{_MAX_WEBHOOKS} webhooks are registered; no more are taken"
            raise ValueError(msg)
        try:
            url = httpx.URL(registration.url)
        except httpx.InvalidURL as error:
            msg = f"url: {error}"
            raise ValueError(msg) from None
        if is_new:
            webhook_id = str(uuid5(_IDS, f"{registration.name}\n{registration.url}"))
            self._webhooks[key] = Webhook(webhook_id, registration.name, url)
        webhook = self._webhooks[key]
        webhook.events = registration.events
        webhook.token = registration.authentication.token
        webhook.max_retries = registration.retry_policy.max_retries
        webhook.backoff_ms = registration.retry_policy.backoff_ms
        return webhook, is_new

    async def show(self, _request: Request, _client: Client) -> Response:
        """``GET``: every webhook, without its token."""
        return JSONResponse({"webhooks": [_shown(webhook) for webhook in self._webhooks.values()]})

    async def endpoint(self, request: Request, _client: Client) -> Response:
        """``POST``: 201 for a new webhook, 200 for one that was there and has the new settings now."""
        registration = parse(Registration, await request.body())
        if isinstance(registration, Response):
            return registration
        try:
            webhook, is_new = self.register(registration)
        except ValueError as error:
            return problem(400, "bad.request", str(error))
        return JSONResponse(_shown(webhook), 201 if is_new else 200)


def _shown(webhook: Webhook) -> dict[str, Any]:
    """What the API tells of a webhook: never its token."""
    return {
        "id": webhook.webhook_id,
        "name": webhook.name,
        "url": str(webhook.url),
        "events": sorted(webhook.events),
        "retryPolicy": {"maxRetries": webhook.max_retries, "backoffMs": webhook.backoff_ms},
    }
