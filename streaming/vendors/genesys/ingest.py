"""genesys-ingest: every tenant's stream → normalise → Kafka; the cursor follows the acknowledgements."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import sqlalchemy as sa
import structlog

from streaming.errors import ConfigurationError
from streaming.health import HealthServer, Progress
from streaming.lease import LeaseKeeper
from streaming.oauth import TokenSource
from streaming.publisher import Publisher
from streaming.rest import RestClient
from streaming.service import prepare, when_available
from streaming.settings import Settings, Tenant
from streaming.state import CursorStore, open_state
from streaming.vendors import connection_of, options_of
from streaming.vendors.genesys.api import GenesysApi
from streaming.vendors.genesys.connection import VENDOR, GenesysConnection, GenesysOptions
from streaming.vendors.genesys.notifications import WebSocketTransport
from streaming.vendors.genesys.reconnect import ConnectPool
from streaming.vendors.genesys.recovery import Recovery
from streaming.vendors.genesys.stream import SseTransport
from streaming.vendors.genesys.tenant_stream import Stored, TenantStream, lease_name
from streaming.vendors.genesys.transport import Transport

log = structlog.get_logger()

_POLL_S = 0.005
_TICK_S = 0.25
# A stream that failed in a way nobody foresaw begins anew after so long.
_FAILED_PAUSE_S = 10.0
# Token and REST calls of all tenants at once; the rest waits in line.
_REST_CONNECTIONS = 100
# Ids that REST brought, of all tenants together (about 150 bytes each).
_REMEMBERED = 1_000_000
_MARK = "polled"
# When the service ends, streams have so long to let go of sockets and channels.
_END_S = 10.0
# Ingest, completeness check and backfill are processes of their own and share the vendor's limit; sync-directory,
# once a day, goes at the pace of one of them.
_RATE_SHARE = 1 / 3


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
        self._options = options_of(settings, VENDOR, GenesysOptions)
        self._progress = Progress()
        self._running: dict[str, tuple[TenantStream, asyncio.Task[None]]] = {}
        self._ending: dict[str, tuple[TenantStream, asyncio.Task[None]]] = {}
        self._paused: dict[str, float] = {}
        if not self._tenants:
            msg = "tenants: none of vendor 'genesys'; add one or don't run genesys-ingest"
            raise ConfigurationError(msg)

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            ServiceUnavailableError: the producer can't go on; to be started again.
        """
        health = self._settings.health
        publisher: Publisher | None = None

        def ready() -> bool:
            """Every tenant's events come, and a broker answers; a copy that stands by is not ready."""
            streams = [stream for stream, _ in list(self._running.values())]
            served = bool(streams) and all(stream.is_served for stream in streams)
            return served and bool(publisher and publisher.reachable())

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
                encoder.close()
                engine.dispose()

    async def _serve(self, publisher: Publisher, engine: sa.Engine, keeper: LeaseKeeper) -> None:
        cursors = CursorStore(engine, VENDOR)
        stream_limits = httpx.Limits(max_connections=None, max_keepalive_connections=len(self._tenants))
        rest_limits = httpx.Limits(max_connections=_REST_CONNECTIONS)
        # Two pools: open streams must never keep a token or REST request waiting for a connection.
        async with (
            httpx.AsyncClient(limits=stream_limits) as streams,
            httpx.AsyncClient(limits=rest_limits, timeout=httpx.Timeout(30, pool=None)) as rest,
        ):
            makers = {
                tenant.tenant_id: _StreamMaker(
                    tenant, self._connections[tenant.tenant_id], streams=streams, rest=rest, publisher=publisher
                )
                for tenant in self._tenants
            }
            pool = ConnectPool(self._options)
            polling = asyncio.create_task(_poll(publisher))
            try:
                while not self._stop.is_set():
                    self._progress.step()
                    for stream, _ in self._running.values():
                        stream.check_refusal()
                    await self._store_cursors(cursors)
                    await self._follow_leases(keeper, cursors, makers, pool)
                    # Kafka's acknowledgements wait for nothing of this.
                    await asyncio.wait({polling}, timeout=_TICK_S)
                    if polling.done():
                        polling.result()
            finally:
                polling.cancel()
            tasks = {task for _, task in (*self._running.values(), *self._ending.values())}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_END_S)
            await asyncio.to_thread(publisher.drain, 10)
            await self._store_cursors(cursors)

    async def _follow_leases(
        self, keeper: LeaseKeeper, cursors: CursorStore, makers: dict[str, _StreamMaker], pool: ConnectPool
    ) -> None:
        """Start the streams whose lease was won, end those whose lease was lost or changed its epoch."""
        held = keeper.held()
        for tenant in self._tenants:
            running = self._running.get(tenant.tenant_id)
            if running is not None and (running[0].epoch != held.get(lease_name(tenant)) or running[1].done()):
                # Ending takes its time (sockets, channels); the other tenants go on meanwhile.
                running[1].cancel()
                self._ending[tenant.tenant_id] = self._running.pop(tenant.tenant_id)
        self._note_ended()
        now = time.monotonic()
        begin = {
            tenant.tenant_id: held[lease_name(tenant)]
            for tenant in self._tenants
            if tenant.tenant_id not in self._running
            and tenant.tenant_id not in self._ending
            and lease_name(tenant) in held
            and now >= self._paused.get(tenant.tenant_id, 0)
        }
        if not begin:
            return
        try:
            known = await asyncio.to_thread(cursors.read_all, begin)
        except sa.exc.SQLAlchemyError as error:
            log.warning("state database does not answer; the streams wait", error=type(error).__name__)
            return
        remembered = max(_REMEMBERED // len(self._tenants), 1_000)
        for tenant_id, epoch in begin.items():
            stream = makers[tenant_id].make(pool, self._options, epoch, known, remembered)
            log.info("stream begins", tenant_id=tenant_id, epoch=epoch)
            self._running[tenant_id] = (stream, asyncio.create_task(stream.run()))

    def _note_ended(self) -> None:
        for tenant_id, (stream, task) in list(self._ending.items()):
            if not task.done():
                continue
            del self._ending[tenant_id]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("stream failed, begins anew", tenant_id=tenant_id, epoch=stream.epoch, error=repr(error))
                self._paused[tenant_id] = time.monotonic() + _FAILED_PAUSE_S

    async def _store_cursors(self, cursors: CursorStore) -> None:
        moves = [move for stream, _ in self._running.values() for move in stream.cursor_moves()]
        if not moves:
            return
        try:
            fenced = await asyncio.to_thread(cursors.write, moves)
        except sa.exc.SQLAlchemyError as error:
            # The stream goes on; a restart would read again what was not noted, with the same ids.
            log.warning("state database does not answer; cursors are stored later", error=type(error).__name__)
            return
        for move in moves:
            if move.tenant_id not in fenced:
                self._running[move.tenant_id][0].note_stored(move)
        for tenant_id in fenced:
            log.warning("lease lost; the stream ends here", tenant_id=tenant_id)
            self._running[tenant_id][1].cancel()


async def _poll(publisher: Publisher) -> None:
    """Run the callbacks of what Kafka acknowledged, for ever.

    Raises:
        ServiceUnavailableError: the producer can't go on.
    """
    while True:
        publisher.poll()
        await asyncio.sleep(_POLL_S)


class _StreamMaker:
    """What a tenant's streams need, whatever the epoch: token, REST access with its rate limit, transport."""

    def __init__(
        self,
        tenant: Tenant,
        connection: GenesysConnection,
        *,
        streams: httpx.AsyncClient,
        rest: httpx.AsyncClient,
        publisher: Publisher,
    ) -> None:
        tokens = token_source(rest, connection)
        api = api_of(rest, tokens, connection)
        self._tenant = tenant
        self._publisher = publisher
        self._recovery = Recovery(tenant, connection, api, publisher, mark=_MARK)
        self._transport: Transport = (
            WebSocketTransport(api, connection)
            if connection.transport == "websocket"
            else SseTransport(streams, tokens, connection)
        )

    def make(
        self,
        pool: ConnectPool,
        options: GenesysOptions,
        epoch: int,
        cursors: dict[tuple[str, str], str],
        remembered: int,
    ) -> TenantStream:
        return TenantStream(
            self._tenant,
            transport=self._transport,
            recovery=self._recovery,
            publisher=self._publisher,
            pool=pool,
            options=options,
            epoch=epoch,
            stored=Stored.of(cursors, self._tenant.tenant_id, self._transport.name),
            remembered=remembered,
        )


def token_source(http: httpx.AsyncClient, connection: GenesysConnection) -> TokenSource:
    """The tenant's token."""
    return TokenSource(
        http,
        token_url=connection.token_url,
        client_id=connection.client_id,
        client_secret=connection.client_secret.get_secret_value(),
    )


def rest_client(http: httpx.AsyncClient, tokens: TokenSource, connection: GenesysConnection) -> RestClient:
    """Requests to the tenant's REST API, within this process's share of the vendor's rate limit."""
    return RestClient(http, tokens, requests_per_minute=connection.rest_requests_per_minute * _RATE_SHARE)


def api_of(http: httpx.AsyncClient, tokens: TokenSource, connection: GenesysConnection) -> GenesysApi:
    """The tenant's REST API, within this process's share of the vendor's rate limit."""
    return GenesysApi(rest_client(http, tokens, connection), connection.api_url)
