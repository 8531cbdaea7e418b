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
from streaming.sink.manifest import newest_manifest
from streaming.sink.store import Store

log = structlog.get_logger()

RAW = "raw"
"""Folder of what the sink writes: ``raw/dt=<day of writing>/<slot>-<epoch ms>-<uuid>.parquet``."""

OFFSETS_KEY = b"ccaas.offsets"
"""File metadata: JSON ``{topic: {partition: [first, last]}}``."""

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
"""First and last offset by topic and partition."""

# Longer than the longest retention of a topic (7 days).
_RETENTION = timedelta(days=14)
_READERS = 16


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
        self._landed: dict[tuple[str, int], int] = {}

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
        ranges = {topic: {str(number): span for number, span in parts.items()} for topic, parts in offsets.items()}
        metadata = {OFFSETS_KEY: orjson.dumps(ranges), CLUSTER_KEY: self._cluster.encode()}
        name = f"{RAW}/dt={datetime.now(UTC):%Y-%m-%d}/{slot}-{time.time_ns() // 1_000_000}-{uuid.uuid4().hex}.parquet"
        with self._store.create(name) as file, parquet_writer(file, layout.with_metadata(metadata)) as writer:
            for table in tables:
                writer.write_table(table)
        self._note(offsets)
        self._seen.add(name)
        return name

    def landed(self, topic: str, partition: int) -> int | None:
        """Last offset of a partition in any landing file, None if there is none. After :meth:`scan`."""
        return self._landed.get((topic, partition))

    def scan(self) -> None:
        """Read the offsets of files that other members, or an earlier life of this one, wrote.

        Raises:
            ServiceUnavailableError: a remote store does not answer.
        """
        # Only what Kafka may still hold matters: older folders are not read again and again.
        oldest = f"{RAW}/dt={datetime.now(UTC) - _RETENTION:%Y-%m-%d}"
        manifest = newest_manifest(self._store)
        for topic, partitions in manifest.offsets.get(self._cluster, {}).items():
            self._note({topic: {number: (last, last) for number, last in partitions.items()}})
        names = {name for name, _, _ in self._store.entries(RAW) if name >= oldest and name.endswith(".parquet")}
        self._seen &= names
        new = names - self._seen - manifest.covered.keys()
        # Of a remote store each takes a round trip or two, and a rebalance waits for all.
        with ThreadPoolExecutor(_READERS) as readers:
            for offsets in readers.map(self._offsets_of, new):
                self._note(offsets)
        self._seen |= new

    def remove_orphans(self, slot: str) -> None:
        """Delete temporary files that an earlier holder of this slot left when it was killed."""
        self._store.remove_orphans(RAW, f"{slot}-")

    def _offsets_of(self, name: str) -> Offsets:
        try:
            read = footer(self._store, name)
        except FileNotFoundError:  # compacted since, or set aside
            return {}
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            log.error("landing file is unreadable; the load sets it aside", file=name, error=str(error))
            return {}
        return read.offsets if read.cluster == self._cluster else {}

    def _note(self, offsets: Offsets) -> None:
        for topic, partitions in offsets.items():
            for partition, (_, last) in partitions.items():
                key = (topic, partition)
                self._landed[key] = max(last, self._landed.get(key, -1))


def parquet_writer(file: IO[bytes], layout: pa.Schema) -> pq.ParquetWriter:
    """A writer of landing files, compressed."""
    return pq.ParquetWriter(file, layout, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)


class Footer(NamedTuple):
    """What a landing file says of itself."""

    cluster: str
    offsets: Offsets
    rows: int
    schema: pa.Schema


def footer(store: Store, name: str) -> Footer:
    """Read the end of a landing file.

    Raises:
        OSError: it can't be read, or is no Parquet file.
        KeyError: the sink did not write it.
        ValueError: as KeyError, or Parquet of another kind.
        ServiceUnavailableError: a remote store does not answer.
    """
    with store.open(name) as file:
        read = pq.read_metadata(file)
    metadata = read.metadata or {}
    offsets = {
        topic: {int(number): (int(span[0]), int(span[1])) for number, span in partitions.items()}
        for topic, partitions in orjson.loads(metadata[OFFSETS_KEY]).items()
    }
    return Footer(metadata[CLUSTER_KEY].decode(), offsets, int(read.num_rows), read.schema.to_arrow_schema())
