"""Many raw landing files become few, by tenant and day; a manifest swaps them.

1. What a compaction replaced longer ago than the grace period is deleted, and what a killed one left.
2. The raw files of closed days are read into a scratch database on the local disk, a file at a time.
3. Their rows are sorted by tenant, day of the event and place on Kafka, and written, a file at a time.
4. The next manifest names the new files and the raw ones that they cover. From then on the new ones count.

Killed before 4, nothing has changed but for files that nobody reads; after it, everything has. No row is dropped or
added: repeats, which a killed sink may have left, are the loads' matter.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from streaming.batches import batched
from streaming.errors import FencedError
from streaming.sink.landing import QUARANTINE, RAW, SCHEMA, Footer, footer_of, higher, parquet_writer
from streaming.sink.manifest import (
    COMPACTED,
    MANIFESTS,
    CompactedFile,
    Manifest,
    Number,
    newest_manifest,
    next_number,
    remove_old_manifests,
    write_manifest,
)
from streaming.sink.sorting import Cell, sorted_rows
from streaming.sink.store import Entry, Store

log = structlog.get_logger()

_READERS = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one compaction.

    Attributes:
        min_rows: A tenant's day with fewer shares a file with other tenants' of that day, and if these are fewer too,
            with everything else. So n rows make at most 2 n / min_rows + 1 files, and one more for every ``file_rows``.
        file_rows: Greatest number of rows of a file.
        step_bytes: Raw files sorted at once, compressed; on the scratch disk they may take ten times as much.
        step_files: As ``step_bytes``, their number.
    """

    min_rows: int = 10_000
    file_rows: int = 1_000_000
    step_bytes: int = 1 << 30
    step_files: int = 50_000


@dataclass(frozen=True, slots=True)
class Step:
    """Files that were swapped by one manifest."""

    sources: tuple[str, ...]
    files: tuple[CompactedFile, ...]


def clean_up(store: Store, grace: timedelta) -> list[str]:
    """Delete what was replaced longer ago than the grace period, and what a killed compaction left.

    Returns:
        Names of the raw files deleted.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    # The clock first: whatever another process does from here on is younger, however long this one is held up.
    before = datetime.now(UTC) - grace
    manifest = newest_manifest(store)
    deleted = []
    for entry in store.entries(RAW):
        if manifest.covered.get(entry.name, before.timestamp()) < before.timestamp():
            store.delete(entry.name)
            deleted.append(entry.name)
    counting = {file.name for file in manifest.files}
    for entry in store.entries(COMPACTED):
        if entry.name in counting or entry.name.startswith(f"{MANIFESTS}/"):
            continue
        if manifest.covered.get(entry.name, entry.modified.timestamp()) < before.timestamp():
            store.delete(entry.name)
            log.info("file that expired, or of a compaction that did not end, deleted", file=entry.name)
    store.remove_orphans(COMPACTED, "", before)
    remove_old_manifests(store, before)
    return deleted


def compact(
    store: Store, epoch: int, before: date, *, limits: Limits, scratch: Path, is_ours: Callable[[], bool]
) -> Iterator[Step]:
    """Compact raw files that were written before a day, UTC, in steps. Each step counts when it is given.

    Args:
        store: The landing zone.
        epoch: Of the caller's lease, higher than every earlier holder's.
        before: Later files are left: more of the same days may come.
        limits: Bounds.
        scratch: Local folder for what does not fit the memory.
        is_ours: Whether the lease is still the caller's.

    Raises:
        FencedError: it is not.
        OSError: a disk is full or broken; what was swapped stays so.
        ServiceUnavailableError: a remote store does not answer.
    """
    manifest = newest_manifest(store)
    raw = store.entries(RAW)
    number = next_number(manifest, epoch)
    there = {entry.name for entry in raw}
    # What an operator's rule has expired is no longer named; what a load has set aside may come back, mended.
    held = {entry.name for entry in store.entries(COMPACTED)}
    held |= {entry.name.removeprefix(f"{QUARANTINE}/") for entry in store.entries(QUARANTINE)}
    manifest = replace(manifest, files=tuple(file for file in manifest.files if file.name in held))
    for entries in batched(
        _closed(raw, manifest, before), lambda entry: entry.size, limits.step_bytes, limits.step_files
    ):
        number = Number(number.epoch, number.step + 1)
        lasts = _Lasts(manifest.offsets)
        names = [entry.name for entry in entries]
        step = _compacted(store, names, number, limits=limits, scratch=scratch, lasts=lasts)
        if step is None:
            continue
        covered = {name: at for name, at in manifest.covered.items() if name in there or name in held}
        covered |= dict.fromkeys(step.sources, datetime.now(UTC).timestamp())
        manifest = replace(
            manifest,
            number=number,
            files=(*manifest.files, *step.files),
            covered=covered,
            offsets=lasts.offsets,
        )
        if not is_ours():
            msg = "another process compacts the landing zone now; it goes on there"
            raise FencedError(msg)
        write_manifest(store, manifest)
        log.info("landing files compacted", raw=len(step.sources), files=len(step.files))
        yield step


def _closed(raw: Sequence[Entry], manifest: Manifest, before: date) -> list[Entry]:
    bound = f"{RAW}/dt={before:%Y-%m-%d}"
    return sorted(
        entry
        for entry in raw
        if entry.name < bound and entry.name.endswith(".parquet") and entry.name not in manifest.covered
    )


class _Lasts:
    """The last offsets of compacted files; those of further raw files come to them one file at a time."""

    def __init__(self, known: Mapping[str, Mapping[str, Mapping[int, int]]]) -> None:
        self.offsets = {
            cluster: {life: dict(parts) for life, parts in lives.items()} for cluster, lives in known.items()
        }

    def add(self, read: Footer) -> None:
        lives = self.offsets.setdefault(read.cluster, {})
        for life, lasts in read.lasts.items():
            higher(lives.setdefault(life, {}), lasts)


class _Shape(NamedTuple):
    """What is kept of each file of a step: they may be tens of thousands, each with the offsets of all partitions."""

    rows: int
    schema: pa.Schema


def _compacted(
    store: Store, names: Sequence[str], number: Number, *, limits: Limits, scratch: Path, lasts: _Lasts
) -> Step | None:
    """New files of the raw ones, which do not count yet; None if there are not two that can be read."""
    schemas: list[pa.Schema] = []
    with ThreadPoolExecutor(_READERS) as readers:
        found = dict(zip(names, readers.map(lambda name: _shape(store, name, schemas), names), strict=True))
    readable = {name: shape for name, shape in found.items() if shape is not None}
    layout = _layout(readable)
    sources: list[str] = []

    def tables() -> Iterator[pa.Table]:
        for name in readable:
            if (read := _table(store, name, layout)) is not None:
                table, origin = read
                sources.append(name)
                lasts.add(origin)
                yield table

    if len(readable) < 2:
        return None
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="compaction-", dir=scratch) as folder:
        rows = sorted_rows(tables(), layout, limits.min_rows, Path(folder))
        files = tuple(_write(store, rows, layout, number, limits.file_rows))
    expected = sum(readable[name].rows for name in sources)
    written = sum(file.rows for file in files)
    if written != expected:
        msg = f"{written} rows were written of {expected}: the files that were made do not count"
        raise OSError(msg)
    return Step(tuple(sources), files)


def _shape(store: Store, name: str, schemas: list[pa.Schema]) -> _Shape | None:
    """A file's shape, with one object for each of the few schemas that there are."""
    try:
        with store.open(name) as file:
            read = pq.read_metadata(file)
        footer_of(read)
        # Earlier files have the offsets in the schema's metadata too.
        own = read.schema.to_arrow_schema().remove_metadata()
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        log.warning("a raw file is left as it is: it can't be read", file=name, error=str(error))
        return None
    schema = next((schema for schema in schemas if schema.equals(own, check_metadata=True)), own)
    if schema is own:
        schemas.append(own)
    return _Shape(int(read.num_rows), schema)


