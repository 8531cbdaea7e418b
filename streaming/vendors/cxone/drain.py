"""Drain of the spools: a tenant's requests in order → normalise → Kafka; a row leaves once Kafka has all it became."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
from prometheus_client import Gauge

from schemas.canonical import CanonicalEvent
from schemas.normalise import normaliser
from streaming.acks import AckTracker
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError
from streaming.publisher import Publisher
from streaming.settings import Settings, Tenant
from streaming.spool.batch import SpooledEvent
from streaming.spool.reader import Drained, SpooledBatch, SpoolReader
from streaming.spool.schema import spool_files
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.messages import Failure, normalise_body

log = structlog.get_logger()

TRANSPORT = "webhook"
# A turn of one tenant: small enough that the others wait only milliseconds.
_REQUESTS_PER_TURN = 500
_BYTES_PER_TURN = 8 * 1024 * 1024

# A topic without permission, or deleted: tried again so often, while the other tenants go on.
_REFUSED_PAUSE_S = 30.0
# The receiver's commits come first; after so long the drain insists.
_PATIENCE_S = 1.0

in_flight = Gauge(
    "ccaas_cxone_spool_in_flight", "Webhook requests read from the spool, not all in Kafka yet", ["tenant_id"]
)


class _Position(NamedTuple):
    """Of a row in a tenant's line: its number, and requests and bytes from the start of this run through it."""

    seq: int
    rows: int
    bytes: int


class _Flight:
    """Requests of a line at the producer. A line that begins anew gets another; late answers count in the old one."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


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


class TenantLine:
    """One tenant's FIFO in one spool."""

    def __init__(self, tenant: Tenant, key: int) -> None:
        self.tenant = tenant
        self.key = key
        # What was read and is not yet at the producer: a batch may be larger than the producer's room.
        self._read: deque[tuple[SpooledEvent, _Row]] = deque()
        self.read_through = 0
        self.deleted_through = 0
        self.tracker: AckTracker[_Position] = AckTracker()
        self._rows = 0
        self._bytes = 0
        self._deleted = (0, 0)
        self._flight = _Flight()
        self.paused_until = 0.0

    @property
    def in_flight(self) -> int:
        """Requests at the producer."""
        return self._flight.requests

    @property
    def has_read(self) -> bool:
        """Whether requests wait here for room at the producer."""
        return bool(self._read)

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
        """Hot path: one request becomes records at the producer, or dead letters."""
        request, row = self._read.popleft()
        tenant, flight = self.tenant, self._flight
        events, failure = normalise_body(normaliser(VENDOR), request.body, tenant.tenant_id)
        records: list[tuple[CanonicalEvent, bytes]] = []
        for event in events:
            try:
                records.append((event, publisher.encode(event)))
            except BadEventError as error:
                failure = failure or Failure(request.body, error)
        left = len(records) + (failure is not None)
        if left == 0:
            row.finish_one()
            return
        flight.requests += 1

        def acknowledged() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                flight.requests -= 1
                row.finish_one()

        for event, value in records:
            publisher.publish(
                tenant, event, value, received_us=request.received_us, transport=TRANSPORT, acknowledged=acknowledged
            )
        if failure is not None:
            headers = dead_letter_headers(failure.error, stage="normalise", transport=TRANSPORT)
            publisher.dead_letter(tenant, key=None, value=failure.value, headers=headers, acknowledged=acknowledged)

    def begin_anew(self, now: float) -> None:
        """Read again from what the spool holds, after a pause: Kafka refused a record."""
        self._read.clear()
        self.read_through = self.deleted_through
        self._rows, self._bytes = self._deleted
        self.tracker = AckTracker()
        self._flight = _Flight()
        self.paused_until = now + _REFUSED_PAUSE_S

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


