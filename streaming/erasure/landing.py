"""Landing files without a caller's personal data: each is written anew, under its name, with the same rows.

Row count, order, offsets, ids and times stay, so the manifest, the loads' list of files and the sink's positions stay
true. Files that a compaction has replaced and not yet deleted, and those that a load has set aside, count too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from streaming.erasure.personal import ADDRESSES, Mode, Owner, Suppressed, clean
from streaming.errors import FencedError
from streaming.sink.landing import QUARANTINE, RAW, SCHEMA, parquet_writer
from streaming.sink.manifest import COMPACTED
from streaming.sink.store import Store

log = structlog.get_logger()

_OWNER = Owner._fields
_CONTACT = ("conversation_id", "parent_conversation_id", *ADDRESSES)
_NUMBER = "_number"
_ARROWS_OWN = b"ARROW:schema"


class Contact(NamedTuple):
    """A conversation as a landing file tells it; ``at_ms`` is the earliest time, epoch ms."""

    conversation_id: str | None
    parent_conversation_id: str | None
    addresses: tuple[str | None, ...]
    at_ms: int


class Rewritten(NamedTuple):
    """What became of the landing zone.

    Attributes:
        files: Written anew.
        rows: Of these, rows that lost something.
        unreadable: Names of files that can't be read, and so may still hold anything.
    """

    files: int
    rows: int
    unreadable: tuple[str, ...]


def contacts(store: Store, owner: Owner) -> Iterator[Contact]:
    """Conversations of a tenant in the landing zone, those of one file at a time; they may repeat.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
    """
    for name in _files(store):
        try:
            with store.here([name]) as (path,), pq.ParquetFile(path) as parquet:
                for group in range(parquet.num_row_groups):
                    yield from _contacts(parquet.read_row_group(group, _NARROW), owner)
        except FileNotFoundError:  # replaced and deleted since
            continue
        except _BROKEN as error:
            _tell_unreadable(name, error)


def rewrite(store: Store, suppressed: Suppressed, is_ours: Callable[[], bool], *, dry_run: bool = False) -> Rewritten:
    """Clean every landing file that has something of those on the list. Again changes nothing.

    Args:
        store: The landing zone.
        suppressed: The list.
        is_ours: Whether the lease of compaction is still the caller's: nobody else may replace or delete files.
        dry_run: Only count.

    Raises:
        FencedError: the lease is lost.
        OSError: the disk does not answer or is full; files that were done stay so.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    files = rows = 0
    unreadable: list[str] = []
    for name in _files(store):
        try:
            changed = _rewrite(store, name, suppressed, is_ours, dry_run=dry_run)
        except FileNotFoundError:
            continue
        except _BROKEN as error:
            _tell_unreadable(name, error)
            unreadable.append(name)
            continue
        files, rows = files + bool(changed), rows + changed
    if not dry_run:  # else a compaction may have copied old rows into a file that was not in the list
        _require(is_ours)
    return Rewritten(files, rows, tuple(unreadable))


_NARROW = ["vendor", "tenant_id", "timestamp", "payload"]

# A file in quarantine may hold anything, for example a NULL where every record has a value.
_BROKEN = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)


def _files(store: Store) -> list[str]:
    return [
        entry.name
        for folder in (RAW, COMPACTED, QUARANTINE)
        for entry in sorted(store.entries(folder))
        if entry.name.endswith(".parquet")
    ]


def _rewrite(store: Store, name: str, suppressed: Suppressed, is_ours: Callable[[], bool], *, dry_run: bool) -> int:
    """Rows that lost something; the file is written anew if there is any."""
    with store.here([name]) as (path,), pq.ParquetFile(path) as parquet:
        modes = {
            group: found
            for group in range(parquet.num_row_groups)
            if (found := _modes(parquet.read_row_group(group, _NARROW), suppressed))
        }
        changed = 0
        for group, found in modes.items():
            # Rows that are clean already are no reason to write the file again.
            changed += _cleaned(parquet.read_row_group(group), found, suppressed).changed
        if not changed or dry_run:
            return changed
        _require(is_ours)
        layout = parquet.schema_arrow.remove_metadata()
        own = {key: value for key, value in (parquet.metadata.metadata or {}).items() if key != _ARROWS_OWN}
        with store.create(name) as target:
            with parquet_writer(target, layout) as writer:
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group)
                    writer.write_table(_cleaned(rows, modes.get(group, {}), suppressed).rows.cast(layout))
                writer.add_key_value_metadata(own)
            _require(is_ours)  # last before the file takes its place: a writer that was held up leaves no trace
    return changed


