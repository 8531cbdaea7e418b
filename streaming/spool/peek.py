"""What still lies in the spools of a tenant, read beside receiver and publisher without disturbing them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from streaming.errors import ServiceUnavailableError
from streaming.spool.batch import unpack
from streaming.spool.schema import is_laid_out, spool_files

log = structlog.get_logger()

_PENDING = """
SELECT frames, bodies FROM event WHERE tenant = (SELECT id FROM tenant WHERE name = ?) AND last_us >= ? ORDER BY seq
"""
_DEFERRED = """
SELECT body FROM deferred WHERE tenant = (SELECT id FROM tenant WHERE name = ?) AND received_us >= ? ORDER BY seq
"""
_BUSY_TIMEOUT_S = 10.0


def pending_bodies(folder: Path, tenant_id: str, since_us: int = 0) -> Iterator[bytes]:
    """Bodies that are not drained yet, of all spools of a folder.

    Args:
        folder: Where the spools lie.
        tenant_id: Whose.
        since_us: Only rows with something received since then, epoch µs.

    Raises:
        ConfigurationError: a spool has the layout of another version.
        ServiceUnavailableError: a spool can't be read now.
    """
    for path in spool_files(folder):
        with _reading(path) as database:
            for frames, bodies in (
                database.execute(_PENDING, (tenant_id, since_us)) if is_laid_out(database, path) else ()
            ):
                for event in unpack(frames, bodies):
                    yield event.body


def deferred_bodies(folder: Path, tenant_id: str, since_us: int = 0) -> Iterator[bytes]:
    """Bodies that are set aside; else as :func:`pending_bodies`."""
    for path in spool_files(folder):
        with _reading(path) as database:
            rows = database.execute(_DEFERRED, (tenant_id, since_us)) if is_laid_out(database, path) else ()
            for (body,) in rows:
                yield body


def warn_if_missing(folder: Path) -> None:
    """Say so if the receivers' folder is not there: on another host than theirs what it holds is invisible.

    No error, since the first receiver makes it: before that nothing can lie there.
    """
    if not folder.is_dir():
        log.warning(
            "no spool folder: if receivers run already, this host must mount their volume", spool_dir=str(folder)
        )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        # One read transaction is one snapshot; rows that leave meanwhile are on the bus already.
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)
        ) as database:
            yield database
    except sqlite3.Error as error:
        msg = f"spool {path} can't be read: {error}"
        raise ServiceUnavailableError(msg) from None
