"""The receiver's side of the spool: many requests, one commit (one fsync) for all that wait."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import structlog

from streaming.errors import ServiceUnavailableError
from streaming.settings import SpoolSettings
from streaming.spool.schema import claim_for_writing, open_file

log = structlog.get_logger()

_USAGE_REFRESH_S = 0.5


class SpoolFullError(ServiceUnavailableError):
    """No room: bytes of the tenant, of all, or of the disk. The sender is asked to come again."""


class Deferral(NamedTuple):
    """Why an event is set aside, and what is needed to verify it later."""

    reason: str
    signature: str  # JSON of the request's signature headers


class _Entry(NamedTuple):
    tenant: str
    received_us: int
    body: bytes
    deferral: Deferral | None
    stored: asyncio.Future[None]


class _Usage:
    """Bytes of a tenant on disk. Changed by the writer's thread only; the event loop reads."""

    __slots__ = ("deferred", "drained", "id", "next_seq", "written")

    def __init__(self, identifier: int, next_seq: int, written: int, drained: int, deferred: int) -> None:
        self.id = identifier
        self.next_seq = next_seq
        self.written = written
        self.drained = drained
        self.deferred = deferred

    @property
    def live(self) -> int:
        return self.written + self.deferred - self.drained


class SpoolWriter:
    """Takes events from an event loop and answers when they are on disk. The caller's thread never touches the disk.

    Args:
        folder: Where the spools lie; one is claimed.
        settings: Bounds.
    """

    def __init__(self, folder: Path, settings: SpoolSettings) -> None:
        self._settings = settings
        self.path, self._lock = claim_for_writing(folder)
        self._database = open_file(self.path, durable=True)
        self._tenants: dict[str, _Usage] = {}
        self._load_usage()
        self._stored_bytes = sum(usage.live for usage in self._tenants.values())  # writer's thread
        # Bytes accepted but not yet committed, by tenant and in all; the event loop's.
        self._pending: dict[str, int] = {}
        self._pending_bytes = 0
        self._disk_full = self._is_disk_full()
        # Appended to by the event loop and emptied by the writer; a deque's single operations are atomic.
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def can_store(self) -> bool:
        """Whether there is room at all."""
        return self.is_alive and not self._disk_full and self._stored_bytes < self._settings.max_bytes

    @property
    def is_alive(self) -> bool:
        """Whether the writer's thread runs; without it nothing is ever stored."""
        return self._thread.is_alive()

    def append(
        self, tenant: str, body: bytes, received_us: int, deferral: Deferral | None = None
    ) -> asyncio.Future[None]:
        """Put one event in line. To be called from the event loop.

        Args:
            tenant: Tenant id.
            body: The request's body as it came.
            received_us: Time of arrival, epoch µs.
            deferral: Given if the event is to be set aside.

        Returns:
            A future, done once the event is on disk; with SpoolFullError if it could not be stored.

        Raises:
            SpoolFullError: there is no room.
        """
        size, settings = len(body), self._settings
        usage, pending = self._tenants.get(tenant), self._pending.get(tenant, 0)
        if not self.is_alive:
            msg = "the spool's writer ended; the receiver is being restarted"
            raise SpoolFullError(msg)
        if self._disk_full:
            msg = f"free disk below {settings.min_free_disk_bytes} bytes"
            raise SpoolFullError(msg)
        if self._stored_bytes + self._pending_bytes + size > settings.max_bytes:
            msg = f"the spool holds its {settings.max_bytes} bytes"
            raise SpoolFullError(msg)
        if (usage.live if usage else 0) + pending + size > settings.max_bytes_per_tenant:
            msg = f"tenant {tenant}: its {settings.max_bytes_per_tenant} bytes are full"
            raise SpoolFullError(msg)
        self._pending[tenant] = pending + size
        self._pending_bytes += size
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(tenant, received_us, body, deferral, stored))
        self._wake.set()
        return stored

    def close(self) -> None:
        """Store what waits and let go of the file."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._database.close()
        self._lock.release()

    def _run(self) -> None:
        refreshed = time.monotonic()
        while not (self._closing and not self._waiting):
            self._wake.wait(_USAGE_REFRESH_S)
            self._wake.clear()
            if batch := self._take():
                self._store(batch)
            if time.monotonic() - refreshed >= _USAGE_REFRESH_S:
                self._refresh_usage()
                refreshed = time.monotonic()

    def _take(self) -> list[_Entry]:
        batch = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        return batch

    def _store(self, batch: list[_Entry]) -> None:
        error: SpoolFullError | None = None
        try:
            self._commit(batch)
        except sqlite3.Error as failure:  # disk full, I/O error: nothing of the batch is stored
            log.error("spool can't store; senders get 503", file=str(self.path), error=str(failure))
            error = SpoolFullError(f"the spool can't store: {failure}")
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        loop = batch[0].stored.get_loop()
        if not loop.is_closed():
            # One wake-up of the loop for the whole batch.
            loop.call_soon_threadsafe(self._resolve, batch, error)

    def _resolve(self, batch: list[_Entry], error: SpoolFullError | None) -> None:
        for entry in batch:
            self._pending[entry.tenant] -= len(entry.body)
            self._pending_bytes -= len(entry.body)
            if entry.stored.cancelled():
                continue
            if error is None:
                entry.stored.set_result(None)
            else:
                entry.stored.set_exception(error)

    def _commit(self, batch: list[_Entry]) -> None:
        """1. numbers in each tenant's line, 2. rows, 3. the tenants' counters, 4. commit = fsync."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        events: list[tuple[int, int, int, bytes]] = []
        deferred: list[tuple[int, int, int, bytes, str, str]] = []
        next_seq: dict[str, int] = {}
        # Tenants new in this transaction: known from its commit on, forgotten if it fails.
        tenants = dict(self._tenants)
        sizes: dict[tuple[str, bool], list[int]] = {}
        for entry in batch:
            usage = tenants.get(entry.tenant)
            if usage is None:
                usage = tenants[entry.tenant] = self._add_tenant(entry.tenant)
            seq = next_seq.get(entry.tenant, usage.next_seq)
            next_seq[entry.tenant] = seq + 1
            sizes.setdefault((entry.tenant, entry.deferral is not None), []).append(len(entry.body))
            if entry.deferral is None:
                events.append((usage.id, seq, entry.received_us, entry.body))
            else:
                row = (
                    usage.id,
                    seq,
                    entry.received_us,
                    entry.body,
                    entry.deferral.signature,
                    entry.deferral.reason,
                )
                deferred.append(row)
        insert = self._database.executemany
        insert("INSERT INTO event VALUES (?, ?, ?, ?)", events)
        if deferred:
            insert("INSERT INTO deferred VALUES (?, ?, ?, ?, ?, ?)", deferred)
        for (tenant, is_deferred), lengths in sizes.items():
            counters = (len(lengths), sum(lengths), tenants[tenant].id)
            execute(_COUNT_DEFERRED if is_deferred else _COUNT_WRITTEN, counters)
        execute("COMMIT")
        self._tenants = tenants
        for (tenant, is_deferred), lengths in sizes.items():
            usage = self._tenants[tenant]
            usage.next_seq = next_seq[tenant]
            self._stored_bytes += sum(lengths)
            if is_deferred:
                usage.deferred += sum(lengths)
            else:
                usage.written += sum(lengths)

    def _add_tenant(self, name: str) -> _Usage:
        execute = self._database.execute
        execute("INSERT OR IGNORE INTO tenant (name) VALUES (?)", (name,))
        (identifier,) = execute("SELECT id FROM tenant WHERE name = ?", (name,)).fetchone()
        return _Usage(identifier, 1, 0, 0, 0)

    def _load_usage(self) -> None:
        for identifier, name, rows, written, drained, deferred_rows, deferred in self._database.execute(
            "SELECT id, name, written_rows, written_bytes, drained_bytes, deferred_rows, deferred_bytes FROM tenant"
        ):
            # Every row written or set aside took one number, so their count is the last number.
            self._tenants[name] = _Usage(identifier, rows + deferred_rows + 1, written, drained, deferred)

    def _refresh_usage(self) -> None:
        """See what the publisher drained, and how full the disk is."""
        try:
            self._disk_full = self._is_disk_full()
            usages = self._database.execute("SELECT name, drained_bytes FROM tenant").fetchall()
        except (OSError, sqlite3.Error) as failure:
            log.error("spool can't be read; senders get 503", file=str(self.path), error=str(failure))
            self._disk_full = True
            return
        for name, drained in usages:
            usage = self._tenants.get(name)
            if usage is not None:
                self._stored_bytes -= drained - usage.drained
                usage.drained = drained

    def _is_disk_full(self) -> bool:
        return shutil.disk_usage(self.path.parent).free < self._settings.min_free_disk_bytes


_COUNT_WRITTEN = "UPDATE tenant SET written_rows = written_rows + ?, written_bytes = written_bytes + ? WHERE id = ?"
_COUNT_DEFERRED = (
    "UPDATE tenant SET deferred_rows = deferred_rows + ?, deferred_bytes = deferred_bytes + ? WHERE id = ?"
)