def _require(is_ours: Callable[[], bool]) -> None:
    if not is_ours():
        msg = "the lease on the landing zone went to another process; run again"
        raise FencedError(msg)


def _contacts(rows: pa.Table, owner: Owner) -> Iterator[Contact]:
    for row in _distinct(rows, {owner}).to_pylist():
        if row["vendor"] != owner.vendor:
            continue
        yield Contact(
            row["conversation_id"],
            row["parent_conversation_id"],
            tuple(row[name] for name in ADDRESSES),
            row["timestamp_min"],
        )


def _modes(rows: pa.Table, suppressed: Suppressed) -> dict[int, Mode]:
    """What is to be done with which rows, by their number in the row group."""
    modes: dict[int, Mode] = {}
    for row in _distinct(rows, suppressed.owners).to_pylist():
        owner, addresses = Owner(*(row[name] for name in _OWNER)), tuple(row[name] for name in ADDRESSES)
        if mode := suppressed.mode_of(owner, row["conversation_id"], addresses, row["timestamp_min"]):
            modes |= dict.fromkeys(row[f"{_NUMBER}_list"], mode)
    return modes


def _distinct(rows: pa.Table, owners: Collection[Owner]) -> pa.Table:
    """Conversations of tenants, with the earliest time and the rows' numbers."""
    numbered = rows.append_column(_NUMBER, pa.array(range(len(rows)), pa.int64()))
    if nulls := [name for name in _NARROW if numbered[name].null_count]:
        msg = f"NULL in {', '.join(nulls)}: whose rows these are can't be told"
        raise ValueError(msg)
    # By tenant's name first, which leaves few rows; whoever has the name at another vendor is on no list.
    names = pa.array(sorted({owner.tenant_id for owner in owners}), pa.string())
    numbered = numbered.filter(pc.is_in(numbered["tenant_id"], value_set=names))
    payload = numbered["payload"].combine_chunks()
    columns = [pc.map_lookup(payload, pa.scalar(name), "first") for name in _CONTACT]
    told = pa.table(
        [*(numbered[name] for name in (*_OWNER, "timestamp", _NUMBER)), *columns],
        names=[*_OWNER, "timestamp", _NUMBER, *_CONTACT],
    )
    return told.group_by([*_OWNER, *_CONTACT]).aggregate([("timestamp", "min"), (_NUMBER, "list")])


class _Cleaned(NamedTuple):
    rows: pa.Table
    changed: int


def _cleaned(rows: pa.Table, modes: Mapping[int, Mode], suppressed: Suppressed) -> _Cleaned:
    """The rows of a group without personal data, in their order."""
    numbers = sorted(modes)
    fresh: dict[int, dict[str, object]] = {}
    for number, row in zip(numbers, rows.take(pa.array(numbers, pa.int64())).to_pylist(), strict=True):
        payload, metadata = dict(row["payload"]), dict(row["metadata"])
        owner = Owner(row["vendor"], row["tenant_id"])
        cleaned = clean(owner, payload, metadata, modes[number], suppressed.key)
        if cleaned != (payload, metadata):
            promoted = dict.fromkeys(name for name in row if name not in SCHEMA.names)
            texts = {"payload": list(cleaned.payload.items()), "metadata": list(cleaned.metadata.items())}
            fresh[number] = {**row, **promoted, **texts}
    if not fresh:
        return _Cleaned(rows, 0)
    changed = pa.Table.from_pylist(list(fresh.values()), schema=rows.schema)
    # The changed rows behind all others, then each to the place where it was.
    places = list(range(len(rows)))
    for place, number in enumerate(fresh, start=len(rows)):
        places[number] = place
    return _Cleaned(pa.concat_tables([rows, changed]).take(pa.array(places, pa.int64())), len(fresh))


def _tell_unreadable(name: str, error: Exception) -> None:
    """A fault of the disk or of a remote store ends the run; anything else is a broken file."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    log.error("landing file can't be read, nothing was erased from it", file=name, error=type(error).__name__)
