"""Drain of the spools: a tenant's requests in order → normalise → Kafka; a row leaves once Kafka has all it became."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog
from prometheus_client import Gauge

from streaming.errors import ConfigurationError
from streaming.publisher import Publisher
from streaming.settings import Settings
from streaming.spool.reader import SpoolReader
from streaming.spool.schema import REMEDY, spool_files
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.line import REFUSED_PAUSE_S, TenantFlight, TenantLine

log = structlog.get_logger()
T = TypeVar("T")

# A turn of one tenant: small enough that the others wait only milliseconds.
_REQUESTS_PER_TURN = 500
_BYTES_PER_TURN = 8 * 1024 * 1024

# A spool that could not be opened or read: tried again so often, while the others go on.
_UNUSABLE_PAUSE_S = 30.0
# The receiver's commits come first; after so long the drain insists.
_PATIENCE_S = 1.0
# What a person must see to is said again so often.
_REMINDER_S = 600.0

unusable = Gauge("ccaas_cxone_spools_unusable", "Spools that could not be opened or read; tried again later")
strangers = Gauge(
    "ccaas_cxone_spool_unknown_tenant_requests",
    "Webhook requests in the spools of a tenant that the settings do not know",
    ["tenant_id"],
)


class SpoolDrain:
    """One spool file and the lines of its tenants.

    Args:
        reader: Of the file; closed with this.
        flights: By tenant id; shared with the drains of other spools.
    """

    def __init__(self, reader: SpoolReader, flights: dict[str, TenantFlight]) -> None:
        self._reader = reader
        self._flights = flights
        self._lines: dict[int, TenantLine] = {}
        self._more = True
        self._idle = False
        # What an earlier publisher deleted is perhaps not given back yet.
        self._tidy = True
        self._deleted_at = time.monotonic()

    def turn(self, publisher: Publisher) -> bool:
        """Give every tenant that has rows one turn; a tenant at its in-flight cap is passed over.

        Returns:
            Whether anything was read.

        Raises:
            sqlite3.Error: the file is damaged, or the disk fails.
        """
        if self._reader.changed():
            self._more = self._tidy = True
        self._idle = not self._more
        if self._idle:
            return False
        self._more = read = False
        now = time.monotonic()
        for key, name in self._reader.waiting():
            line = self._line(key, name)
            if line is None:
                continue
            if not line.may_publish(now) or not publisher.has_room():
                self._more = True
                continue
            if not line.has_read:
                requests, size = _REQUESTS_PER_TURN, _BYTES_PER_TURN
                line.take(self._reader.read(key, line.read_through, requests=requests, max_bytes=size))
            left = _REQUESTS_PER_TURN
            while left > 0 and line.has_read and line.has_room and publisher.has_room():
                line.publish_next(publisher)
                left -= 1
                read = self._more = True
        self._idle = not read
        return read

    def begin_anew(self, tenant_id: str) -> None:
        """Read a tenant's line again from what the spool holds."""
        for line in self._lines.values():
            if line.tenant.tenant_id == tenant_id:
                line.begin_anew()
                self._more = True

    def unknown_tenants(self) -> list[tuple[str, int]]:
        """Tenants that the settings don't know, and how many requests of theirs wait here.

        Raises:
            sqlite3.Error: as for :meth:`turn`.
        """
        return [(name, requests) for name, requests in self._reader.waiting_requests() if name not in self._flights]

    def delete_acknowledged(self) -> None:
        """One transaction for all that Kafka has; when idle, give the space back instead.

        A full disk or a lock held for long only delays either.

        Raises:
            sqlite3.DatabaseError: the file is damaged.
        """
        drained = {key: item for key, line in self._lines.items() if (item := line.drained()) is not None}
        now = time.monotonic()
        try:
            if drained:
                if self._reader.delete(list(drained.values()), wait=now - self._deleted_at > _PATIENCE_S):
                    for key, item in drained.items():
                        self._lines[key].deleted(item)
                    self._deleted_at = now
                    self._tidy = True
                return
            self._deleted_at = now
            if self._tidy and self._idle:
                self._tidy = not self._reader.tidy()
        except sqlite3.OperationalError as error:
            log.warning("spool can't be written now; what Kafka has stays in it", error=str(error))
            self._deleted_at = now

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def _line(self, key: int, name: str) -> TenantLine | None:
        line = self._lines.get(key)
        if line is None and (flight := self._flights.get(name)) is not None:
            line = self._lines[key] = TenantLine(flight, key)
        return line


