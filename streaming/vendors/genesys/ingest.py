"""genesys-ingest: every tenant's stream → normalise → Kafka; the cursor follows the acknowledgements."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import httpx
import sqlalchemy as sa
import structlog
from prometheus_client import Counter, Gauge

from schemas.normalise import normaliser
from streaming.acks import AckTracker
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, CcaasError, ConfigurationError
from streaming.health import HealthServer, Progress
from streaming.lease import LeaseKeeper
from streaming.oauth import TokenSource
from streaming.publisher import Publisher
from streaming.service import prepare, when_available
from streaming.settings import Settings, Tenant
from streaming.state import CursorMove, CursorStore, open_state
from streaming.vendors import connection_of
from streaming.vendors.genesys.connection import VENDOR, GenesysConnection
from streaming.vendors.genesys.stream import MAX_EVENT_BYTES, Frame, StreamRefusedError, open_stream

log = structlog.get_logger()

TRANSPORT = "sse"
_POLL_S = 0.005
_CURSOR_FLUSH_S = 0.25
# Frames read but not yet acknowledged, a tenant: at the bound its stream is not read on.
_MAX_IN_FLIGHT = 5_000
# Every reconnect waits a random time in this span, so that all tenants never come back at once.
_RECONNECT_S = (1.0, 5.0)
_BACKOFF_S = 2.0
_MAX_BACKOFF_S = 60.0
_REFUSED_PAUSE_S = 30.0
# A stream that failed in a way nobody foresaw begins anew after so long.
_FAILED_PAUSE_S = 10.0

connected = Gauge("ccaas_genesys_stream_connected", "1 while the tenant's stream is open", ["tenant_id"])
frames = Counter("ccaas_genesys_frames", "Frames read from the stream", ["tenant_id"])


class RefusedByKafkaError(CcaasError):
    """Kafka refuses the tenant's records for good: no permission, or no such topic."""


def lease_name(tenant: Tenant) -> str:
    """The lease that entitles a process to read a tenant's stream."""
    return f"ingest/{tenant.vendor}/{tenant.tenant_id}"


