"""The publisher's side of the spool: read in a tenant's order, delete what Kafka has."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple, Self

from streaming.spool.schema import lock_of, open_file

# Pages given back to the file system at a time: short, since it holds the write lock.
_VACUUM_PAGES = 256
_BUSY_MS = 10_000


class SpooledEvent(NamedTuple):
    """One webhook request as it was received."""

    seq: int
    received_us: int
    body: bytes


class Drained(NamedTuple):
    """What may leave a tenant's line."""

    tenant_key: int
    through_seq: int
    rows: int
    bytes: int


class SpoolReader:
    """Drains one spool file, under its lock.

    Args:
        path: The file.
    """

    def __init__(self, path: Path, *, _lock: object) -> None:
        self.path = path
        self._lock = _lock
        self._database = open_file(path, durable=False)
        self._version = -1

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """A reader, or None while another process drains this file."""
        lock = lock_of(path, "drain")
        return None if lock is None else cls(path, _lock=lock)

    def changed(self) -> bool:
        """Whether the receiver committed since the last call; costs microseconds."""
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        changed = version != self._version
        self._version = version
        return bool(changed)

    def waiting(self) -> list[tuple[int, str]]:
        """Key and name of the tenants that have rows."""
        return self._database.execute("SELECT id, name FROM tenant WHERE written_rows > drained_rows").fetchall()

    def read(self, tenant_key: int, after_seq: int, *, rows: int, max_bytes: int) -> list[SpooledEvent]:
        """The next rows of a tenant's line, at least one if there is any.

        Args:
            tenant_key: From :meth:`waiting`.
            after_seq: Last number already read.
            rows: Most rows to read.
            max_bytes: Stop after so many bytes of bodies.
        """
        query = "SELECT seq, received_us, body FROM event WHERE tenant = ? AND seq > ? ORDER BY seq LIMIT ?"
        found: list[SpooledEvent] = []
        size = 0
        for row in self._database.execute(query, (tenant_key, after_seq, rows)):
            event = SpooledEvent(*row)
            found.append(event)
            size += len(event.body)
            if size >= max_bytes:
                break
        return found

    def delete(self, drained: list[Drained], *, wait: bool = False) -> bool:
        """Remove rows that Kafka acknowledged; one transaction for all tenants.

        Args:
            drained: What to remove.
            wait: Wait for the receiver's commit to end, instead of leaving it for a later call. The drain has one
                thread: while it waits here, nothing is published.

        Returns:
            Whether it was done; False if the receiver holds the write lock.
        """
        if not self._begin(wait=wait):
            return False
        execute = self._database.execute
        for item in drained:
            execute("DELETE FROM event WHERE tenant = ? AND seq <= ?", (item.tenant_key, item.through_seq))
            execute(
                "UPDATE tenant SET drained_rows = drained_rows + ?, drained_bytes = drained_bytes + ? WHERE id = ?",
                (item.rows, item.bytes, item.tenant_key),
            )
        execute("COMMIT")
        return True

    def tidy(self) -> bool:
        """Fold the write-ahead log into the file and give free pages back. When there is nothing else to do.

        Returns:
            Whether it was done; False if the receiver holds the write lock.
        """
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if not self._begin(wait=False):
            return False
        self._database.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        self._database.execute("COMMIT")
        return True

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
        self._database.close()
        self._lock.release()  # type: ignore[attr-defined]
