"""Delivers webhooks: bounded concurrency, retries with backoff, then given up."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from devstack.simulators.replay import Release, Tally
from devstack.simulators.signing import Fault, Signer

# Every worker holds one connection in a transport of its own. Measured on one core: 1,200 requests/s so; a pool shared
# by 32 workers searches its connections on each request and manages 500.
_WORKERS = 32
# Deliveries under way or waiting for their retry. At the bound the replay waits.
_MAX_OUTSTANDING = 20_000
_TIMEOUT_S = {"connect": 5.0, "read": 10.0, "write": 10.0, "pool": 5.0}
# Events of one array at most.
_MAX_BATCH = 100
_BATCH_TICK_MS = 20
# A Retry-After beyond this is not waited out.
_MAX_WAIT_S = 300.0


@dataclass(slots=True)
class Webhook:
    """A registration. It changes when it is registered anew, and so do the retries that are still to come.

    Attributes:
        webhook_id: Its id.
        name: Given by whoever registered.
        url: Where events go.
        events: Native types wanted.
        token: Bearer token that its requests carry.
        max_retries: Further attempts after the first.
        backoff_ms: Wait before the first retry, doubled each time.
    """

    webhook_id: str
    name: str
    url: httpx.URL
    events: frozenset[str] = frozenset()
    token: str = ""
    max_retries: int = 5
    backoff_ms: int = 1000


@dataclass(slots=True)
class Delivery:
    """One request to one webhook: an event, or an array of them."""

    webhook: Webhook
    body: bytes
    releases: list[Release]
    attempts: int = 0
    fault: Fault | None = field(default=None)


class WebhookSender:
    """Sends deliveries and counts what becomes of them.

    Args:
        signer: Signs each attempt anew.
        tally: Told of what was delivered or given up. A function, since the replay that has it needs the sender first.
    """

    def __init__(self, signer: Signer, tally: Callable[[], Tally]) -> None:
        self._signer = signer
        self._tally = tally
        self._ready: asyncio.Queue[Delivery] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MAX_OUTSTANDING)
        self.outstanding = 0
        self.delivered = 0
        self.given_up = 0
        self.retried = 0
        self.refused: Counter[str] = Counter()

    async def send(self, delivery: Delivery) -> None:
        """Take a delivery over; waits while too many are outstanding."""
        await self._room.acquire()
        self.outstanding += 1
        self._ready.put_nowait(delivery)

    async def run(self) -> None:
        """Send until cancelled."""
        # One for all workers: loading the CA certificates takes 25 ms of CPU.
        tls = httpx.create_ssl_context()
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work(tls))

    async def _work(self, tls: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30)
        async with httpx.AsyncHTTPTransport(verify=tls, limits=limits) as transport:
            while True:
                delivery = await self._ready.get()
                delivery.attempts += 1
                try:
                    status, retry_after = await self._attempt(transport, delivery)
                except httpx.HTTPError:
                    status, retry_after = "connection", None
                if status.startswith("2"):
                    self._finish(delivery, delivered=True)
                    continue
                self.refused[status] += 1
                self._again(delivery, retry_after if status in {"429", "503"} else None)

    async def _attempt(self, transport: httpx.AsyncHTTPTransport, delivery: Delivery) -> tuple[str, float | None]:
        """One request; its status and Retry-After (s)."""
        headers = {
            "Authorization": f"Bearer {delivery.webhook.token}",
            "Content-Type": "application/json",
            **self._signer.headers(delivery.body, delivery.fault),
        }
        request = httpx.Request(
            "POST",
            delivery.webhook.url,
            content=delivery.body,
            headers=headers,
            extensions={"timeout": _TIMEOUT_S},
        )
        response = await transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return str(response.status_code), _seconds(response.headers.get("retry-after"))

    def _again(self, delivery: Delivery, retry_after: float | None) -> None:
        """Try again later, or give up. Whoever waits holds no worker."""
        if delivery.attempts > delivery.webhook.max_retries:
            self._finish(delivery, delivered=False)
            return
        self.retried += 1
        backoff = delivery.webhook.backoff_ms / 1000 * 2 ** (delivery.attempts - 1)
        wait = min(backoff if retry_after is None else retry_after, _MAX_WAIT_S)
        asyncio.get_running_loop().call_later(wait, self._ready.put_nowait, delivery)

    def _finish(self, delivery: Delivery, *, delivered: bool) -> None:
        self.outstanding -= 1
        self._room.release()
        tally = self._tally()
        for release in delivery.releases:
            if delivered:
                tally.mark_sent(release.place, release.occurrence)
            else:
                tally.mark_missing(release.place, release.occurrence)
        self.delivered += len(delivery.releases) * delivered
        self.given_up += len(delivery.releases) * (not delivered)


class Outbox:
    """Gathers events into arrays, if batches are wanted; else each event is a request.

    Args:
        sender: Takes the deliveries.
    """

    def __init__(self, sender: WebhookSender) -> None:
        self.batch_ms = 0
        self._sender = sender
        # A signature vouches for a whole body, so events signed differently never share one.
        self._open: dict[tuple[str, Fault | None], tuple[Webhook, list[bytes], list[Release]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no event waits for its batch."""
        return not self._open

    async def add(self, webhook: Webhook, message: bytes, release: Release) -> None:
        """Send an event to a webhook, now or with its batch."""
        if not self.batch_ms:
            await self._sender.send(Delivery(webhook, message, [release], fault=release.signs_wrongly))
            return
        key = (webhook.webhook_id, release.signs_wrongly)
        _, messages, releases = self._open.setdefault(key, (webhook, [], []))
        messages.append(message)
        releases.append(release)
        if len(messages) >= _MAX_BATCH:
            await self._close(key)

    async def run(self) -> None:
        """Close the batches when their time is over, until cancelled."""
        while True:
            await asyncio.sleep(max(self.batch_ms, _BATCH_TICK_MS) / 1000)
            for key in list(self._open):
                await self._close(key)

    async def _close(self, key: tuple[str, Fault | None]) -> None:
        batch = self._open.pop(key, None)
        if batch is not None:
            webhook, messages, releases = batch
            body = b"[" + b",".join(messages) + b"]"
            await self._sender.send(Delivery(webhook, body, releases, fault=key[1]))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is not honoured."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
