"""Landing files: one immutable Parquet file a flush, with the offsets it holds in its metadata."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import IO, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from schemas.columns import ARROW, EVENT
from schemas.promoted import KEY_ATTRIBUTE, PromotedField
from streaming.sink.incarnations import topic_of
from streaming.sink.manifest import newest_manifest
from streaming.sink.store import Store

log = structlog.get_logger()

RAW = "raw"
"""Folder of what the sink writes: ``raw/dt=<day of writing>/<slot>-<epoch ms>-<uuid>.parquet``."""

QUARANTINE = "quarantine"
"""Folder of files that a load could not read, by their names."""

OFFSETS_KEY = b"ccaas.offsets"
"""File metadata: JSON ``{"<topic>@<topic's id>": {partition: [first, last]}}``; earlier files lack the id."""

CLUSTER_KEY = b"ccaas.cluster"
"""File metadata: id of the Kafka cluster."""

SCHEMA = pa.schema(
    [
        ("_topic", pa.string()),
        ("_partition", pa.int32()),
        ("_offset", pa.int64()),
        ("_published_at", pa.int64()),  # Kafka's record time, epoch ms
        *EVENT,
    ]
)
"""Columns of every file. Behind them comes one for each promoted field, see :func:`promoted_column`."""

# Few distinct values, so a dictionary pays; ids and times are all different.
_DICTIONARY_COLUMNS = ["_topic", "vendor", "tenant_id", "event_type"]

Offsets = Mapping[str, Mapping[int, tuple[int, int]]]
"""First and last offset by incarnation of a topic (see :mod:`streaming.sink.incarnations`) and partition."""

Lasts = Mapping[str, Mapping[int, int]]
"""Last offset alike."""

# Longer than the longest retention of a topic (7 days).
_RETENTION = timedelta(days=14)
_READERS = 16
_AT_ONCE = 64  # footers, whose offsets are held until they are noted


def promoted_column(field: PromotedField) -> pa.Field:
    """The column of a promoted field; its metadata has the key that it mirrors (``ccaas.metadata_key``)."""
    return pa.field(field.name, ARROW[field.type], metadata={KEY_ATTRIBUTE: field.key})


class LandingZone:
    """The landing files, as the sink writes them.

    Args:
        store: Where they lie.
        cluster: Id of the Kafka cluster: offsets of another one mean nothing here.
    """

    def __init__(self, store: Store, cluster: str) -> None:
        self._store = store
        self._cluster = cluster
        self._seen: set[str] = set()
        self._landed: dict[str, dict[str, dict[int, int]]] = {}  # by topic, incarnation, partition

    def write(self, layout: pa.Schema, tables: Iterable[pa.Table], offsets: Offsets, slot: str) -> str:
        """Write one file; when this returns it has landed, durably. If it raises, nothing has.

        Args:
            layout: Columns of SCHEMA, and of promoted fields.
            tables: Rows; each table is a row group.
            offsets: What the rows hold.
            slot: Member that writes, part of the file's name.

        Returns:
            The file's name.

        Raises:
            OSError: the disk is full or broken.
            ServiceUnavailableError: a remote store does not answer.
        """
        ranges = {life: {str(number): span for number, span in parts.items()} for life, parts in offsets.items()}
        metadata = {OFFSETS_KEY: orjson.dumps(ranges), CLUSTER_KEY: self._cluster.encode()}
        name = f"{RAW}/dt={datetime.now(UTC):%Y-%m-%d}/{slot}-{time.time_ns() // 1_000_000}-{uuid.uuid4().hex}.parquet"
        with self._store.create(name) as file, parquet_writer(file, layout) as writer:
            for table in tables:
                writer.write_table(table)
            # In the schema's metadata they would be there twice: Arrow keeps a copy of the schema in the file.
            writer.add_key_value_metadata(metadata)
        self._note({life: {number: last for number, (_, last) in parts.items()} for life, parts in offsets.items()})
        self._seen.add(name)
        return name

    def landed(self, incarnation: str, partition: int) -> int | None:
        """Last offset of a partition in any landing file, None if there is none. After :meth:`scan`.

        Those of the topic's other incarnations do not count; those of files without its id do.
        """
        topic = topic_of(incarnation)
        return self._last({incarnation, topic} & self._landed.get(topic, {}).keys(), topic, partition)

    def landed_before(self, incarnation: str, partition: int) -> int | None:
        """As :meth:`landed`, of the topic's other incarnations."""
        topic = topic_of(incarnation)
        return self._last(self._landed.get(topic, {}).keys() - {incarnation, topic}, topic, partition)

    def _last(self, incarnations: Iterable[str], topic: str, partition: int) -> int | None:
        lasts = (self._landed[topic][incarnation].get(partition) for incarnation in incarnations)
        return max((last for last in lasts if last is not None), default=None)

    def scan(self) -> None:
        """Read the offsets of files that other members, or an earlier life of this one, wrote since the last scan.

        Raises:
            ServiceUnavailableError: a remote store does not answer.
        """
        # Only what Kafka may still hold matters: older folders are not read again and again.
        oldest = f"{RAW}/dt={datetime.now(UTC) - _RETENTION:%Y-%m-%d}"
        manifest = newest_manifest(self._store)
        self._note(manifest.offsets.get(self._cluster, {}))
        names = {name for name, _, _ in self._store.entries(RAW) if name >= oldest and name.endswith(".parquet")}
        self._seen &= names
        new = sorted(names - self._seen - manifest.covered.keys())
        # Of a remote store each takes a round trip or two, and a rebalance waits for all.
        with ThreadPoolExecutor(_READERS) as readers:
            for begin in range(0, len(new), _AT_ONCE):
                part = new[begin : begin + _AT_ONCE]
                for lasts in readers.map(self._lasts_of, part):
                    self._note(lasts)
                self._seen.update(part)

    def remove_orphans(self, slot: str) -> None:
        """Delete temporary files that an earlier holder of this slot left when it was killed."""
        self._store.remove_orphans(RAW, f"{slot}-")

    def _lasts_of(self, name: str) -> Lasts:
        try:
            read = footer(self._store, name)
        except FileNotFoundError:  # compacted since, or set aside
            return {}
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            log.error("landing file is unreadable; the load sets it aside", file=name, error=str(error))
            return {}
        return read.lasts if read.cluster == self._cluster else {}

    def _note(self, lasts: Lasts) -> None:
        for incarnation, partitions in lasts.items():
            higher(self._landed.setdefault(topic_of(incarnation), {}).setdefault(incarnation, {}), partitions)


