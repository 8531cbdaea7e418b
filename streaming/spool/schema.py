"""The spool's file: tables, pragmas, locks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from streaming.errors import ConfigurationError

log = structlog.get_logger()

LAYOUT = 3
"""``PRAGMA user_version`` of the tables below; another layout is refused."""

_SCHEMA = (
    # Counters only grow; what lies in a lane now is written - drained, and deferred - released. The triggers count what
    # comes in, so that a counter can't part from the rows; whoever deletes rows counts them in the same transaction.
    """
CREATE TABLE tenant (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL DEFAULT 0,
    written_rows INTEGER NOT NULL DEFAULT 0,
    written_bytes INTEGER NOT NULL DEFAULT 0,
    drained_rows INTEGER NOT NULL DEFAULT 0,
    drained_bytes INTEGER NOT NULL DEFAULT 0,
    deferred_rows INTEGER NOT NULL DEFAULT 0,
    deferred_bytes INTEGER NOT NULL DEFAULT 0,
    released_rows INTEGER NOT NULL DEFAULT 0,
    released_bytes INTEGER NOT NULL DEFAULT 0
) STRICT
""",
    # A row is what one tenant sent between two commits: `requests` of them, one after another in `bodies`. `frames`
    # holds two 64-bit integers a request, little-endian: length of its body, and when it was received, epoch µs.
    # Read by (tenant, seq) over the tenants that have rows, never in global order: a blocked one must not slow others.
    """
CREATE TABLE event (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    frames BLOB NOT NULL,
    bodies BLOB NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TRIGGER event_counted AFTER INSERT ON event BEGIN
    UPDATE tenant SET
        last_seq = NEW.seq, written_rows = written_rows + NEW.requests, written_bytes = written_bytes + NEW.bytes
    WHERE id = NEW.tenant;
END
""",
    # Set aside because trust is in doubt, a row a request; never published as it is. A tenant's numbers here are its
    # own sequence: deferred_rows is the last one given. Its bytes are those of body, signature and reason: senders
    # choose the length of each.
    """
CREATE TABLE deferred (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    signature TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TRIGGER deferred_counted AFTER INSERT ON deferred BEGIN
    UPDATE tenant SET
        deferred_rows = deferred_rows + 1,
        deferred_bytes = deferred_bytes + length(NEW.body)
            + length(CAST(NEW.signature AS BLOB)) + length(CAST(NEW.reason AS BLOB))
    WHERE id = NEW.tenant;
END
""",
    f"PRAGMA user_version={LAYOUT}",
)

# The publisher checkpoints the write-ahead log; the receiver does it itself only if no publisher did for so many pages.
_CHECKPOINT_PAGES = 20_000
_BUSY_TIMEOUT_S = 10.0


def open_file(path: Path, *, durable: bool) -> sqlite3.Connection:
    """A connection on a spool file, made if it is not there. Transactions are the caller's.

    Args:
        path: The file.
        durable: Whether a commit waits for the disk. The receiver's must: its 200 is a promise. The publisher's
            deletions need not: after a power cut some rows are published twice, with the same ids.

    Raises:
        ConfigurationError: the file has the layout of another version.
        sqlite3.Error: it is damaged, or the disk is full or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
        # A pragma takes no bound parameter; the value is this module's constant.
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        _lay_out(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _lay_out(connection: sqlite3.Connection, path: Path) -> None:
    if is_laid_out(connection, path):
        return
    connection.execute("BEGIN IMMEDIATE")  # a receiver and a publisher may meet a new file at once
    if not is_laid_out(connection, path):
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")


def is_laid_out(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there; a receiver that is just starting may not have made them.

    Raises:
        ConfigurationError: the file has the layout of another version.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == LAYOUT:
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    # Both are read one after the other: a new file may have been laid out in between.
    if tables and connection.execute("PRAGMA user_version").fetchone() != (LAYOUT,):
        msg = (
            f"{path}: a spool of layout {found}, this version reads {LAYOUT}; "
            "let the version that wrote it drain it, or move the file away and reconcile its hours"
        )
        raise ConfigurationError(msg)
    return bool(tables)


def spool_files(folder: Path) -> list[Path]:
    """All spools of a folder, whoever wrote them."""
    return sorted(folder.glob("receiver-*.db"))


def lock_of(path: Path, role: str) -> FileLock | None:
    """The lock of a role (``write``, ``drain``, ``defer``) on a spool, or None if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(f".{role}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def claim_for_writing(folder: Path) -> tuple[Path, FileLock, sqlite3.Connection]:
    """The first usable spool of the folder that no living receiver writes, or a new one.

    One that can't be opened is passed over: webhooks must not wait until a person has seen to it.

    Raises:
        sqlite3.Error: a new file can't be made.
    """
    number = 0
    while True:
        path = folder / f"receiver-{number:03d}.db"
        number += 1
        lock = lock_of(path, "write")
        if lock is None:
            continue
        is_new = not path.exists() or path.stat().st_size == 0
        try:
            return path, lock, _opened_for_writing(path)
        except (sqlite3.Error, ConfigurationError) as error:
            lock.release()
            if is_new:  # the next would fail as this one did
                raise
            log.error("spool can't be used; another one is taken", file=str(path), error=str(error), remedy=REMEDY)
        except BaseException:
            lock.release()
            raise


def _opened_for_writing(path: Path) -> sqlite3.Connection:
    connection = open_file(path, durable=True)
    try:
        connection.execute("SELECT * FROM tenant").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


REMEDY = "mend the disk, or move the file and its -wal and -shm away and reconcile its hours"
"""For a spool that can't be used."""
