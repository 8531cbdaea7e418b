"""The landing zone as the loads see it: immutable Parquet files, some perhaps broken.

A file that can't be read is moved to ``quarantine/`` below the landing folder, with its reason beside it, and the rest
loads.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from streaming.sink.landing import SCHEMA

log = structlog.get_logger()

_TEMPORARY = ".tmp-"
# Rows without these can't be stored; every record has them, so a NULL means that the file is not the sink's.
_REQUIRED = [name for name in SCHEMA.names if name != "_published_at"]


@dataclass(frozen=True, slots=True)
class LandingFile:
    """A file whose footer is readable.

    Attributes:
        name: path below the landing folder, with ``/``.
        path: the file.
        rows: rows according to the footer.
        further: types of the columns beyond those of every file, by name: promoted fields, if the sink wrote it.
    """

    name: str
    path: Path
    rows: int
    further: Mapping[str, pa.DataType] = field(default_factory=dict)


class BrokenFileError(Exception):
    """A landing file is truncated, corrupted or of another shape."""


def list_files(landing_dir: Path, known: set[str]) -> list[tuple[str, Path]]:
    """Files not in ``known``, in the order of writing (the time in their names), temporary ones left out.

    The order decides nothing but which of two different rows with one id stays; within a partition it is that of
    offsets.
    """
    found = [
        (path.relative_to(landing_dir).as_posix(), path)
        for path in landing_dir.glob("raw/dt=*/*.parquet")
        if not path.name.startswith(_TEMPORARY)
    ]
    return sorted((item for item in found if item[0] not in known), key=lambda item: (_written(item[1]), item[0]))


def _written(path: Path) -> int:
    """Epoch ms in ``<slot>-<epoch_ms>-<uuid>.parquet``; 0 if the name is another."""
    number = path.stem.rsplit("-", 2)[-2:][0]
    return int(number) if number.isdecimal() else 0


def inspect(name: str, path: Path) -> LandingFile:
    """Read the footer.

    Raises:
        BrokenFileError: it is truncated or has other columns.
        OSError: the disk does not answer; the file may be good.
    """
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise _classified(error, path) from error
    for column in SCHEMA:
        position = schema.get_field_index(column.name)
        if position < 0 or not schema.field(position).type.equals(column.type):
            msg = f"column {column.name} is missing or not {column.type}"
            raise BrokenFileError(msg)
    further = {column.name: column.type for column in schema if column.name not in SCHEMA.names}
    return LandingFile(name, path, int(metadata.num_rows), further)


def read_through(file: LandingFile) -> None:
    """Read every page, a row group at a time.

    Raises:
        BrokenFileError: a page is corrupted or a required value is NULL.
        OSError: the disk does not answer; the file may be good.
    """
    try:
        with pq.ParquetFile(file.path) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                table.validate(full=True)
                for name in _REQUIRED:
                    if pc.sum(table[name].is_null()).as_py():
                        msg = f"column {name} has NULLs"
                        raise BrokenFileError(msg)
    except (pa.ArrowException, OSError) as error:
        raise _classified(error, file.path) from error


def _classified(error: Exception, path: Path) -> Exception:
    """Arrow reports a broken page as OSError too, but without an errno; with one, the disk is at fault."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{path} can't be read: {error}")
    return BrokenFileError(str(error))


def quarantine(landing_dir: Path, name: str, reason: str) -> str:
    """Move a broken file to ``quarantine/`` and write its reason beside it.

    Returns:
        Its new path below the landing folder.

    Raises:
        OSError: it can't be moved.
    """
    target = landing_dir / "quarantine" / Path(name).relative_to("raw")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        (landing_dir / name).rename(target)
    except OSError as error:
        if error.errno != errno.ENOENT or not target.exists():  # another load may have moved it
            raise
    target.with_name(target.name + ".reason.txt").write_text(reason + "\n", encoding="utf-8")
    log.error("landing file set aside", file=name, moved_to=str(target), reason=reason)
    return target.relative_to(landing_dir).as_posix()


def batches(files: Iterable[LandingFile], max_rows: int, max_files: int) -> Iterator[Sequence[LandingFile]]:
    """Cut files, in order, into batches of at most ``max_rows`` rows (or one larger file) and ``max_files`` files."""
    batch: list[LandingFile] = []
    rows = 0
    for file in files:
        if batch and (rows + file.rows > max_rows or len(batch) >= max_files):
            yield batch
            batch, rows = [], 0
        batch.append(file)
        rows += file.rows
    if batch:
        yield batch
