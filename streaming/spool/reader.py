"""The publisher's side of the spool: read in a tenant's order, delete what Kafka has."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple, Self

from filelock import FileLock

from streaming.spool.batch import SpooledEvent, unpack
from streaming.spool.schema import lock_of, open_file

# Pages given back to the file system at a time: short, since it holds the write lock.
_VACUUM_PAGES = 256
# A write-ahead log up to this is kept when idle: writing over it is faster than making a file longer.
_KEPT_LOG_BYTES = 4 << 20
_BUSY_MS = 10_000


class SpooledBatch(NamedTuple):
    """A row: webhook requests of one tenant in the order of their arrival. It leaves the spool as a whole."""

    seq: int
    bytes: int
    events: list[SpooledEvent]


class Drained(NamedTuple):
    """What may leave a tenant's line: all through a number; how many requests and bytes of bodies that is."""

    tenant_key: int
    through_seq: int
    rows: int
    bytes: int


class SpoolReader:
    """Drains one spool file, under its lock.

    Args:
        path: The file.
    """

    def __init__(self, path: Path, *, _lock: FileLock) -> None:
        self.path = path
        self._lock = _lock
        self._database = open_file(path, durable=False)
        self._log = path.with_name(f"{path.name}-wal")
        self._version = -1

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """A reader, or None while another process drains this file.

        Raises:
            ConfigurationError: the file has the layout of another version.
            sqlite3.Error: it is damaged, or the disk is full or fails.
        """
        lock = lock_of(path, "drain")
        if lock is None:
            return None
        try:
            return cls(path, _lock=lock)
        except BaseException:
            lock.release()
            raise

    def changed(self) -> bool:
        """Whether the receiver committed since the last call; costs microseconds."""
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        changed = version != self._version
        self._version = version
        return bool(changed)

    def waiting(self) -> list[tuple[int, str]]:
        """Key and name of the tenants that have rows."""
        return self._database.execute("SELECT id, name FROM tenant WHERE written_rows > drained_rows").fetchall()

    def waiting_requests(self) -> list[tuple[str, int]]:
        """Name of the tenants that have rows, and the requests in them."""
        return self._database.execute(
            "SELECT name, written_rows - drained_rows FROM tenant WHERE written_rows > drained_rows"
        ).fetchall()

    def read(self, tenant_key: int, after_seq: int, *, requests: int, max_bytes: int) -> list[SpooledBatch]:
        """The next rows of a tenant's line, at least one if there is any.

        Args:
            tenant_key: From :meth:`waiting`.
            after_seq: Last number already read.
            requests: Stop after so many requests; the last row is read whole.
            max_bytes: Stop after so many bytes of bodies.
        """
        query = "SELECT seq, bytes, frames, bodies FROM event WHERE tenant = ? AND seq > ? ORDER BY seq"
        found: list[SpooledBatch] = []
        count = size = 0
        cursor = self._database.execute(query, (tenant_key, after_seq))
        for seq, length, frames, bodies in cursor:
            found.append(SpooledBatch(seq, length, list(unpack(frames, bodies))))
            count += len(found[-1].events)
            size += length
            if count >= requests or size >= max_bytes:
                break
        cursor.close()  # an open one keeps the write-ahead log from being folded in
        return found

    def delete(self, drained: list[Drained], *, wait: bool = False) -> bool:
        """Remove rows that Kafka acknowledged; one transaction for all tenants.

        Args:
            drained: What to remove.
            wait: Wait for the receiver's commit to end, instead of leaving it for a later call. The drain has one
                thread: while it waits here, nothing is published.

        Returns:
            Whether it was done; False if the receiver holds the write lock.

        Raises:
            sqlite3.Error: the disk is full or fails, or the file is damaged. Nothing is removed.
        """
        if not self._begin(wait=wait):
            return False
        execute = self._database.execute
        try:
            for item in drained:
                execute("DELETE FROM event WHERE tenant = ? AND seq <= ?", (item.tenant_key, item.through_seq))
                execute(
                    "UPDATE tenant SET drained_rows = drained_rows + ?, drained_bytes = drained_bytes + ? WHERE id = ?",
                    (item.rows, item.bytes, item.tenant_key),
                )
            execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:  # else the write lock would stay with us
                execute("ROLLBACK")
            raise
        return True

    def tidy(self) -> bool:
        """Fold the write-ahead log into the file and give free pages back, some at a time; when idle.

        Returns:
            Whether nothing is left to give back; if not, call again.

        Raises:
            sqlite3.Error: the disk is full or fails, or the file is damaged.
        """
        execute = self._database.execute
        # First and at each call: on a full disk the log's room is all there is for the vacuum's own pages.
        execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if self._free_pages():
            self._vacuum()
            return False
        if self._log.exists() and self._log.stat().st_size > _KEPT_LOG_BYTES:
            # What it holds was folded in above, so the write lock that it takes is held for a moment.
            execute("PRAGMA busy_timeout=0")
            ((busy, _, _),) = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return not busy
        return True

    def _vacuum(self) -> None:
        self._database.execute("PRAGMA busy_timeout=0")
        try:
            # As a script: the pragma's rows have no columns, and so Python's execute stops after the first page.
            self._database.executescript(f"BEGIN IMMEDIATE; PRAGMA incremental_vacuum({_VACUUM_PAGES}); COMMIT")
        except sqlite3.OperationalError as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise

    def _free_pages(self) -> int:
        (pages,) = self._database.execute("PRAGMA freelist_count").fetchone()
        return int(pages)

    def _begin(self, *, wait: bool) -> bool:
        # A pragma takes no bound parameter; the values are this module's constants.
        self._database.execute(f"PRAGMA busy_timeout={_BUSY_MS if wait else 0}")
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if wait or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        try:
            self._database.close()
        finally:
            self._lock.release()