def _layout(shapes: dict[str, _Shape]) -> pa.Schema:
    """Columns of all files. A file of other types than those before it is taken out of ``shapes``: it stays raw."""
    fields = {field.name: field for field in SCHEMA}
    for name, shape in list(shapes.items()):
        own = {field.name: field for field in shape.schema}
        if SCHEMA.names != [*own][: len(SCHEMA)] or any(
            not fields.get(field.name, field).type.equals(field.type) for field in own.values()
        ):
            log.warning("a raw file is left as it is: its columns are others", file=name)
            del shapes[name]
        else:
            fields = {**own, **fields}
    return pa.schema([*SCHEMA, *(field for name, field in fields.items() if name not in SCHEMA.names)])


def _table(store: Store, name: str, layout: pa.Schema) -> tuple[pa.Table, Footer] | None:
    try:
        with store.open(name) as file, pq.ParquetFile(file) as parquet:
            table, origin = parquet.read(), footer_of(parquet.metadata)
        table.validate(full=True)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        log.warning("a raw file is left as it is: it can't be read", file=name, error=str(error))
        return None
    columns = [
        table.column(field.name) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in layout
    ]
    return pa.table(columns, schema=layout), origin


def _write(
    store: Store, rows: Iterator[tuple[Cell, pa.Table]], layout: pa.Schema, number: Number, file_rows: int
) -> Iterator[CompactedFile]:
    for cell, parts in groupby(rows, key=lambda part: part[0]):
        folder = f"{COMPACTED}/vendor={cell.vendor}/tenant_id={cell.tenant_id}/date={cell.day}"
        tables = (table for _, table in parts)
        for first in tables:
            name = f"{folder}/{number.epoch:012}-{number.step:06}-{uuid.uuid4().hex}.parquet"
            yield _write_file(store, name, chain([first], tables), layout, file_rows)


def _write_file(
    store: Store, name: str, tables: Iterable[pa.Table], layout: pa.Schema, file_rows: int
) -> CompactedFile:
    """A file of the next tables, until it has so many rows."""
    rows, first, last = 0, 2**63 - 1, -(2**63)
    with (
        store.create(name) as file,
        parquet_writer(file, layout) as writer,
    ):
        for table in tables:
            writer.write_table(table)
            bounds = pc.min_max(table.column("timestamp"))
            first, last = min(first, bounds["min"].as_py()), max(last, bounds["max"].as_py())
            rows += len(table)
            if rows >= file_rows:
                break
    return CompactedFile(name, rows, first, last)
