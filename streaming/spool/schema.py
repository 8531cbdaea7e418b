"""The spool's file: tables, pragmas, locks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from filelock import FileLock, Timeout

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenant (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    written_rows INTEGER NOT NULL DEFAULT 0,
    written_bytes INTEGER NOT NULL DEFAULT 0,
    drained_rows INTEGER NOT NULL DEFAULT 0,
    drained_bytes INTEGER NOT NULL DEFAULT 0,
    deferred_rows INTEGER NOT NULL DEFAULT 0,
    deferred_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
-- Read by (tenant, seq) over the tenants that have rows, never in global order: a blocked tenant must not slow others.
CREATE TABLE IF NOT EXISTS event (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
-- Set aside because trust is in doubt; never published as it is.
CREATE TABLE IF NOT EXISTS deferred (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    signature TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
"""

# The publisher checkpoints the write-ahead log; the receiver does it itself only if no publisher did for so many pages.
_CHECKPOINT_PAGES = 20_000
_BUSY_TIMEOUT_S = 10.0


def open_file(path: Path, *, durable: bool) -> sqlite3.Connection:
    """A connection on a spool file, made if it is not there. Transactions are the caller's.

    Args:
        path: The file.
        durable: Whether a commit waits for the disk. The receiver's must: its 200 is a promise. The publisher's
            deletions need not: after a power cut some rows are published twice, with the same ids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
    # A pragma takes no bound parameter; the value is this module's constant.
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    connection.executescript(_SCHEMA)
    return connection


def spool_files(folder: Path) -> list[Path]:
    """All spools of a folder, whoever wrote them."""
    return sorted(folder.glob("receiver-*.db"))


def lock_of(path: Path, role: str) -> FileLock | None:
    """The lock of a role (``write``, ``drain``) on a spool, or None if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(f".{role}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def claim_for_writing(folder: Path) -> tuple[Path, FileLock]:
    """The first spool of the folder that no living receiver writes, or a new one."""
    number = 0
    while True:
        path = folder / f"receiver-{number:03d}.db"
        lock = lock_of(path, "write")
        if lock is not None:
            return path, lock
        number += 1