class TenantStream:
    """One tenant's stream under one lease epoch.

    Args:
        tenant: Whose stream.
        epoch: Epoch of the lease under which it runs.
        cursor: Stored cursor to resume from.
    """

    def __init__(
        self,
        tenant: Tenant,
        connection: GenesysConnection,
        *,
        streams: httpx.AsyncClient,
        tokens: TokenSource,
        publisher: Publisher,
        epoch: int,
        cursor: str | None,
    ) -> None:
        self.tenant = tenant
        self.epoch = epoch
        self.stored = cursor
        self.tracker: AckTracker[str] = AckTracker()
        self._connection = connection
        self._streams = streams
        self._tokens = tokens
        self._publisher = publisher
        self._read = cursor
        self.is_open = False
        self._normalise = normaliser(VENDOR).normalise
        self._log = log.bind(tenant_id=tenant.tenant_id)

    async def run(self) -> None:
        """Read the stream for ever, reconnecting; ends only by cancellation."""
        failures = 0
        while True:
            began = self._read
            try:
                await self._read_once()
                self._log.info("stream ended by the vendor")
                failures = 0
            except StreamRefusedError as refusal:
                failures += 1
                self._log.warning("stream refused", status=refusal.status, detail=str(refusal))
                if refusal.retry_after is not None:
                    await asyncio.sleep(refusal.retry_after)
            except RefusedByKafkaError as refusal:
                # Its records are lost to the producer: read again from the stored cursor, the other tenants go on.
                self._log.error("the tenant's stream pauses", seconds=_REFUSED_PAUSE_S, error=str(refusal))
                self._read, self.tracker = self.stored, AckTracker()
                await asyncio.sleep(_REFUSED_PAUSE_S)
            except (httpx.HTTPError, CcaasError) as error:
                failures = 1 if self._read != began else failures + 1
                self._log.warning("stream broken", error=f"{type(error).__name__}: {error}")
            finally:
                self._set_open(is_open=False)
            backoff = min(_BACKOFF_S * 2 ** (failures - 2), _MAX_BACKOFF_S) if failures > 1 else 0.0
            await asyncio.sleep(random.uniform(*_RECONNECT_S) + backoff)

    async def _read_once(self) -> None:
        token = await self._tokens.token()
        connection = self._connection
        opened = open_stream(
            self._streams,
            connection.stream_url or "",
            streams=connection.streams,
            token=token,
            cursor=self._read,
            idle_timeout=connection.heartbeat_timeout_seconds,
        )
        counter = frames.labels(self.tenant.tenant_id)
        try:
            async with opened as stream:
                self._set_open(is_open=True)
                async for frame in stream:
                    counter.inc()
                    while not self._publisher.has_room() or len(self.tracker) >= _MAX_IN_FLIGHT:
                        await asyncio.sleep(_POLL_S)
                    if (refusal := self._publisher.take_refusal(self.tenant)) is not None:
                        raise RefusedByKafkaError(refusal.str())
                    self._handle(frame)
                    self._read = frame.cursor
        except StreamRefusedError as refusal:
            if refusal.status == httpx.codes.UNAUTHORIZED:
                self._tokens.refuse(token)
            if refusal.status == httpx.codes.PRECONDITION_FAILED:
                # The vendor no longer has this cursor. Ids make what comes twice harmless; what is missing is a gap.
                self._log.error(
                    "the vendor does not know the cursor; reading begins anew, a gap is possible", cursor=self._read
                )
                self._read = None
            if refusal.status == httpx.codes.FORBIDDEN:
                self._log.error("the client lacks the scope streaming:read; grant it at the vendor")
            raise

    def _set_open(self, *, is_open: bool) -> None:
        self.is_open = is_open
        connected.labels(self.tenant.tenant_id).set(is_open)

    def _handle(self, frame: Frame) -> None:
        """Hot path: one frame becomes records at the producer, or a dead letter."""
        received_us = time.time_ns() // 1000
        publisher, tracker, tenant = self._publisher, self.tracker, self.tenant
        try:
            if len(frame.data) > MAX_EVENT_BYTES:
                msg = f"{len(frame.data)} bytes, more than {MAX_EVENT_BYTES}"
                raise BadEventError(msg, reason="too_large")
            events = self._normalise(frame.data, tenant.tenant_id)
            records = [(event, publisher.encode(event)) for event in events]
        except BadEventError as error:
            entry = tracker.begin(frame.cursor, 1)
            publisher.dead_letter(
                tenant,
                key=None,
                value=frame.data,
                headers=dead_letter_headers(error, stage="normalise", transport=TRANSPORT),
                acknowledged=lambda: tracker.acknowledge(entry),
            )
            return
        entry = tracker.begin(frame.cursor, len(records))
        for event, value in records:
            publisher.publish(
                tenant,
                event,
                value,
                received_us=received_us,
                transport=TRANSPORT,
                acknowledged=lambda: tracker.acknowledge(entry),
            )

    def cursor_move(self) -> CursorMove | None:
        """The cursor to store, if acknowledgements moved it."""
        cursor = self.tracker.acknowledged
        if not cursor or cursor == self.stored:
            return None
        return CursorMove(self.tenant.tenant_id, cursor, lease_name(self.tenant), self.epoch)


