"""Landing files expire by the day of their events: a manifest takes them out, and a later clean-up deletes them.

As compaction does with what it has replaced: readers that began before go on for the grace period. The caller holds the
lease of the landing zone, so no compaction is at the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import structlog

from streaming.errors import FencedError
from streaming.instants import to_ms
from streaming.sink.compaction import clean_up
from streaming.sink.landing import QUARANTINE, RAW, footer, higher
from streaming.sink.landing_lease import Held
from streaming.sink.manifest import COMPACTED, CompactedFile, Manifest, newest_manifest, next_number, write_manifest
from streaming.sink.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Due:
    """Landing files whose events are all dated, or were all written, before a day.

    Attributes:
        compacted: Of the manifest.
        raw: That no compaction covers.
        bytes: Size of both.
        waiting: Due as well, but not loaded yet: they stay.
        quarantined: Files set aside before that day: they stay, nobody has read them.
    """

    compacted: tuple[CompactedFile, ...]
    raw: tuple[str, ...]
    bytes: int
    waiting: tuple[str, ...]
    quarantined: tuple[str, ...]

    @property
    def files(self) -> int:
        """How many expire."""
        return len(self.compacted) + len(self.raw)


def due_files(store: Store, before: datetime, is_loaded: Callable[[str], bool]) -> Due:
    """What expires before an instant.

    Args:
        store: The landing zone.
        before: Midnight, UTC. A file of which all events are dated before it is due; so is one that was written before
            it, whatever dates its events claim.
        is_loaded: Whether the warehouse has loaded a file.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
    """
    manifest = newest_manifest(store)
    there = {entry.name: entry for entry in store.entries(COMPACTED)}
    compacted = [
        file
        for file in manifest.files
        if file.name in there and (file.last_ms < to_ms(before) or there[file.name].modified < before)
    ]
    raw = {
        entry.name: entry
        for entry in store.entries(RAW)
        if entry.name < f"{RAW}/dt={before:%Y-%m-%d}"
        and entry.name.endswith(".parquet")
        and entry.name not in manifest.covered
    }
    due = {**{file.name: there[file.name].size for file in compacted}, **{e.name: e.size for e in raw.values()}}
    loaded = {name: size for name, size in due.items() if is_loaded(name)}
    return Due(
        tuple(file for file in compacted if file.name in loaded),
        tuple(sorted(name for name in raw if name in loaded)),
        sum(loaded.values()),
        tuple(sorted(due.keys() - loaded.keys())),
        tuple(sorted(e.name for e in store.entries(QUARANTINE) if e.modified < before and e.name.endswith(".parquet"))),
    )


def expire_files(
    store: Store, before: datetime, is_loaded: Callable[[str], bool], grace: timedelta, lease: Held
) -> Due:
    """Take due files out of the manifest, and delete what was taken out longer ago than the grace period.

    Args:
        store: The landing zone.
        before: Midnight, UTC; see :func:`due_files`.
        is_loaded: Whether the warehouse has loaded a file.
        grace: For readers that began before.
        lease: The caller's, of the landing zone.

    Returns:
        What is no longer part of the landing zone from now on.

    Raises:
        FencedError: the lease went to another process; nothing was taken out.
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
    """
    clean_up(store, grace)
    due = due_files(store, before, is_loaded)
    if not due.files:
        return due
    manifest = newest_manifest(store)
    there = {entry.name for folder in (RAW, COMPACTED) for entry in store.entries(folder)}
    covered = {name: since for name, since in manifest.covered.items() if name in there}
    offsets = _with_offsets(store, manifest, due.raw)
    gone = {file.name for file in due.compacted}
    if not lease.is_ours():
        msg = "another process is at the landing files now; run again"
        raise FencedError(msg)
    number = next_number(manifest, lease.epoch)
    write_manifest(
        store,
        replace(
            manifest,
            number=number,
            files=tuple(file for file in manifest.files if file.name not in gone),
            covered={**covered, **dict.fromkeys([*gone, *due.raw], datetime.now(UTC).timestamp())},
            offsets=offsets,
        ),
    )
    if newest_manifest(store).number != number:  # held up after the look at the lease
        msg = "another process wrote a later manifest: nothing has expired; run again"
        raise FencedError(msg)
    log.info("landing files expired", before=before.isoformat(), compacted=len(due.compacted), raw=len(due.raw))
    return due


def _with_offsets(
    store: Store, manifest: Manifest, raw: Sequence[str]
) -> Mapping[str, Mapping[str, Mapping[int, int]]]:
    """Offsets of the manifest and of raw files that it will cover: the sink looks for both, to know what has landed."""
    offsets = {
        cluster: {life: dict(parts) for life, parts in lives.items()} for cluster, lives in manifest.offsets.items()
    }
    for name in raw:
        try:
            read = footer(store, name)
        except (FileNotFoundError, pa.ArrowException, KeyError, ValueError) as error:
            log.warning("a raw file does not say which offsets it holds", file=name, error=str(error))
            continue
        for life, lasts in read.lasts.items():
            higher(offsets.setdefault(read.cluster, {}).setdefault(life, {}), lasts)
    return offsets


def first_day(due: Due) -> date | None:
    """Earliest day of what expires: of its events, of raw files of the writing."""
    days = [datetime.fromtimestamp(max(file.first_ms, 0) / 1000, UTC).date() for file in due.compacted]
    days += [date.fromisoformat(name.partition("dt=")[2][:10]) for name in due.raw]
    return min(days, default=None)


def rows_of(due: Due, known: Mapping[str, int]) -> int:
    """Rows that expire; of raw files as the warehouse has noted them."""
    return sum(file.rows for file in due.compacted) + sum(known.get(name, 0) for name in due.raw)
