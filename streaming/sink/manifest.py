"""Which files make up the landing zone: the compacted ones of the newest manifest, and raw ones that it does not cover.

A manifest is never changed: each compaction writes the next, whole one, and readers take the one of the highest number.
Its number begins with the epoch of the writer's lease, so a writer that was held up and goes on after its lease ended
writes a manifest that nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import orjson

from streaming.sink.store import Store

COMPACTED = "compacted"
"""Folder of what compaction writes: ``compacted/vendor=…/tenant_id=…/date=…/<number>-<uuid>.parquet``."""

MANIFESTS = f"{COMPACTED}/_manifests"

_FORMAT = 1


class Number(NamedTuple):
    """A manifest's number; the higher one counts."""

    epoch: int
    step: int


class CompactedFile(NamedTuple):
    """A file of a manifest.

    Attributes:
        name: In the store.
        rows: How many.
        first_ms: Least vendor's time among them, epoch ms.
        last_ms: Greatest.
    """

    name: str
    rows: int
    first_ms: int
    last_ms: int


_NONE = Number(0, 0)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of the landing zone.

    Attributes:
        number: 0, 0 before the first compaction.
        files: Compacted files that count.
        covered: Files that count no longer and are not deleted yet, with the epoch seconds since when: raw ones whose
            rows the compacted ones hold, and those that have expired.
        offsets: Last offset in compacted files, by Kafka cluster, incarnation of a topic and partition.
    """

    number: Number = _NONE
    files: tuple[CompactedFile, ...] = ()
    covered: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)


def newest_manifest(store: Store) -> Manifest:
    """The manifest that counts now.

    Raises:
        OSError: the disk does not answer.
        ServiceUnavailableError: a remote store does not answer.
        ValueError: a later version of this program wrote it.
    """
    while True:
        names = [entry.name for entry in store.entries(MANIFESTS) if entry.name.endswith(".json")]
        if not names:
            return Manifest()
        try:
            return _parse(store.read(max(names)))
        except FileNotFoundError:  # replaced and cleaned away between the two
            continue


def next_number(newest: Manifest, epoch: int) -> Number:
    """Under which a new holder of the lease begins.

    Higher than every manifest that there is, also where the state database with the epochs was lost. Else higher than
    what an earlier holder may still write, too.

    Args:
        newest: The manifest that counts.
        epoch: Of the holder.
    """
    return Number(max(epoch, newest.number.epoch + 1), 0)


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Make a manifest the newest; its number must be higher than all that its writer has seen.

    Raises:
        OSError: the disk does not answer; the manifest does not count.
        ServiceUnavailableError: as OSError, of a remote store.
    """
    document = {
        "format": _FORMAT,
        "number": list(manifest.number),
        "files": [file._asdict() for file in manifest.files],
        "covered": manifest.covered,
        "offsets": manifest.offsets,
    }
    with store.create(manifest_name(manifest.number)) as file:
        file.write(orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS))


def manifest_name(number: Number) -> str:
    """Name in the store; names sort as numbers do."""
    return f"{MANIFESTS}/{number.epoch:012}-{number.step:06}.json"


def remove_old_manifests(store: Store, before: datetime) -> None:
    """Delete manifests that were replaced before an instant; the newest stays."""
    entries = sorted(store.entries(MANIFESTS))
    for entry, successor in pairwise(entries):
        if successor.modified < before:
            store.delete(entry.name)


def _parse(raw: bytes) -> Manifest:
    document = orjson.loads(raw)
    if document["format"] != _FORMAT:
        msg = f"the landing zone's manifest has format {document['format']}: a newer version of this program wrote it"
        raise ValueError(msg)
    return Manifest(
        Number(*document["number"]),
        tuple(CompactedFile(**file) for file in document["files"]),
        document["covered"],
        {
            cluster: {life: {int(number): last for number, last in parts.items()} for life, parts in lives.items()}
            for cluster, lives in document["offsets"].items()
        },
    )
