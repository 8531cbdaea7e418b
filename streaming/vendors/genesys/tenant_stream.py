"""One tenant's stream: read → normalise → Kafka, whatever the vendor does meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine, MutableMapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pybreaker
import structlog
from cachetools import LRUCache
from confluent_kafka import KafkaError
from prometheus_client import Counter, Gauge

from schemas.normalise import normaliser
from streaming.acks import AckTracker
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, CcaasError
from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.state import CursorMove
from streaming.vendors.genesys.connection import VENDOR, GenesysOptions
from streaming.vendors.genesys.reconnect import ConnectPool, Reconnection, RefusedByKafkaError
from streaming.vendors.genesys.recovery import Recovery
from streaming.vendors.genesys.stream import MAX_EVENT_BYTES, StreamRefusedError
from streaming.vendors.genesys.transport import Frame, Transport

log = structlog.get_logger()

EVENT_TIME = "event-time"
"""Stored beside the vendor's cursor: epoch ms until which the stream's events are on Kafka. Gaps begin there."""

GAP = "gap"
"""Stored while a gap waits to be filled: its start, epoch ms. Empty once it is."""

_POLL_S = 0.005
# Frames read but not yet acknowledged, a tenant: at the bound its stream is not read on.
_MAX_IN_FLIGHT = 5_000
_REFUSED_PAUSE_S = 30.0
# Events may come somewhat out of order, so a gap is taken to begin earlier than the newest event before it.
GAP_MARGIN = timedelta(minutes=5)
# A vendor's event far in the future must not hide a gap.
_MAX_LEAD_MS = 60_000
# A query reaches a little into the future: clocks differ, and a replay's may be anywhere.
_QUERY_LEAD = timedelta(hours=1)
_MAX_GAP = timedelta(days=30)
# The event time may be stored seldom: an older one only makes REST tell more.
_EVENT_TIME_EVERY_S = 5.0

connected = Gauge("ccaas_genesys_stream_connected", "1 while the tenant's stream is open", ["tenant_id"])
breaker_open = Gauge("ccaas_genesys_breaker_open", "1 while REST is polled instead of the stream", ["tenant_id"])
frames_read = Counter("ccaas_genesys_frames", "Frames read from the stream", ["tenant_id"])
recovered = Counter("ccaas_genesys_recovered_events", "Events that REST brought", ["tenant_id"])


class StreamEndedError(CcaasError):
    """The stream was open for too short a time to count as a success."""


class Position(NamedTuple):
    """How far a stream was read: the vendor's cursor, and the newest event time until there, epoch ms."""

    cursor: str
    time_ms: int


class Stored(NamedTuple):
    """What the state database has of a stream."""

    cursor: str | None
    time_ms: int
    gap_ms: int | None

    @classmethod
    def of(cls, cursors: dict[tuple[str, str], str], tenant_id: str, transport: str) -> Stored:
        """From :meth:`~streaming.state.CursorStore.read_all`."""
        gap = cursors.get((tenant_id, GAP))
        return cls(
            cursors.get((tenant_id, transport)),
            int(cursors.get((tenant_id, EVENT_TIME), "0")),
            int(gap) if gap else None,
        )


def lease_name(tenant: Tenant) -> str:
    """The lease that entitles a process to read a tenant's stream."""
    return f"ingest/{tenant.vendor}/{tenant.tenant_id}"


