"""cxone-receiver: a webhook is answered 200 once it is on disk. Plain RSGI, since every request passes here.

Answers: 200 accepted or deferred · 401 bearer, or neither signature nor structure · 404 tenant or path · 405 method ·
413 size · 415 type · 429 rate · 503 no room.
"""

from __future__ import annotations

import asyncio
import hmac
import time

import httpx
import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest

from streaming.errors import UntrustedError
from streaming.settings import Settings
from streaming.spool.lanes import SpoolFullError
from streaming.spool.writer import Deferral, SpoolWriter
from streaming.vendors import connection_of
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.hush import Hush
from streaming.vendors.cxone.keys import KeyFetcher
from streaming.vendors.cxone.keystore import KeyStore
from streaming.vendors.cxone.rate import RateLimit, retry_after
from streaming.vendors.cxone.rsgi import Headers, HttpProtocol, ProtocolClosed, ProtocolError, Scope
from streaming.vendors.cxone.signature import (
    MAX_SIGNATURE_HEADER_BYTES,
    MAX_TIMESTAMP_HEADER_BYTES,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    HmacVerifier,
    JwsVerifier,
    UnknownKeyError,
    Verifier,
)

log = structlog.get_logger()

_PREFIX = "/cxone/webhook/"
_PREFIX_LENGTH = len(_PREFIX)
# How long a request may wait for keys that its signature names and we lack; then it is deferred. So it is at once when
# as many others of the tenant wait: until then they count in no lane of the spool.
_KEY_WAIT_S = 3.0
_MOST_WAITING = 256
_MOST_WAITING_BYTES = 32 << 20
_HOUR_S = 3600.0
_SIGNATURE, _TIMESTAMP = SIGNATURE_HEADER.decode(), TIMESTAMP_HEADER.decode()

answers = Counter("ccaas_cxone_webhooks", "Webhook requests by answer", ["tenant_id", "answer"])
webhook_tokens = Counter(
    "ccaas_cxone_webhook_tokens",
    "Webhook requests with another than the first of connection.webhook_tokens, by its position (from 0)",
    ["tenant_id", "position"],
)
spool_rows = Gauge("ccaas_cxone_spool_rows", "Webhook requests in this receiver's spool", ["lane"])
spool_bytes = Gauge("ccaas_cxone_spool_bytes", "Bytes of bodies in this receiver's spool", ["lane"])


class _Answer(Exception):  # noqa: N818 (an answer, seldom an error)
    """Ends a request.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do.
        retry_after: Seconds, for 429 and 503.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after = retry_after


class _Tenant:
    """What a request to one tenant needs."""

    def __init__(self, tenant_id: str, connection: CxoneConnection, http: httpx.AsyncClient, store: KeyStore) -> None:
        self.id = tenant_id
        self._tokens = tuple(token.get_secret_value().encode() for token in connection.webhook_tokens)
        # Made now: an operator who waits for the old token to fall silent must see 0, not nothing.
        self._old_tokens = [webhook_tokens.labels(tenant_id, str(n)) for n in range(1, len(self._tokens))]
        self.rate = RateLimit(connection.requests_per_second)
        self.keys: KeyFetcher | None = None
        self.verifier: Verifier
        if connection.signature == "hmac":
            assert connection.hmac_secret is not None  # CxoneConnection checks it  # noqa: S101
            self.verifier = HmacVerifier(connection.hmac_secret.get_secret_value(), connection.replay_window_seconds)
        else:
            assert connection.jwks_url is not None  # noqa: S101
            self.verifier = jws = JwsVerifier(connection.replay_window_seconds)
            self.keys = KeyFetcher(
                http,
                tenant_id,
                connection.jwks_url,
                jws,
                at_most_every=connection.unknown_key_seconds,
                ttl=connection.keys_ttl_hours * _HOUR_S,
                store=store,
            )
        # Moved to the counter when somebody reads it.
        self.accepted = 0
        self._waiting = 0
        self._waiting_bytes = 0

    def knows(self, authorization: str | None) -> bool:
        """Whether one of the tenant's tokens is presented; compared in constant time."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":  # RFC 9110 §11.1
            return False
        presented = token.strip().encode()
        for position, known in enumerate(self._tokens):
            if hmac.compare_digest(known, presented):
                if position > 0:
                    self._old_tokens[position - 1].inc()
                return True
        return False

    async def fetched_keys(self, size: int) -> bool:
        """Whether newer keys may be in force now; waits for them, unless too many requests do already.

        Args:
            size: Of the request that waits, B.
        """
        if self.keys is None or self._waiting >= _MOST_WAITING or self._waiting_bytes + size > _MOST_WAITING_BYTES:
            return False
        self._waiting += 1
        self._waiting_bytes += size
        try:
            return await self.keys.fetch_within(_KEY_WAIT_S)
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size


