"""A tenant's webhooks in one spool on their way to Kafka, in order; a row is done once Kafka has all it became."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from prometheus_client import Gauge

from schemas.canonical import CanonicalEvent
from schemas.normalise import normaliser
from streaming.acks import AckTracker
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError
from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.spool.batch import SpooledEvent
from streaming.spool.reader import Drained, SpooledBatch
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.messages import Failure, normalise_body

TRANSPORT = "webhook"

REFUSED_PAUSE_S = 30.0
"""A topic without permission, or deleted: tried again so often, while the other tenants go on."""

in_flight = Gauge("ccaas_cxone_spool_in_flight", "Records at the producer, not yet in Kafka", ["tenant_id"])


class _Position(NamedTuple):
    """Of a row in a tenant's line: its number, and requests and bytes from the start of this run through it."""

    seq: int
    rows: int
    bytes: int


class _Flight:
    """Records at the producer. Lines that begin anew get another; late answers count in the old one."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records = 0


class TenantFlight:
    """What a tenant has at the producer, from all spools together: its queue is shared with the other tenants.

    Args:
        tenant: Whose.
        most: Bound, records.
    """

    def __init__(self, tenant: Tenant, most: int) -> None:
        self.tenant = tenant
        self.most = most
        self.now = _Flight()
        self.paused_until = 0.0
        self._shown = 0
        self._gauge = in_flight.labels(tenant.tenant_id)

    def begin_anew(self, now: float) -> None:
        """Count from nothing, after a pause: what Kafka refused is never acknowledged."""
        self.now = _Flight()
        self.paused_until = now + REFUSED_PAUSE_S

    def show(self) -> None:
        """Bring the gauge up to date."""
        if self._shown != self.now.records:
            self._shown = self.now.records
            self._gauge.set(self._shown)


class _Row:
    """A row of the spool that was read: done once all its requests are."""

    __slots__ = ("done", "left")

    def __init__(self, requests: int, done: Callable[[], None]) -> None:
        self.left = requests
        self.done = done

    def finish_one(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done()


class _Request:
    """A request that became records: done, in its row, once Kafka has all of them."""

    __slots__ = ("flight", "left", "received_us", "row")

    def __init__(self, received_us: int, row: _Row, records: int, flight: _Flight) -> None:
        self.received_us = received_us
        self.row = row
        self.left = records
        self.flight = flight

    def acknowledged(self) -> None:
        self.flight.records -= 1
        self.left -= 1
        if self.left == 0:
            self.row.finish_one()


class TenantLine:
    """One tenant's FIFO in one spool.

    Args:
        flight: The tenant's; its lines in other spools share it.
        key: The tenant's in this spool.
    """

    def __init__(self, flight: TenantFlight, key: int) -> None:
        self.tenant = flight.tenant
        self.key = key
        self._flight = flight
        # What was read and is not yet at the producer: a batch may be larger than the producer's room.
        self._read: deque[tuple[SpooledEvent, _Row]] = deque()
        # Of the request that is being published: an array may hold more events than there is room.
        self._records: deque[tuple[CanonicalEvent, bytes] | Failure] = deque()
        self._request: _Request | None = None
        self.read_through = 0
        self.deleted_through = 0
        self.tracker: AckTracker[_Position] = AckTracker()
        self._rows = 0
        self._bytes = 0
        self._deleted = (0, 0)

    def may_publish(self, now: float) -> bool:
        """Whether the tenant is neither at its cap nor in a pause.

        Args:
            now: Monotonic clock, s.
        """
        return now >= self._flight.paused_until and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether the tenant is below its cap."""
        return self._flight.now.records < self._flight.most

    @property
    def has_read(self) -> bool:
        """Whether requests, or records of one, wait here for room at the producer."""
        return bool(self._records or self._read)

    def take(self, batches: list[SpooledBatch]) -> None:
        """Put rows read from the spool in line."""
        for batch in batches:
            self.read_through = batch.seq
            self._rows += len(batch.events)
            self._bytes += batch.bytes
            position = _Position(batch.seq, self._rows, self._bytes)
            entry = self.tracker.begin(position, 1)
            row = _Row(len(batch.events), partial(self.tracker.acknowledge, entry))
            self._read += [(event, row) for event in batch.events]

    def publish_next(self, publisher: Publisher) -> None:
        """Hot path: one request becomes records at the producer, or dead letters, as far as there is room for them."""
        if not self._records:
            self._begin_request(publisher)
        request, records, flight = self._request, self._records, self._flight.now
        most = self._flight.most
        while records and flight.records < most:
            assert request is not None  # there are records  # noqa: S101
            record = records.popleft()
            flight.records += 1
            if isinstance(record, Failure):
                headers = dead_letter_headers(record.error, stage="normalise", transport=TRANSPORT)
                publisher.dead_letter(
                    self.tenant, key=None, value=record.value, headers=headers, acknowledged=request.acknowledged
                )
            else:
                event, value = record
                publisher.publish(
                    self.tenant,
                    event,
                    value,
                    received_us=request.received_us,
                    transport=TRANSPORT,
                    acknowledged=request.acknowledged,
                )

    def _begin_request(self, publisher: Publisher) -> None:
        request, row = self._read.popleft()
        events, failure = normalise_body(normaliser(VENDOR), request.body, self.tenant.tenant_id)
        records = self._records
        for event in events:
            try:
                records.append((event, publisher.encode(event)))
            except BadEventError as error:
                failure = failure or Failure(request.body, error)
        if failure is not None:
            records.append(failure)
        if records:
            self._request = _Request(request.received_us, row, len(records), self._flight.now)
        else:
            row.finish_one()

    def begin_anew(self) -> None:
        """Read again from what the spool holds: Kafka refused a record of the tenant."""
        self._read.clear()
        self._records.clear()
        self.read_through = self.deleted_through
        self._rows, self._bytes = self._deleted
        self.tracker = AckTracker()

    def drained(self) -> Drained | None:
        """What Kafka has and the spool still holds; None if nothing."""
        position = self.tracker.acknowledged
        if position is None or position.seq == self.deleted_through:
            return None
        rows, size = self._deleted
        return Drained(self.key, position.seq, position.rows - rows, position.bytes - size)

    def deleted(self, item: Drained) -> None:
        """The spool no longer holds it."""
        self.deleted_through = item.through_seq
        self._deleted = (self._deleted[0] + item.rows, self._deleted[1] + item.bytes)
