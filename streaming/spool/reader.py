"""The publisher's side of the spool: read in a tenant's order, delete what Kafka has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

from streaming.spool.schema import lock_of, open_file

# Pages given back to the file system at a time: short, since it holds the write lock.
_VACUUM_PAGES = 256


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

    def delete(self, drained: list[Drained]) -> None:
        """Remove rows that Kafka acknowledged; one transaction for all tenants."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        for item in drained:
            execute("DELETE FROM event WHERE tenant = ? AND seq <= ?", (item.tenant_key, item.through_seq))
            execute(
                "UPDATE tenant SET drained_rows = drained_rows + ?, drained_bytes = drained_bytes + ? WHERE id = ?",
                (item.rows, item.bytes, item.tenant_key),
            )
        execute("COMMIT")

    def tidy(self) -> None:
        """Fold the write-ahead log into the file and give free pages back. When there is nothing else to do."""
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._database.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
        self._lock.release()  # type: ignore[attr-defined]
