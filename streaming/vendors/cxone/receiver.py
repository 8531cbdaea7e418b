"""cxone-receiver: a webhook is answered 200 once it is on disk. Plain ASGI, since every request passes here.

Answers: 200 accepted or deferred · 401 bearer · 404 tenant or path · 405 method · 413 size · 415 type · 503 no room.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import httpx
import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from streaming.errors import UntrustedError
from streaming.settings import Settings
from streaming.spool.writer import Deferral, SpoolFullError, SpoolWriter
from streaming.vendors import connection_of
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.keys import KeyFetcher
from streaming.vendors.cxone.signature import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Headers,
    HmacVerifier,
    JwsVerifier,
    UnknownKeyError,
    Verifier,
)

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PREFIX = "/cxone/webhook/"
_JSON = b"application/json"
# How long a request may wait for keys that its signature names and we lack; then it is deferred.
_KEY_WAIT_S = 3.0

answers = Counter("ccaas_cxone_webhooks", "Webhook requests by answer", ["tenant_id", "answer"])


class _Answer(Exception):  # noqa: N818 (an answer, seldom an error)
    """Ends a request.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do.
        retry_after: Seconds, for 503.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.body = orjson.dumps({"error": detail})
        self.retry_after = retry_after


class _Tenant:
    """What a request to one tenant needs."""

    def __init__(self, tenant_id: str, connection: CxoneConnection, http: httpx.AsyncClient) -> None:
        self.id = tenant_id
        self.bearers = [b"Bearer " + token.get_secret_value().encode() for token in connection.webhook_tokens]
        self.keys: KeyFetcher | None = None
        self.verifier: Verifier
        if connection.signature == "hmac":
            assert connection.hmac_secret is not None  # CxoneConnection checks it  # noqa: S101
            self.verifier = HmacVerifier(connection.hmac_secret.get_secret_value(), connection.replay_window_seconds)
        else:
            assert connection.jwks_url is not None  # noqa: S101
            self.verifier = jws = JwsVerifier(connection.replay_window_seconds)
            self.keys = KeyFetcher(
                http, tenant_id, connection.jwks_url, jws, at_most_every=connection.unknown_key_seconds
            )
        self.accepted = answers.labels(tenant_id, "accepted")
        self.deferred = answers.labels(tenant_id, "deferred")

    def knows(self, authorization: bytes) -> bool:
        return any(hmac.compare_digest(bearer, authorization) for bearer in self.bearers)


class Receiver:
    """The ASGI application.

    Args:
        settings: The platform's.
        spool: Where events are stored before 200.
    """

    def __init__(self, settings: Settings, spool: SpoolWriter) -> None:
        self._spool = spool
        self._max_body = settings.receiver.max_body_bytes
        self._retry_after = settings.spool.retry_after_seconds
        self._http = httpx.AsyncClient(timeout=5)
        self._tenants = {
            tenant.tenant_id: _Tenant(tenant.tenant_id, connection_of(tenant, CxoneConnection), self._http)
            for tenant in settings.tenants_of(VENDOR)
        }
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to fetch keys; from within the event loop."""
        for tenant in self._tenants.values():
            if tenant.keys is not None:
                self._background.append(asyncio.create_task(tenant.keys.run()))

    async def close(self) -> None:
        """End the background tasks."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._http.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if not path.startswith(_PREFIX):
            await self._serve_probe(path, send)
            return
        tenant_id = path[len(_PREFIX) :]
        try:
            body = await self._webhook(tenant_id, scope, receive)
        except _Answer as answer:
            known = tenant_id if tenant_id in self._tenants else "unknown"
            answers.labels(known, str(answer.status)).inc()
            log.warning("webhook refused", tenant_id=known, status=answer.status, detail=str(answer))
            headers = [(b"retry-after", b"%d" % answer.retry_after)] if answer.retry_after is not None else []
            await _respond(send, answer.status, answer.body, headers)
            return
        await _respond(send, 200, body)

    async def _webhook(self, tenant_id: str, scope: Scope, receive: Receive) -> bytes:
        """1. who and what, 2. the body, 3. its signature, 4. on disk, 5. the answer."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise _Answer(404, "no such tenant; the path is /cxone/webhook/{tenant_id}")
        if scope["method"] != "POST":
            raise _Answer(405, "POST one JSON event or an array of them")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not tenant.knows(headers.get(b"authorization", b"")):
            raise _Answer(401, "the bearer token is not this tenant's; compare connection.webhook_tokens")
        if not headers.get(b"content-type", b"").startswith(_JSON):
            raise _Answer(415, "the content type must be application/json")

        body = await self._read(headers, receive)
        received_us = time.time_ns() // 1000
        deferral = await self._check_signature(tenant, headers, body)
        try:
            await self._spool.append(tenant_id, body, received_us, deferral)
        except SpoolFullError as full:
            raise _Answer(503, str(full), retry_after=self._retry_after) from None
        if deferral is None:
            tenant.accepted.inc()
            return _ACCEPTED
        tenant.deferred.inc()
        return _DEFERRED

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._max_body
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(parts)
        if message["type"] == "http.disconnect":
            raise _Answer(400, "the sender hung up before the end")
        if len(body) > limit:
            raise _too_large(limit)
        return body

    async def _check_signature(self, tenant: _Tenant, headers: Headers, body: bytes) -> Deferral | None:
        """None if the signature is good; why the event is set aside if only the bearer vouches for it."""
        try:
            try:
                tenant.verifier.verify(headers, body)
            except UnknownKeyError:
                if tenant.keys is None or not await tenant.keys.fetch_within(_KEY_WAIT_S):
                    raise
                tenant.verifier.verify(headers, body)
        except UntrustedError as doubt:
            log.warning("signature not verified", tenant_id=tenant.id, reason=str(doubt))
            if not looks_like_events(body):
                raise _Answer(401, f"{doubt}; and the body is no event") from None
            kept = {
                name.decode(): headers.get(name, b"").decode("latin-1") for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER)
            }
            return Deferral(str(doubt), orjson.dumps(kept).decode())
        return None

    async def _serve_probe(self, path: str, send: Send) -> None:
        if path == "/healthz":
            alive = self._spool.is_alive
            await _respond(send, 200 if alive else 503, ALIVE if alive else b'{"status":"the spool has no writer"}')
        elif path == "/readyz":
            ready = self._spool.can_store
            await _respond(send, 200 if ready else 503, b'{"status":"ready"}' if ready else b'{"status":"spool full"}')
        elif path == "/metrics":
            await _respond(send, 200, generate_latest(), content_type=CONTENT_TYPE_LATEST.encode())
        else:
            await _respond(send, 404, b'{"error":"paths: /cxone/webhook/{tenant_id} /healthz /readyz /metrics"}')


def _too_large(limit: int) -> _Answer:
    return _Answer(413, f"more than {limit} bytes; send fewer events at once")


ALIVE = b'{"status":"alive"}'
"""Answer of ``/healthz``, by which another copy knows this one."""

_ACCEPTED = b'{"status":"accepted"}'
_DEFERRED = b'{"status":"deferred"}'


def looks_like_events(body: bytes) -> bool:
    """Whether a body has the structure of webhook events: one object, or an array of them, with type and contact."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    events = document if isinstance(document, list) else [document]
    return bool(events) and all(
        isinstance(event, dict) and isinstance(event.get("eventType"), str) and event.get("contactId")
        for event in events
    )


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    content_type: bytes = _JSON,
) -> None:
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
