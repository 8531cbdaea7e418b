"""Raw landing files by the sink's own writer, and the rows that a landing zone has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.promoted import PromotedField
from streaming.sink.landing import SCHEMA, LandingZone, promoted_column
from streaming.sink.store import Store
from warehouse.landing import list_files

DAY_MS = 86_400_000
MONDAY_MS = 1_795_392_000_000  # 2026-11-23T00:00Z

Row = dict[str, Any]


def row(offset: int, *, tenant: str = "north", at: int = MONDAY_MS, partition: int = 0, **more: Any) -> Row:
    return {
        "_topic": f"ccaaus.events.genesys.{tenant}", "_partition": partition, "_offset": offset, "_published_at": 5,
        "event_id": f"{tenant}-{partition}-{offset}", "vendor": "genesys", "tenant_id": tenant, "timestamp": at,
        "event_type": "conversation.started", "payload": [("conversation_id", f"c{offset}")],
        "metadata": [("genesys.note", "ü\0"), ("a", "")],
    } | more  # fmt: skip


def land(
    store: Store,
    rows: Sequence[Row],
    promoted: Sequence[PromotedField] = (),
    cluster: str = "k",
    incarnations: Mapping[str, str] | None = None,
) -> str:
    """One raw file; topics have no ids unless they are given."""
    layout = pa.schema([*SCHEMA, *map(promoted_column, promoted)])
    spans: dict[str, dict[int, tuple[int, int]]] = {}
    for item in rows:
        parts = spans.setdefault((incarnations or {}).get(item["_topic"], item["_topic"]), {})
        first, last = parts.get(item["_partition"], (item["_offset"], item["_offset"]))
        parts[item["_partition"]] = (min(first, item["_offset"]), max(last, item["_offset"]))
    table = pa.table([pa.array([item.get(f.name) for item in rows], f.type) for f in layout], schema=layout)
    return LandingZone(store, cluster).write(layout, [table], spans, "slot-0")


def table_of(store: Store, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(name)))


def rows_in(store: Store, names: Sequence[str] | None = None) -> list[str]:
    """Every row of the zone as a reader finds it, in an order of its own; a repeat appears twice."""
    names = list_files(store, set()) if names is None else names
    return sorted(repr(sorted(item.items())) for name in names for item in _full(table_of(store, name)))


def _full(table: pa.Table) -> list[Row]:
    """Without columns that are NULL, as files without the column have it."""
    return [{key: value for key, value in item.items() if value is not None} for item in table.to_pylist()]