class GenesysIngest:
    """All Genesys tenants in one process, each under its own lease.

    Args:
        settings: The platform's.
        stop: Ends the service when set.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._tenants = settings.tenants_of(VENDOR)
        self._connections = {tenant.tenant_id: connection_of(tenant, GenesysConnection) for tenant in self._tenants}
        self._progress = Progress()
        self._running: dict[str, tuple[TenantStream, asyncio.Task[None]]] = {}
        self._paused: dict[str, float] = {}
        if not self._tenants:
            msg = "tenants: none of vendor 'genesys'; add one or don't run genesys-ingest"
            raise ConfigurationError(msg)

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            ServiceUnavailableError: Kafka refused a record for good; to be started again.
        """
        health = self._settings.health
        publisher: Publisher | None = None

        def ready() -> bool:
            """Has streams, all of them open, and a broker; a copy that stands by is not ready."""
            streams = [stream for stream, _ in list(self._running.values())]
            return (
                bool(streams)
                and all(stream.is_open for stream in streams)
                and bool(publisher and publisher.reachable())
            )

        with HealthServer(health.host, health.genesys_ingest, self._progress, ready):
            encoder = prepare(self._settings, self._tenants, self._stop, self._progress)
            engine = when_available(
                "state database", lambda: open_state(self._settings.state_url), self._stop, self._progress
            )
            publisher = Publisher(self._settings, encoder, "genesys-ingest")
            names = [lease_name(tenant) for tenant in self._tenants]
            keeper = LeaseKeeper(engine, names, ttl=self._settings.state.lease_ttl_seconds)
            keeper.start()
            try:
                asyncio.run(self._serve(publisher, engine, keeper))
            finally:
                keeper.close()
                publisher.close()
                engine.dispose()

    async def _serve(self, publisher: Publisher, engine: sa.Engine, keeper: LeaseKeeper) -> None:
        cursors = CursorStore(engine, VENDOR, TRANSPORT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=len(self._tenants))
        # Two pools: open streams must never keep a token request waiting for a connection.
        async with httpx.AsyncClient(limits=limits) as streams, httpx.AsyncClient(timeout=10) as rest:
            tokens = {tenant_id: _tokens(rest, connection) for tenant_id, connection in self._connections.items()}
            flushed = time.monotonic()
            while not self._stop.is_set():
                publisher.poll()
                self._progress.step()
                if time.monotonic() - flushed >= _CURSOR_FLUSH_S:
                    await self._flush_cursors(cursors)
                    await self._follow_leases(keeper, cursors, streams, tokens, publisher)
                    flushed = time.monotonic()
                await asyncio.sleep(_POLL_S)
            for _, task in self._running.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
            await asyncio.to_thread(publisher.drain, 10)
            await self._flush_cursors(cursors)

    async def _follow_leases(
        self,
        keeper: LeaseKeeper,
        cursors: CursorStore,
        streams: httpx.AsyncClient,
        tokens: dict[str, TokenSource],
        publisher: Publisher,
    ) -> None:
        """Start the streams whose lease was won, end those whose lease was lost or changed its epoch."""
        held = keeper.held()
        for tenant in self._tenants:
            tenant_id, epoch = tenant.tenant_id, held.get(lease_name(tenant))
            if tenant_id in self._running:
                stream, task = self._running[tenant_id]
                if stream.epoch == epoch and not task.done():
                    continue
                task.cancel()
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                del self._running[tenant_id]
                if isinstance(outcome, Exception):
                    log.error("stream failed, begins anew", tenant_id=tenant_id, error=repr(outcome))
                    self._paused[tenant_id] = time.monotonic() + _FAILED_PAUSE_S
            if epoch is not None and time.monotonic() >= self._paused.get(tenant_id, 0):
                try:
                    cursor = await asyncio.to_thread(cursors.read, tenant_id)
                except sa.exc.SQLAlchemyError as error:
                    log.warning("state database does not answer; the stream waits", error=type(error).__name__)
                    return
                stream = TenantStream(
                    tenant,
                    self._connections[tenant_id],
                    streams=streams,
                    tokens=tokens[tenant_id],
                    publisher=publisher,
                    epoch=epoch,
                    cursor=cursor,
                )
                log.info("stream begins", tenant_id=tenant_id, epoch=epoch, resumes=cursor is not None)
                self._running[tenant_id] = (stream, asyncio.create_task(stream.run()))

    async def _flush_cursors(self, cursors: CursorStore) -> None:
        moves = [move for stream, _ in self._running.values() if (move := stream.cursor_move()) is not None]
        if not moves:
            return
        try:
            fenced = await asyncio.to_thread(cursors.write, moves)
        except sa.exc.SQLAlchemyError as error:
            # The stream goes on; a restart would read again what was not noted, with the same ids.
            log.warning("state database does not answer; cursors are stored later", error=type(error).__name__)
            return
        for move in moves:
            stream, task = self._running[move.tenant_id]
            if move.tenant_id in fenced:
                log.warning("lease lost; the stream ends here", tenant_id=move.tenant_id)
                task.cancel()
            else:
                stream.stored = move.cursor


def _tokens(rest: httpx.AsyncClient, connection: GenesysConnection) -> TokenSource:
    return TokenSource(
        rest,
        token_url=connection.token_url,
        client_id=connection.client_id,
        client_secret=connection.client_secret.get_secret_value(),
        scope="streaming:read",
    )
