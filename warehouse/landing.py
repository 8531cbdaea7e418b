"""The landing zone as the loads see it: immutable Parquet files, some perhaps broken.

A file that can't be read is moved to ``quarantine/`` below the landing folder, with its reason beside it, and the rest
loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from streaming.sink.landing import QUARANTINE, RAW, SCHEMA
from streaming.sink.manifest import COMPACTED, newest_manifest
from streaming.sink.store import Store
from warehouse.windows import Window

log = structlog.get_logger()

# Rows without these can't be stored; every record has them, so a NULL means that the file is not the sink's.
_REQUIRED = [name for name in SCHEMA.names if name != "_published_at"]

_FIRST_MS = -(2**63)


@dataclass(frozen=True, slots=True)
class LandingFile:
    """A file whose footer is readable.

    Attributes:
        name: in the store, with ``/``.
        rows: rows according to the footer.
        further: types of the columns beyond those of every file, by name: promoted fields, if the sink wrote it.
    """

    name: str
    rows: int
    further: Mapping[str, pa.DataType] = field(default_factory=dict)


class BrokenFileError(Exception):
    """A landing file is truncated, corrupted or of another shape."""


def list_files(store: Store, known: set[str], window: Window | None = None) -> list[str]:
    """Names of the files that make up the landing zone: compacted ones, then raw ones in the order of writing.

    The order decides nothing but which of two different rows with one id stays; within a partition it is that of
    offsets.

    Args:
        store: the landing zone.
        known: names to leave out.
        window: leaves out those that certainly have no event of it.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
    """
    manifest = newest_manifest(store)
    there = {entry.name for entry in store.entries(COMPACTED)} if manifest.files else set()
    compacted = [
        file.name
        for file in manifest.files
        if file.name in there
        and (window is None or (file.first_ms < window.end_ms and file.last_ms >= window.start_ms))
    ]
    raw = [
        entry.name
        for entry in store.entries(RAW)
        if entry.name.endswith(".parquet") and entry.name not in manifest.covered
    ]
    named = sorted(compacted, key=lambda name: PurePosixPath(name).name) + sorted(
        raw, key=lambda name: (_written(name), name)
    )
    return [name for name in named if name not in known]


def _written(name: str) -> int:
    """Epoch ms in ``<slot>-<epoch_ms>-<uuid>.parquet``; 0 if the name is another."""
    number = PurePosixPath(name).stem.rsplit("-", 2)[-2:][0]
    return int(number) if number.isdecimal() else 0


def inspect(store: Store, name: str) -> LandingFile:
    """Read the footer.

    Raises:
        BrokenFileError: it is truncated or has other columns.
        OSError: the disk does not answer; the file may be good.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    metadata = _footer(store, name)
    try:
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise BrokenFileError(str(error)) from error
    for column in SCHEMA:
        position = schema.get_field_index(column.name)
        if position < 0 or not schema.field(position).type.equals(column.type):
            msg = f"column {column.name} is missing or not {column.type}"
            raise BrokenFileError(msg)
    further = {column.name: column.type for column in schema if column.name not in SCHEMA.names}
    return LandingFile(name, int(metadata.num_rows), further)


def earliest_ms(store: Store, name: str) -> int | None:
    """Vendor's time of a file's earliest event by its footer, epoch ms.

    Returns:
        None if the file is empty or broken; a time before all others if its footer does not tell.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
    """
    try:
        metadata = _footer(store, name)
    except BrokenFileError:
        return None
    column = metadata.schema.names.index("timestamp") if "timestamp" in metadata.schema.names else None
    if column is None:
        return None
    groups = [group for group in map(metadata.row_group, range(metadata.num_row_groups)) if group.num_rows]
    told = [group.column(column).statistics for group in groups]
    return min((_FIRST_MS if each is None or not each.has_min_max else each.min for each in told), default=None)


def _footer(store: Store, name: str) -> pq.FileMetaData:
    try:
        with store.open(name) as file:
            return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
    # Arrow tells neither a broken file nor a remote store that went away by an errno: with the whole content here it is
    # the file.
    content = store.read(name)
    try:
        return pq.read_metadata(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as broken:
        raise BrokenFileError(str(broken)) from broken


def read_through(store: Store, file: LandingFile) -> None:
    """Read every page, a row group at a time.

    Raises:
        BrokenFileError: a page is corrupted or a required value is NULL.
        OSError: the disk does not answer; the file may be good.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    with store.here([file.name]) as (path,):
        try:
            with pq.ParquetFile(path) as parquet:
                for group in range(parquet.num_row_groups):
                    table = parquet.read_row_group(group)
                    table.validate(full=True)
                    for name in _REQUIRED:
                        if pc.sum(table[name].is_null()).as_py():
                            msg = f"column {name} has NULLs"
                            raise BrokenFileError(msg)
        except (pa.ArrowException, OSError) as error:
            raise _classified(error, path) from error


def _classified(error: Exception, path: Path) -> Exception:
    """Arrow reports a broken page as OSError too, but without an errno; with one, the disk is at fault."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{path} can't be read: {error}")
    return BrokenFileError(str(error))


def quarantine(store: Store, name: str, reason: str) -> str:
    """Move a broken file to ``quarantine/`` and write its reason beside it.

    Returns:
        Its new name.

    Raises:
        OSError: it can't be moved.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    target = f"{QUARANTINE}/{name.removeprefix(f'{RAW}/')}"
    try:
        store.move(name, target)
    except FileNotFoundError:
        if not any(entry.name == target for entry in store.entries(QUARANTINE)):  # another load may have moved it
            raise
    with store.create(f"{target}.reason.txt") as file:
        file.write(f"{reason}\n".encode())
    log.error("landing file set aside", file=name, moved_to=target, reason=reason)
    return target
