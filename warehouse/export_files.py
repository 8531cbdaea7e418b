"""Files of an export: each is replaced as a whole, and only if its content differs."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streaming.files import sync_folder
from warehouse.errors import ExportError

Format = Literal["csv", "parquet"]

SUMS = "SHA256SUMS"
"""Written last: whoever finds that it fits the files has a whole day. ``sha256sum -c`` reads it."""

_TEMPORARY = ".tmp-"
# What spreadsheets take for a formula, also after a blank that they drop; full-width forms count in some locales.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class RowWriter(Protocol):
    """Takes the rows of one file in their order."""

    def write(self, rows: pa.Table) -> None:
        """Write further rows."""

    def close(self) -> None:
        """Write what ends the file; the file itself stays open."""


def writer_of(format_: Format, file: IO[bytes], schema: pa.Schema) -> RowWriter:
    """A writer that gives the same bytes for the same rows."""
    return _Csv(file, schema) if format_ == "csv" else _Parquet(file, schema)


@contextmanager
def replaced(path: Path, changed: list[Path]) -> Iterator[IO[bytes]]:
    """A file that is written within the block: it then takes the place of the last one, and is durable.

    Temporary name in the same folder, fsync, rename, fsync of the folder. If the content is the same, the old file
    stays with its time of change; else the path is appended to ``changed``.

    Raises:
        ExportError: the disk is full or the folder can't be written; the old file stays.
    """
    temporary = path.with_name(_TEMPORARY + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if digest(temporary) != digest(path):
                temporary.replace(path)
                sync_folder(path.parent)
                changed.append(path)
        finally:
            temporary.unlink(missing_ok=True)  # a full disk needs the room; a killed run's is written over
    except OSError as error:
        msg = (
            f"{path} can't be written: {error.strerror or error}. What was there stays. "
            "Free the disk, mend the folder's rights, or name another in export.folder"
        )
        raise ExportError(msg) from error


def write_sums(folder: Path, changed: list[Path]) -> None:
    """The digests of the folder's files, as ``sha256sum`` writes them."""
    lines = [
        f"{digest(path)}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.suffix in {".csv", ".parquet"} and not path.name.startswith(_TEMPORARY)
    ]
    with replaced(folder / SUMS, changed) as file:
        file.write("".join(lines).encode())


def digest(path: Path) -> str | None:
    """SHA-256 of a file in hex, None if it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def harmless(text: str | None) -> str | None:
    """Text that no spreadsheet takes for a formula: one that would be gets an apostrophe before it (OWASP)."""
    return f"'{text}" if text and text.lstrip(" ").startswith(_FORMULA) else text


class _Csv:
    """RFC 4180: comma, CRLF, quotes only where needed; UTF-8; ISO 8601 instants; empty where there is no value."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file = file
        self._write([schema.names])

    def write(self, rows: pa.Table) -> None:
        """See :class:`RowWriter`."""
        self._write(zip(*(_texts(column) for column in rows.columns), strict=True))

    def close(self) -> None:
        """See :class:`RowWriter`."""

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._file.write(text.getvalue().encode())


def _texts(column: pa.ChunkedArray) -> Sequence[Any]:
    if pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.timestamp("s", tz="UTC"))
        column = pc.strftime(seconds, format="%Y-%m-%dT%H:%M:%SZ")
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):  # 90, not 90.0: some importers take whole numbers only
        return [None if value is None else repr(value).removesuffix(".0") for value in values]
    return [harmless(value) for value in values] if pa.types.is_string(column.type) else values


class _Parquet:
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        """See :class:`RowWriter`."""
        self._writer.write_table(rows)

    def close(self) -> None:
        """See :class:`RowWriter`."""
        self._writer.close()
