"""Landing files: one immutable Parquet file a flush, with the offsets it holds in its metadata."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from schemas.promoted import KEY_ATTRIBUTE, FieldType, PromotedField

log = structlog.get_logger()

OFFSETS_KEY = b"ccaas.offsets"
"""File metadata: JSON ``{topic: {partition: [first, last]}}``."""

CLUSTER_KEY = b"ccaas.cluster"
"""File metadata: id of the Kafka cluster."""

_TEXT_MAP = pa.map_(pa.string(), pa.string())
SCHEMA = pa.schema(
    [
        ("_topic", pa.string()),
        ("_partition", pa.int32()),
        ("_offset", pa.int64()),
        ("_published_at", pa.int64()),  # Kafka's record time, epoch ms
        ("event_id", pa.string()),
        ("vendor", pa.string()),
        ("tenant_id", pa.string()),
        ("timestamp", pa.int64()),  # the vendor's time, epoch ms
        ("event_type", pa.string()),
        ("payload", _TEXT_MAP),
        ("metadata", _TEXT_MAP),
    ]
)
"""Columns of every file. Behind them comes one for each promoted field, see :func:`promoted_column`."""

_ARROW: dict[FieldType, pa.DataType] = {
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
}

Offsets = dict[str, dict[int, tuple[int, int]]]

_TEMPORARY = ".tmp-"
# Longer than the longest retention of a topic (7 days).
_RETENTION = timedelta(days=14)


def promoted_column(field: PromotedField) -> pa.Field:
    """The column of a promoted field; its metadata has the key that it mirrors (``ccaas.metadata_key``)."""
    return pa.field(field.name, _ARROW[field.type], metadata={KEY_ATTRIBUTE: field.key})


class LandingZone:
    """The folder of landing files, as the sink uses it.

    Args:
        folder: ``settings.landing_dir``.
        cluster: Id of the Kafka cluster: offsets of another one mean nothing here.
    """

    def __init__(self, folder: Path, cluster: str) -> None:
        self._cluster = cluster.encode()
        self._raw = folder / "raw"
        self._raw.mkdir(parents=True, exist_ok=True)
        self._seen: set[str] = set()
        self._landed: dict[tuple[str, int], int] = {}

    def write(
        self,
        columns: Mapping[str, list[object]],
        offsets: Offsets,
        slot: str,
        promoted: Sequence[PromotedField] = (),
    ) -> Path:
        """Write one file: temporary name, fsync, atomic rename, fsync of the folder. Then it counts as landed.

        Args:
            columns: A list for each column of SCHEMA, and for each promoted field.
            offsets: First and last offset by topic and partition.
            slot: Member that writes, part of the file's name.
            promoted: Promoted fields that have a column.

        Raises:
            OSError: the disk is full or broken; nothing landed.
        """
        ranges = {topic: {str(number): span for number, span in parts.items()} for topic, parts in offsets.items()}
        layout = pa.schema([*SCHEMA, *map(promoted_column, promoted)])
        schema = layout.with_metadata({OFFSETS_KEY: orjson.dumps(ranges), CLUSTER_KEY: self._cluster})
        table = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
        now = datetime.now(UTC)
        folder = self._raw / f"dt={now:%Y-%m-%d}"
        folder.mkdir(exist_ok=True)
        name = f"{slot}-{time.time_ns() // 1_000_000}-{uuid.uuid4().hex}.parquet"
        temporary, final = folder / f"{_TEMPORARY}{name}", folder / name
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)
        _sync_folder(folder)
        self._note(offsets)
        self._seen.add(str(final))
        return final

    def landed(self, topic: str, partition: int) -> int | None:
        """Last offset of a partition in any landing file, None if there is none. After :meth:`scan`."""
        return self._landed.get((topic, partition))

    def scan(self) -> None:
        """Read the offsets of files that other members, or an earlier life of this one, wrote."""
        # Only what Kafka may still hold matters: older folders are not read again and again.
        oldest = f"dt={datetime.now(UTC) - _RETENTION:%Y-%m-%d}"
        for path in self._raw.glob("dt=*/*.parquet"):
            if path.parent.name < oldest or path.name.startswith(_TEMPORARY) or str(path) in self._seen:
                continue
            try:
                metadata = pq.read_metadata(path).metadata or {}
                if metadata.get(CLUSTER_KEY) == self._cluster:
                    self._note(_parse(metadata[OFFSETS_KEY]))
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                log.error("landing file is unreadable; the load sets it aside", file=str(path), error=str(error))
            self._seen.add(str(path))

    def remove_orphans(self, slot: str) -> None:
        """Delete temporary files that an earlier holder of this slot left when it was killed."""
        for path in self._raw.glob(f"dt=*/{_TEMPORARY}{slot}-*"):
            path.unlink(missing_ok=True)
            log.info("orphaned temporary file deleted", file=str(path))

    def _note(self, offsets: Offsets) -> None:
        for topic, partitions in offsets.items():
            for partition, (_, last) in partitions.items():
                key = (topic, partition)
                self._landed[key] = max(last, self._landed.get(key, -1))


# Few distinct values, so a dictionary pays; ids and times are all different.
_DICTIONARY_COLUMNS = ["_topic", "vendor", "tenant_id", "event_type"]


def _parse(raw: bytes) -> Offsets:
    document = orjson.loads(raw)
    return {
        topic: {int(number): (int(span[0]), int(span[1])) for number, span in partitions.items()}
        for topic, partitions in document.items()
    }


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
