"""What a receiver set aside, and how it leaves the spool: published, or a dead letter. Never by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from filelock import FileLock

from streaming.errors import ServiceUnavailableError
from streaming.spool.batch import deferred_size
from streaming.spool.schema import lock_of, open_file


class DeferredRow(NamedTuple):
    """One webhook request whose signature was in doubt."""

    tenant_key: int
    seq: int
    received_us: int
    body: bytes
    signature: str  # JSON of the request's signature headers
    reason: str  # the doubt

    @property
    def size(self) -> int:
        """Bytes that it takes of the lane's bounds."""
        return deferred_size(self.body, self.signature, self.reason)


class DeferredReader:
    """The deferred lane of one spool file, under its lock: one process at a time takes rows out.

    Args:
        path: The file.
    """

    def __init__(self, path: Path, *, _lock: FileLock) -> None:
        self.path = path
        self._lock = _lock
        self._database = open_file(path, durable=False)

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """A reader, or None while another process works on this lane.

        Raises:
            ConfigurationError: the file has the layout of another version.
        """
        lock = lock_of(path, "defer")
        if lock is None:
            return None
        try:
            return cls(path, _lock=lock)
        except BaseException:
            lock.release()
            raise

    def waiting(self) -> list[tuple[int, str, int]]:
        """Key and name of the tenants that have rows, and how many."""
        return self._database.execute(
            "SELECT id, name, deferred_rows - released_rows FROM tenant WHERE deferred_rows > released_rows ORDER BY id"
        ).fetchall()

    def read(self, tenant_key: int, after_seq: int, *, rows: int, max_bytes: int) -> list[DeferredRow]:
        """A tenant's next rows in the order of arrival, at least one if there is any.

        Args:
            tenant_key: From :meth:`waiting`.
            after_seq: Last number already read.
            rows: Most rows to read.
            max_bytes: Stop after so many bytes.
        """
        query = (
            "SELECT tenant, seq, received_us, body, signature, reason FROM deferred "
            "WHERE tenant = ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        found: list[DeferredRow] = []
        size = 0
        for row in self._database.execute(query, (tenant_key, after_seq, rows)):
            found.append(DeferredRow(*row))
            size += found[-1].size
            if size >= max_bytes:
                break
        return found

    def release(self, rows: Sequence[DeferredRow]) -> None:
        """Remove rows that Kafka has; the lane's room is free again. One short transaction: the receiver writes too.

        Raises:
            ServiceUnavailableError: the file can't be written now; the rows stay and will be published again, with the
                same ids.
        """
        if not rows:
            return
        execute = self._database.execute
        try:
            execute("BEGIN IMMEDIATE")
            for tenant_key, count, size in self._delete(rows):
                execute(
                    "UPDATE tenant SET released_rows = released_rows + ?, released_bytes = released_bytes + ? "
                    "WHERE id = ?",
                    (count, size, tenant_key),
                )
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                execute("ROLLBACK")
            msg = f"{self.path}: published rows can't be removed from the deferred lane yet: {error}"
            raise ServiceUnavailableError(msg) from None

    def _delete(self, rows: Iterable[DeferredRow]) -> list[tuple[int, int, int]]:
        """Delete; gives rows and bytes really deleted, by tenant."""
        deleted: dict[int, list[int]] = {}
        for row in rows:
            cursor = self._database.execute(
                "DELETE FROM deferred WHERE tenant = ? AND seq = ?", (row.tenant_key, row.seq)
            )
            if cursor.rowcount:
                deleted.setdefault(row.tenant_key, []).append(row.size)
        return [(key, len(sizes), sum(sizes)) for key, sizes in deleted.items()]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
        self._lock.release()