class SpoolDrain:
    """One spool file and the lines of its tenants."""

    def __init__(self, reader: SpoolReader, tenants: dict[str, Tenant], max_in_flight: int) -> None:
        self._reader = reader
        self._tenants = tenants
        self._max_in_flight = max_in_flight
        self._lines: dict[int, TenantLine] = {}
        self._more = True
        self._tidy = False
        self._unknown: set[str] = set()
        self._deleted_at = time.monotonic()

    def turn(self, publisher: Publisher) -> bool:
        """Give every tenant that has rows one turn; a tenant at its in-flight cap is passed over.

        Returns:
            Whether anything was read.
        """
        if self._reader.changed():
            self._more = True
        if not self._more:
            return False
        self._more = False
        read = False
        for key, name in self._reader.waiting():
            line = self._line(key, name)
            if line is None:
                continue
            if self._is_paused(line, publisher):
                self._more = True
                continue
            room = min(_REQUESTS_PER_TURN, self._max_in_flight - line.in_flight)
            if room <= 0 or not publisher.has_room():
                self._more = True
                continue
            if not line.has_read:
                line.take(self._reader.read(key, line.read_through, requests=room, max_bytes=_BYTES_PER_TURN))
            while room > 0 and line.has_read and publisher.has_room():
                line.publish_next(publisher)
                room -= 1
                read = self._more = True
        return read

    @staticmethod
    def _is_paused(line: TenantLine, publisher: Publisher) -> bool:
        now = time.monotonic()
        if (refusal := publisher.take_refusal(line.tenant)) is not None:
            tenant_id = line.tenant.tenant_id
            log.error("the tenant's line pauses", tenant_id=tenant_id, seconds=_REFUSED_PAUSE_S, error=refusal.str())
            line.begin_anew(now)
        return now < line.paused_until

    def delete_acknowledged(self) -> None:
        """One transaction for all that Kafka has; when idle, give the space back instead."""
        for line in self._lines.values():
            in_flight.labels(line.tenant.tenant_id).set(line.in_flight)
        drained = {key: item for key, line in self._lines.items() if (item := line.drained()) is not None}
        now = time.monotonic()
        if drained:
            if self._delete(list(drained.values()), wait=now - self._deleted_at > _PATIENCE_S):
                for key, item in drained.items():
                    self._lines[key].deleted(item)
                self._deleted_at = now
                self._tidy = True
            return
        self._deleted_at = now
        if self._tidy and not self._more:
            self._tidy = not self._reader.tidy()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def _delete(self, drained: list[Drained], *, wait: bool) -> bool:
        try:
            return self._reader.delete(drained, wait=wait)
        except (
            sqlite3.OperationalError
        ) as error:  # disk full, or locked for long: the rows stay and are known to be done
            log.warning("published rows can't be deleted from the spool yet", error=str(error))
            self._deleted_at = time.monotonic()
            return False

    def _line(self, key: int, name: str) -> TenantLine | None:
        line = self._lines.get(key)
        if line is None:
            tenant = self._tenants.get(name)
            if tenant is None:
                if name not in self._unknown:
                    self._unknown.add(name)
                    log.error(
                        "the spool holds events of a tenant that the settings don't know; they stay",
                        tenant_id=name,
                    )
                return None
            line = self._lines[key] = TenantLine(tenant, key)
        return line


class Drain:
    """All spools of the folder that no other publisher drains.

    Args:
        settings: The platform's.
        publisher: Used from this thread only.
    """

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._folder = settings.spool_dir
        self._tenants = {tenant.tenant_id: tenant for tenant in settings.tenants_of(VENDOR)}
        self._max_in_flight = settings.spool.max_in_flight_per_tenant
        self._publisher = publisher
        self._spools: dict[Path, SpoolDrain] = {}

    def adopt(self) -> None:
        """Take over spools that are new or whose publisher died."""
        for path in spool_files(self._folder):
            if path not in self._spools:
                reader = SpoolReader.claim(path)
                if reader is not None:
                    log.info("spool adopted", file=str(path))
                    self._spools[path] = SpoolDrain(reader, self._tenants, self._max_in_flight)

    def turn(self) -> bool:
        """One turn of every spool; whether anything was read."""
        busy = False
        for spool in self._spools.values():
            busy |= spool.turn(self._publisher)
        return busy

    def delete_acknowledged(self) -> None:
        """See :meth:`SpoolDrain.delete_acknowledged`."""
        for spool in self._spools.values():
            spool.delete_acknowledged()

    def close(self) -> None:
        """Let go of the files; what is not deleted is published again by the next, with the same ids."""
        for spool in self._spools.values():
            spool.close()