class TenantStream:
    """One tenant's stream under one lease epoch.

    Args:
        tenant: Whose stream.
        transport: How it comes.
        recovery: Brings by REST what the stream did not.
        publisher: Polled by the event loop in which this runs.
        pool: Lets attempts through.
        options: Retries and waits.
        epoch: Epoch of the lease under which it runs.
        stored: Where to resume.
        remembered: Ids that REST brought while the stream was away, so many: it brings them again when it resumes.
    """

    def __init__(
        self,
        tenant: Tenant,
        *,
        transport: Transport,
        recovery: Recovery,
        publisher: Publisher,
        pool: ConnectPool,
        options: GenesysOptions,
        epoch: int,
        stored: Stored,
        remembered: int,
    ) -> None:
        self.tenant = tenant
        self.epoch = epoch
        self.is_open = False
        self._transport = transport
        self._recovery = recovery
        self._publisher = publisher
        self._pool = pool
        self._options = options
        self._reconnection = Reconnection(tenant.tenant_id, options)
        self._normalise = normaliser(VENDOR).normalise
        self._counter = frames_read.labels(tenant.tenant_id)
        self._log = log.bind(tenant_id=tenant.tenant_id)
        self._stored = stored
        self._time_stored_at = -_EVENT_TIME_EVERY_S
        self._tracker: AckTracker[Position] = AckTracker()
        self._read = Position(stored.cursor or "", stored.time_ms)
        # Where the next gap begins, None if there is none; the state database's follows it.
        self._gap_ms = stored.gap_ms
        self._polled_ms = 0
        self._known: MutableMapping[str, bool] = LRUCache(remembered)
        self._refusal: asyncio.Future[KafkaError] = asyncio.get_running_loop().create_future()

    @property
    def is_served(self) -> bool:
        """Whether its events come, by stream or, while the breaker is open, by REST."""
        return self.is_open or self._polled_ms > 0

    async def run(self) -> None:
        """Read the stream for ever, reconnecting; ends only by cancellation."""
        wait = random.uniform(0, self._options.reconnect_min_seconds)  # a restart of ours is a reconnect of all, too
        while True:
            await asyncio.sleep(wait)
            refusal: StreamRefusedError | None = None
            try:
                await self._connect_and_read()
                self._log.info("stream ended by the vendor")
            except pybreaker.CircuitBreakerError:
                wait = await self._poll_rest()
                continue
            except StreamRefusedError as refused:
                refusal = refused
                self._log.warning("stream refused", status=refused.status, detail=str(refused))
                if refused.status == httpx.codes.PRECONDITION_FAILED:
                    self._forget_cursor()
            except RefusedByKafkaError as refused:
                # Its records are lost to the producer: read again from the stored cursor, the other tenants go on.
                self._log.error("the tenant's stream pauses", seconds=_REFUSED_PAUSE_S, error=str(refused))
                self._begin_anew()
                await asyncio.sleep(_REFUSED_PAUSE_S)
            except (httpx.HTTPError, CcaasError) as error:
                self._log.warning("stream broken", error=f"{type(error).__name__}: {error}")
            finally:
                self._set_open(is_open=False)
            wait = self._reconnection.pause(refusal)

    async def _connect_and_read(self) -> None:
        """1. a place in the pool, 2. the stream, 3. the gap before it, 4. frames until it ends.

        The breaker sees success once the stream was open for a while.
        """
        async with AsyncExitStack() as exits:
            with self._reconnection.calling():
                async with self._pool.attempt():
                    frames = await exits.enter_async_context(self._transport.open(self._read.cursor or None))
                self._set_open(is_open=True)
                if not self._transport.resumes:
                    self._note_gap()
                reading = _in_background(exits, self._read_frames(frames))
                _in_background(exits, self._fill_gap())
                await self._until_done(reading, self._options.stable_after_seconds)
                if reading.done():
                    reading.result()
                    msg = f"the stream ended within {self._options.stable_after_seconds:.0f} s"
                    raise StreamEndedError(msg)
            self._polled_ms = 0
            breaker_open.labels(self.tenant.tenant_id).set(0)
            await self._until_done(reading, None)
            reading.result()

    async def _until_done(self, reading: asyncio.Task[None], at_most: float | None) -> None:
        watched: set[asyncio.Future[Any]] = {reading, self._refusal}
        await asyncio.wait(watched, timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
        if self._refusal.done():
            raise RefusedByKafkaError(self._refusal.result().str())

    async def _read_frames(self, frames: AsyncIterator[Frame]) -> None:
        publisher = self._publisher
        async for frame in frames:
            self._counter.inc()
            while not publisher.has_room() or len(self._tracker) >= _MAX_IN_FLIGHT:
                await asyncio.sleep(_POLL_S)
            self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        """Hot path: one frame becomes records at the producer, or a dead letter."""
        received_us = time.time_ns() // 1000
        publisher, tenant, tracker = self._publisher, self.tenant, self._tracker
        time_ms = self._read.time_ms
        try:
            if len(frame.data) > MAX_EVENT_BYTES:
                msg = f"{len(frame.data)} bytes, more than {MAX_EVENT_BYTES}"
                raise BadEventError(msg, reason="too_large")
            events = self._normalise(frame.data, tenant.tenant_id)
            if self._known:
                events = [event for event in events if event["event_id"] not in self._known]
            records = [(event, publisher.encode(event)) for event in events]
        except BadEventError as error:
            self._read = Position(frame.cursor, time_ms)
            entry = tracker.begin(self._read, 1)
            publisher.dead_letter(
                tenant,
                key=None,
                value=frame.data,
                headers=dead_letter_headers(error, stage="normalise", transport=self._transport.name),
                acknowledged=lambda: tracker.acknowledge(entry),
            )
            return
        latest = received_us // 1000 + _MAX_LEAD_MS
        for event in events:
            if time_ms < event["timestamp"] <= latest:
                time_ms = event["timestamp"]
        self._read = Position(frame.cursor, time_ms)
        entry = tracker.begin(self._read, len(records))
        for event, value in records:
            publisher.publish(
                tenant,
                event,
                value,
                received_us=received_us,
                transport=self._transport.name,
                acknowledged=lambda: tracker.acknowledge(entry),
            )

    async def _poll_rest(self) -> float:
        """The breaker is open: what the stream would have brought is asked for by REST.

        Returns:
            Seconds until the breaker is asked again.
        """
        breaker_open.labels(self.tenant.tenant_id).set(1)
        since_ms = max(self._acknowledged.time_ms, self._polled_ms)
        if since_ms:
            with suppress(CcaasError):  # said by _fill; the next poll begins at the same time
                self._polled_ms = max(await self._fill(since_ms), since_ms)
        return self._options.rest_poll_seconds

    async def _fill_gap(self) -> None:
        """Fill the gap before the open stream, however long that takes."""
        while self._gap_ms is not None:
            gap_ms = self._gap_ms
            try:
                await self._fill(gap_ms)
            except CcaasError:
                await asyncio.sleep(self._options.rest_poll_seconds)
                continue
            if self._gap_ms == gap_ms:
                self._gap_ms = None

    async def _fill(self, since_ms: int) -> int:
        """Publish what REST tells from a little before ``since_ms`` on; gives the newest event's time, epoch ms."""
        start = datetime.fromtimestamp(since_ms / 1000, UTC) - GAP_MARGIN
        end = min(datetime.now(UTC) + _QUERY_LEAD, start + _MAX_GAP)
        try:
            counts = await self._recovery.fill(start, end, known=self._known)
        except CcaasError as error:
            self._log.warning("not recovered by REST, tried again", error=str(error))
            raise
        published = sum(counts.published.values())
        recovered.labels(self.tenant.tenant_id).inc(published)
        self._log.info("recovered by REST", since=start.isoformat(timespec="seconds"), events=published)
        return counts.newest_ms

    @property
    def _acknowledged(self) -> Position:
        return self._tracker.acknowledged or Position(self._stored.cursor or "", self._stored.time_ms)

    def _note_gap(self) -> None:
        """What came since the last acknowledged event may be missing."""
        time_ms = self._acknowledged.time_ms
        if self._gap_ms is None and time_ms:
            self._gap_ms = time_ms

    def _forget_cursor(self) -> None:
        """The vendor no longer has this cursor: the stream begins where the vendor does, REST fills the gap."""
        self._note_gap()
        if self._gap_ms is None:
            self._log.error(
                "the vendor does not know the cursor, and no event was acknowledged since: a gap is possible"
            )
        else:
            self._log.warning("the vendor does not know the cursor; REST fills the gap", cursor=self._read.cursor)
        self._read = Position("", self._read.time_ms)

    def _begin_anew(self) -> None:
        """Read again from what is stored: the producer lost records."""
        self._refusal = asyncio.get_running_loop().create_future()
        acknowledged = self._acknowledged
        self._tracker = AckTracker()
        self._stored = Stored(acknowledged.cursor or None, acknowledged.time_ms, self._stored.gap_ms)
        self._read = acknowledged

    def _set_open(self, *, is_open: bool) -> None:
        self.is_open = is_open
        connected.labels(self.tenant.tenant_id).set(is_open)

    def check_refusal(self) -> None:
        """Interrupt the stream if Kafka refused a record of the tenant; asked often, also while nothing is read."""
        refusal = self._publisher.take_refusal(self.tenant)
        if refusal is not None and not self._refusal.done():
            self._refusal.set_result(refusal)

    def cursor_moves(self) -> list[CursorMove]:
        """What is to be stored, since acknowledgements or a gap moved it."""
        moves: list[CursorMove] = []
        cursor, time_ms = self._acknowledged
        if self._transport.resumes and cursor and cursor != self._stored.cursor:
            moves.append(self._move(self._transport.name, cursor))
        now = time.monotonic()
        if time_ms > self._stored.time_ms and now - self._time_stored_at >= _EVENT_TIME_EVERY_S:
            self._time_stored_at = now
            moves.append(self._move(EVENT_TIME, str(time_ms)))
        if self._gap_ms != self._stored.gap_ms:
            moves.append(self._move(GAP, "" if self._gap_ms is None else str(self._gap_ms)))
        return moves

    def _move(self, stream: str, cursor: str) -> CursorMove:
        return CursorMove(self.tenant.tenant_id, stream, cursor, lease_name(self.tenant), self.epoch)

    def note_stored(self, move: CursorMove) -> None:
        """A move is in the state database."""
        if move.stream == EVENT_TIME:
            self._stored = self._stored._replace(time_ms=int(move.cursor))
        elif move.stream == GAP:
            self._stored = self._stored._replace(gap_ms=int(move.cursor) if move.cursor else None)
        else:
            self._stored = self._stored._replace(cursor=move.cursor)


def _in_background(exits: AsyncExitStack, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Run it until the stack is left."""
    task = asyncio.create_task(coroutine)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    exits.push_async_callback(end)
    return task