class Receiver:
    """The RSGI application.

    Args:
        settings: The platform's.
        spool: Where events are stored before 200.
    """

    def __init__(self, settings: Settings, spool: SpoolWriter) -> None:
        self._spool = spool
        self._max_body = settings.receiver.max_body_bytes
        self._retry_after = settings.spool.retry_after_seconds
        self._http = httpx.AsyncClient(timeout=5)
        self._store = KeyStore(settings.state_url)
        self._tenants = {
            tenant.tenant_id: _Tenant(tenant.tenant_id, connection_of(tenant, CxoneConnection), self._http, self._store)
            for tenant in settings.tenants_of(VENDOR)
        }
        self._hush = Hush()
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
        await asyncio.to_thread(self._store.close)

    async def __rsgi__(self, scope: Scope, protocol: HttpProtocol) -> None:
        """One request. Hot path: 1. who and what, 2. the body, 3. its signature, 4. on disk, 5. the answer."""
        path = scope.path
        if not path.startswith(_PREFIX):
            self._serve_probe(path, protocol)
            return
        tenant_id = path[_PREFIX_LENGTH:]
        try:
            headers = scope.headers
            tenant = self._admit(tenant_id, scope.method, headers)

            length = self._length(headers)
            body = await protocol() if length is not None else await self._read_pieces(protocol)
            if length is not None and len(body) != length:
                raise _Answer(400, _HUNG_UP)
            received_us = time.time_ns() // 1000

            # Of two signatures none counts: which one is looked at must not be the sender's choice.
            signature = ",".join(headers.get_all(_SIGNATURE)).encode()
            timestamp = headers.get(_TIMESTAMP, "").encode()
            deferral: Deferral | None = None
            try:
                tenant.verifier.check(signature, timestamp, body)
            except UntrustedError as doubt:
                deferral = await self._look_again(tenant, doubt, signature, timestamp, body)

            await self._spool.append(tenant_id, body, received_us, deferral)
        except _Answer as answer:
            self._refuse(tenant_id, answer, protocol)
        except SpoolFullError as full:
            self._refuse(tenant_id, _Answer(503, str(full), self._retry_after), protocol)
        except (ProtocolError, ProtocolClosed):
            self._refuse(tenant_id, _Answer(400, _HUNG_UP), protocol)
        else:
            if deferral is None:
                tenant.accepted += 1
                protocol.response_bytes(200, _JSON, _ACCEPTED)
            else:
                answers.labels(tenant_id, "deferred").inc()
                protocol.response_bytes(200, _JSON, _DEFERRED)

    def _admit(self, tenant_id: str, method: str, headers: Headers) -> _Tenant:
        """Whose request it is, if its head lets it in."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise _Answer(404, "no such tenant; the path is /cxone/webhook/{tenant_id}")
        if method != "POST":
            raise _Answer(405, "POST one JSON event or an array of them")
        if not tenant.knows(headers.get("authorization")):
            raise _Answer(401, "the bearer token is not this tenant's; compare connection.webhook_tokens")
        if wait := tenant.rate.take():
            raise _Answer(429, "more than connection.requests_per_second; come again later", retry_after(wait))
        # RFC 9110 §8.3.1: in any case, parameters after a semicolon.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Answer(415, "the content type must be application/json")
        return tenant

    def _length(self, headers: Headers) -> int | None:
        """The body's announced length, B; None if nobody said how much is to come (chunked, HTTP/2)."""
        announced = headers.get("content-length")
        if announced is None:
            return None
        length = int(announced)  # the server lets only digits pass
        if length > self._max_body:
            raise _too_large(self._max_body)
        return length

    async def _read_pieces(self, protocol: HttpProtocol) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in protocol:
            parts.append(part)
            size += len(part)
            if size > self._max_body:
                raise _too_large(self._max_body)
        return b"".join(parts)

    async def _look_again(
        self, tenant: _Tenant, doubt: UntrustedError, signature: bytes, timestamp: bytes, body: bytes
    ) -> Deferral | None:
        """None if newer keys verify the signature; why the event is set aside if only the bearer vouches for it."""
        if len(signature) > MAX_SIGNATURE_HEADER_BYTES or len(timestamp) > MAX_TIMESTAMP_HEADER_BYTES:
            msg = f"{_SIGNATURE} or {_TIMESTAMP} is longer than any that could be good"
            raise _Answer(401, msg)
        if isinstance(doubt, UnknownKeyError):
            try:
                if await tenant.fetched_keys(len(body)):
                    tenant.verifier.check(signature, timestamp, body)
                    return None
            except UntrustedError as still:
                doubt = still
        if (suppressed := self._hush.take(tenant.id, "signature")) is not None:
            log.warning("signature not verified", tenant_id=tenant.id, reason=str(doubt), suppressed=suppressed)
        if not looks_like_events(body):
            raise _Answer(401, f"{doubt}; and the body is no event")
        kept = {_SIGNATURE: signature.decode(), _TIMESTAMP: timestamp.decode()}
        return Deferral(str(doubt), orjson.dumps(kept).decode())

    def _refuse(self, tenant_id: str, answer: _Answer, protocol: HttpProtocol) -> None:
        known = tenant_id if tenant_id in self._tenants else "unknown"
        answers.labels(known, str(answer.status)).inc()
        if (suppressed := self._hush.take(known, str(answer.status))) is not None:
            log.warning(
                "webhook refused", tenant_id=known, status=answer.status, detail=str(answer), suppressed=suppressed
            )
        headers = _JSON if answer.retry_after is None else [*_JSON, ("retry-after", str(answer.retry_after))]
        protocol.response_bytes(answer.status, headers, orjson.dumps({"error": str(answer)}))

    def _serve_probe(self, path: str, protocol: HttpProtocol) -> None:
        status, headers, body = 200, _JSON, b""
        if path == "/healthz":
            alive = self._spool.is_alive
            status, body = (200, ALIVE) if alive else (503, NOT_WELL)
        elif path == "/readyz":
            ready = self._spool.can_store
            status, body = (200, b'{"status":"ready"}') if ready else (503, b'{"status":"spool full"}')
        elif path == "/metrics":
            headers, body = [("content-type", CONTENT_TYPE_LATEST)], self._metrics()
        else:
            status, body = 404, b'{"error":"paths: /cxone/webhook/{tenant_id} /healthz /readyz /metrics"}'
        protocol.response_bytes(status, headers, body)

    def _metrics(self) -> bytes:
        for tenant in self._tenants.values():
            counted, tenant.accepted = tenant.accepted, 0
            answers.labels(tenant.id, "accepted").inc(counted)
        for name, lane in self._spool.lanes.items():
            spool_rows.labels(name).set(lane.usage.rows)
            spool_bytes.labels(name).set(lane.usage.bytes)
        return generate_latest()


def _too_large(limit: int) -> _Answer:
    return _Answer(413, f"more than {limit} bytes; send fewer events at once")


ALIVE = b'{"status":"alive"}'
"""Answer of ``/healthz``, by which another copy knows this one."""
NOT_WELL = b'{"status":"the spool has no writer"}'
"""The same with status 503."""

_JSON = [("content-type", "application/json")]
_ACCEPTED = b'{"status":"accepted"}'
_DEFERRED = b'{"status":"deferred"}'
_HUNG_UP = "the sender hung up before the end"


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