class Drain:
    """All spools of the folder that no other publisher drains. One that can't be used harms no other.

    Args:
        settings: The platform's.
        publisher: Used from this thread only.
    """

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._folder = settings.spool_dir
        most = settings.spool.max_in_flight_per_tenant
        self._flights = {tenant.tenant_id: TenantFlight(tenant, most) for tenant in settings.tenants_of(VENDOR)}
        self._publisher = publisher
        self._spools: dict[Path, SpoolDrain] = {}
        # Spools that failed, and when they are tried again.
        self._unusable: dict[Path, float] = {}
        self._turns = 0
        self._reminder = _Reminder()

    def adopt(self) -> None:
        """Take over spools that are new, whose publisher died, or that failed a while ago; look whose rows wait."""
        now = time.monotonic()
        for path in spool_files(self._folder):
            if path in self._spools or now < self._unusable.get(path, now):
                continue
            try:
                reader = SpoolReader.claim(path)
            except (sqlite3.Error, OSError, ConfigurationError) as error:
                self._set_aside(path, error)
                continue
            self._unusable.pop(path, None)
            if reader is not None:
                log.info("spool adopted", file=str(path))
                self._spools[path] = SpoolDrain(reader, self._flights)
        unusable.set(len(self._unusable))
        self._remind()

    def turn(self) -> bool:
        """One turn of every spool; whether anything was read."""
        if self._publisher.has_refusals():
            self._begin_anew()
        busy = False
        paths = list(self._spools)
        # Each is the first in its turn: of a tenant at its cap it takes the room that came free.
        self._turns += 1
        first = self._turns % max(len(paths), 1)
        for path in paths[first:] + paths[:first]:
            busy |= self._try(path, lambda spool: spool.turn(self._publisher)) or False
        return busy

    def delete_acknowledged(self) -> None:
        """See :meth:`SpoolDrain.delete_acknowledged`."""
        for flight in self._flights.values():
            flight.show()
        for path in list(self._spools):
            self._try(path, SpoolDrain.delete_acknowledged)

    def close(self) -> None:
        """Let go of the files; what is not deleted is published again by the next, with the same ids."""
        for spool in self._spools.values():
            _close(spool)

    def _begin_anew(self) -> None:
        """Every line of a tenant of whom Kafka refused a record, in whichever spool it lay, after a pause."""
        for tenant_id, flight in self._flights.items():
            while (refusal := self._publisher.take_refusal(flight.tenant)) is not None:
                log.error("the tenant pauses", tenant_id=tenant_id, seconds=REFUSED_PAUSE_S, error=refusal.str())
                flight.begin_anew(time.monotonic())
                for spool in self._spools.values():
                    spool.begin_anew(tenant_id)

    def _try(self, path: Path, work: Callable[[SpoolDrain], T]) -> T | None:
        """The work's result, None if the spool failed; it is then set aside."""
        try:
            return work(self._spools[path])
        except sqlite3.Error as error:
            self._set_aside(path, error)
            return None

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Adopted again later; what of it was at the producer is then published twice, with the same ids."""
        spool = self._spools.pop(path, None)
        if spool is not None:
            _close(spool)
        self._unusable[path] = time.monotonic() + _UNUSABLE_PAUSE_S
        unusable.set(len(self._unusable))
        log.error("spool can't be drained; the others go on", file=str(path), error=str(error), remedy=REMEDY)

    def _remind(self) -> None:
        """Of rows that nothing will ever drain."""
        waiting: dict[str, int] = {}
        for path in list(self._spools):
            for name, requests in self._try(path, SpoolDrain.unknown_tenants) or ():
                waiting[name] = waiting.get(name, 0) + requests
        for name in self._reminder.due(waiting):
            log.error(
                "the spools hold webhooks of a tenant that the settings don't know; they stay",
                tenant_id=name,
                requests=waiting[name],
                remedy="put the tenant back into the settings until they are drained",
            )


class _Reminder:
    """Which of the tenants that the settings don't know are to be named again; keeps their gauge."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def due(self, waiting: dict[str, int]) -> list[str]:
        now = time.monotonic()
        for name in self._due.keys() - waiting.keys():
            del self._due[name]
            strangers.remove(name)
        found = []
        for name, requests in waiting.items():
            strangers.labels(name).set(requests)
            if now >= self._due.get(name, now):
                self._due[name] = now + _REMINDER_S
                found.append(name)
        return found


def _close(spool: SpoolDrain) -> None:
    try:
        spool.close()
    except sqlite3.Error as error:
        log.warning("spool not closed properly", error=str(error))