def higher(known: dict[int, int], lasts: Mapping[int, int]) -> None:
    """Raise the last offset of each partition that has a higher one."""
    for partition, last in lasts.items():
        if last > known.get(partition, -1):
            known[partition] = last


def parquet_writer(file: IO[bytes], layout: pa.Schema) -> pq.ParquetWriter:
    """A writer of landing files, compressed."""
    return pq.ParquetWriter(file, layout, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)


class Footer(NamedTuple):
    """What a landing file says of the rows' origin."""

    cluster: str
    lasts: Lasts


def footer(store: Store, name: str) -> Footer:
    """Read the end of a landing file.

    Raises:
        OSError: it can't be read, or is no Parquet file.
        KeyError: the sink did not write it.
        ValueError: as KeyError, or Parquet of another kind.
        ServiceUnavailableError: a remote store does not answer.
    """
    with store.open(name) as file:
        return footer_of(pq.read_metadata(file))


def footer_of(read: pq.FileMetaData) -> Footer:
    """What Parquet's own metadata hold of it.

    Raises:
        KeyError: the sink did not write the file.
        ValueError: as KeyError.
    """
    metadata = read.metadata or {}
    lasts = {
        incarnation: {int(number): int(last) for number, (_, last) in partitions.items()}
        for incarnation, partitions in orjson.loads(metadata[OFFSETS_KEY]).items()
    }
    return Footer(metadata[CLUSTER_KEY].decode(), lasts)
