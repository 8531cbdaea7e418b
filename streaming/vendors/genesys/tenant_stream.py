"""One tenant's stream: read → normalise → Kafka, whatever the vendor does meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from math import inf
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
from streaming.instants import from_ms, to_ms
from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.state import CursorMove
from streaming.vendors.genesys.background import run_until_exit
from streaming.vendors.genesys.connection import VENDOR, GenesysOptions
from streaming.vendors.genesys.reconnect import ConnectPool, Reconnection, RefusedByKafkaError, UnknownCursorError
from streaming.vendors.genesys.recovery import Recovery
from streaming.vendors.genesys.stream import CURSOR, MAX_EVENT_BYTES, StreamRefusedError
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
# REST is asked in parts, and the gap's stored start follows: what is long is not begun anew after each disturbance.
# A part after one without events is twice as long.
_PART = timedelta(hours=6)
# Beyond, a person should look, and say by genesys-backfill what is wanted.
_MAX_GAP = timedelta(days=30)
_GAP_TICK_S = 0.5
# A tenant counts as served by REST if so many polls ago one succeeded.
_SERVED_POLLS = 4
# A vendor that asks to wait longer than this is polled by REST meanwhile, and tried again after an hour at most.
_MAX_WAIT_S = 3600.0
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
        cursor = cursors.get((tenant_id, transport), "")
        return cls(
            cursor if CURSOR.fullmatch(cursor) else None,
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
        # When the stream began from which on nothing is missing, own monotonic clock.
        self._gap_ended_at: float | None = None
        self._polled_ms = 0
        self._polled_at = -inf
        self._known: MutableMapping[str, bool] = LRUCache(remembered)
        self._refusal: asyncio.Future[KafkaError] = asyncio.get_running_loop().create_future()

    @property
    def is_served(self) -> bool:
        """Whether its events come, by stream or, while that is away, by REST."""
        return self.is_open or time.monotonic() - self._polled_at < _SERVED_POLLS * self._options.rest_poll_seconds

    async def run(self) -> None:
        """Read the stream for ever, reconnecting; ends only by cancellation."""
        if not self._stored.time_ms and self._gap_ms is None:
            # Nothing is known of this tenant: what happens from now on must not be missed.
            self._note_gap(_now_ms())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fill_gaps())
                await self._reconnect_for_ever()
        finally:
            breaker_open.labels(self.tenant.tenant_id).set(0)

    async def _reconnect_for_ever(self) -> None:
        wait = random.uniform(0, self._options.reconnect_min_seconds)  # a restart of ours is a reconnect of all, too
        while True:
            await asyncio.sleep(wait)
            asked_to_wait = 0.0
            try:
                await self._connect_and_read()
                self._log.info("stream ended by the vendor")
            except pybreaker.CircuitBreakerError:
                pass
            except UnknownCursorError:
                self._forget_cursor()
            except StreamRefusedError as refused:
                asked_to_wait = min(refused.retry_after or 0.0, _MAX_WAIT_S)
                self._log.warning("stream refused", status=refused.status, detail=str(refused))
            except RefusedByKafkaError as refused:
                # Its records are lost to the producer: read again from the stored cursor, the other tenants go on.
                self._log.error("the tenant's stream pauses", seconds=_REFUSED_PAUSE_S, error=str(refused))
                self._begin_anew()
                await asyncio.sleep(_REFUSED_PAUSE_S)
            except (httpx.HTTPError, CcaasError) as error:
                self._log.warning("stream broken", error=f"{type(error).__name__}: {error}")
            finally:
                self._set_open(is_open=False)
            wait = await self._until_next(asked_to_wait)

    async def _until_next(self, asked_to_wait: float) -> float:
        """Seconds to sleep before the next attempt; while there is none for long, REST is polled."""
        poll = self._options.rest_poll_seconds
        not_before = time.monotonic() + asked_to_wait
        while self._reconnection.is_open or not_before - time.monotonic() > poll:
            breaker_open.labels(self.tenant.tenant_id).set(1)
            await self._poll_rest()
            if not_before <= time.monotonic():
                return poll  # the breaker decides whether the next one is an attempt
            await asyncio.sleep(min(poll, not_before - time.monotonic()))
        return self._reconnection.pause() + max(not_before - time.monotonic(), 0.0)

    async def _connect_and_read(self) -> None:
        """1. the stream, by a place in the pool, 2. frames until it ends.

        The breaker sees success once the stream was open for a while.
        """
        async with AsyncExitStack() as exits:
            with self._reconnection.calling():
                cursor = self._read.cursor or None
                try:
                    frames = await exits.enter_async_context(self._transport.open(cursor, self._pool.attempt))
                except StreamRefusedError as refused:
                    if refused.status == httpx.codes.PRECONDITION_FAILED and cursor is not None:
                        raise UnknownCursorError(str(refused)) from None
                    raise
                if cursor is None:
                    # It begins where the vendor does; what came before may be missing.
                    self._note_gap(self._acknowledged.time_ms)
                if cursor is None or self._gap_ended_at is None:
                    self._gap_ended_at = time.monotonic()
                self._set_open(is_open=True)
                reading = run_until_exit(exits, self._read_frames(frames))
                await self._until_done(reading, self._options.stable_after_seconds)
                if reading.done():
                    reading.result()
                    msg = f"the stream ended within {self._options.stable_after_seconds:.0f} s"
                    raise StreamEndedError(msg)
            breaker_open.labels(self.tenant.tenant_id).set(0)
            self._polled_ms = 0
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

    async def _poll_rest(self) -> None:
        """What the stream would have brought is asked for by REST."""
        since_ms = max(self._acknowledged.time_ms, self._polled_ms)
        if not since_ms:
            return  # nothing was ever acknowledged: the gap since the beginning is being filled
        with suppress(CcaasError):  # said by _recover; the next poll begins at the same time
            async for _, newest_ms in self._recover(since_ms):
                self._polled_ms = max(self._polled_ms, newest_ms)
            self._polled_at = time.monotonic()

    async def _fill_gaps(self) -> None:
        """Fill the gap before the open stream, at once and again when the vendor's analytics have settled."""
        filled_at = -1.0
        while True:
            await asyncio.sleep(_GAP_TICK_S)
            if self._gap_ms is None:
                filled_at = -1.0
                continue
            began, ended_at, gap_ms = time.monotonic(), self._gap_ended_at, self._gap_ms
            is_settled = ended_at is not None and began - ended_at >= self._options.rest_settle_seconds
            if filled_at > (ended_at or 0.0) and not is_settled:
                continue
            try:
                async for until_ms, _ in self._recover(gap_ms):
                    if is_settled and (self._gap_ended_at, self._gap_ms) == (ended_at, gap_ms):
                        self._gap_ms = gap_ms = until_ms
            except CcaasError:
                await asyncio.sleep(self._options.rest_poll_seconds)
                continue
            self._polled_at = filled_at = time.monotonic()
            if is_settled and (self._gap_ended_at, self._gap_ms) == (ended_at, gap_ms):
                self._gap_ms = None

    async def _recover(self, since_ms: int) -> AsyncIterator[tuple[int, int]]:
        """Publish what REST tells from a little before ``since_ms`` on, part by part.

        Yields:
            The end of the part, and the time of the newest event so far, epoch ms.
        """
        start = from_ms(since_ms) - GAP_MARGIN
        now = datetime.now(UTC)
        end = min(now + _QUERY_LEAD, start + _MAX_GAP)
        if end < now:
            said = "the gap is longer than REST is asked for; run genesys-backfill for the rest"
            self._log.warning(said, since=start.isoformat(timespec="seconds"), until=end.isoformat(timespec="seconds"))
        published = newest_ms = 0
        begin, part = start, _PART
        while begin < end:
            until = min(begin + part, end)
            try:
                counts = await self._recovery.fill(begin, until, known=self._known)
            except CcaasError as error:
                self._log.warning("not recovered by REST, tried again", error=str(error))
                raise
            count = sum(counts.published.values())
            recovered.labels(self.tenant.tenant_id).inc(count)
            published, newest_ms, begin = published + count, max(newest_ms, counts.newest_ms), until
            part = _PART if counts.found else part * 2
            yield min(to_ms(until), _now_ms()), newest_ms
        self._log.info("recovered by REST", since=start.isoformat(timespec="seconds"), events=published)

    @property
    def _acknowledged(self) -> Position:
        return self._tracker.acknowledged or Position(self._stored.cursor or "", self._stored.time_ms)

    def _note_gap(self, since_ms: int) -> None:
        """What came since then may be missing; 0 if nothing is known."""
        if since_ms and (self._gap_ms is None or since_ms < self._gap_ms):
            self._gap_ms = since_ms

    def _forget_cursor(self) -> None:
        """The vendor no longer has this cursor: the stream begins where the vendor does, REST fills the gap."""
        self._note_gap(self._acknowledged.time_ms)
        if not self._acknowledged.time_ms:
            self._log.error(
                "the vendor does not know the cursor, and no event was ever acknowledged: a gap is possible"
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
