"""Hand-made canonical events, written to the landing zone by the sink's own writer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from schemas.canonical import EventType, event_id
from streaming.instants import to_ms
from streaming.sink.landing import SCHEMA, LandingZone
from streaming.sink.store import LocalStore
from tests.arrival import ARRIVAL, ENGINES_OWN
from warehouse.engine import Warehouse, writer

TOPIC = "ccaaus.events.genesys.bank-north"


def at(clock: str, day: int = 4) -> datetime:
    """``09:14:59`` on 4 January 1999, UTC."""
    hours, minutes, seconds = clock.split(":")
    return datetime(1999, 1, day, int(hours), int(minutes), int(seconds), tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """One canonical event with the place it has on Kafka."""

    type: EventType
    time: datetime
    payload: dict[str, str] = field(default_factory=dict)
    vendor: str = "genesys"
    tenant_id: str = "bank-north"
    offset: int = 0
    partition: int = 0
    id: str | None = None
    metadata: dict[str, str] = field(
        default_factory=lambda: {"ccaas.native_type": "test", "genesys.note": 'quote " and, comma'}
    )

    @property
    def event_id(self) -> str:
        return self.id or event_id(self.vendor, self.tenant_id, self.type, to_ms(self.time), self.payload)

    def row(self) -> dict[str, Any]:
        return {
            "_topic": TOPIC,
            "_partition": self.partition,
            "_offset": self.offset,
            "_published_at": to_ms(self.time) + 100,
            "event_id": self.event_id,
            "vendor": self.vendor,
            "tenant_id": self.tenant_id,
            "timestamp": to_ms(self.time),
            "event_type": str(self.type),
            "payload": list(self.payload.items()),
            "metadata": list(self.metadata.items()),
        }


def event(type_: EventType, clock: str | datetime, conversation: str | None = None, **payload: object) -> Event:
    """An event; ``queue`` and ``agent`` stand for ``queue_id`` and ``agent_id``."""
    names = {"queue": "queue_id", "agent": "agent_id", "status": "agent_status", "media": "media_type"}
    values = {names.get(key, key): str(value) for key, value in payload.items()}
    if conversation:
        values["conversation_id"] = conversation
    return Event(type_, at(clock) if isinstance(clock, str) else clock, values)


def status(clock: str | datetime, agent: str, value: str) -> Event:
    return event(EventType.STATUS_CHANGED, clock, agent=agent, status=value)


def queued(clock: str, conversation: str, queue: str = "PS", **more: object) -> Event:
    return event(EventType.QUEUED, clock, conversation, queue=queue, **{"media": "VOICE", **more})


def assigned(clock: str, conversation: str, queue: str = "PS", agent: str = "ANNA", **more: object) -> Event:
    return event(EventType.ASSIGNED, clock, conversation, queue=queue, agent=agent, **{"media": "VOICE", **more})


def handled(clock: str, conversation: str, queue: str = "PS", agent: str = "ANNA", **more: object) -> Event:
    return event(EventType.HANDLED, clock, conversation, queue=queue, agent=agent, **{"media": "VOICE", **more})


def wrapup(clock: str, conversation: str, queue: str = "PS", agent: str = "ANNA", **more: object) -> Event:
    return event(EventType.WRAPUP, clock, conversation, queue=queue, agent=agent, **{"media": "VOICE", **more})


def abandoned(clock: str, conversation: str, queue: str = "PS", **more: object) -> Event:
    return event(EventType.ABANDONED, clock, conversation, queue=queue, **{"media": "VOICE", **more})


def land(landing_dir: Path, *events: Event) -> Path:
    """One landing file."""
    rows = [item.row() for item in events]
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    offsets: dict[str, dict[int, tuple[int, int]]] = {}
    for row in rows:
        first, last = offsets.setdefault(TOPIC, {}).get(row["_partition"], (row["_offset"], row["_offset"]))
        offsets[TOPIC][row["_partition"]] = (min(first, row["_offset"]), max(last, row["_offset"]))
    table_ = pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
    return landing_dir / LandingZone(LocalStore(landing_dir), "test").write(SCHEMA, [table_], offsets, "0")


def numbered(events: list[Event]) -> list[Event]:
    """With the offsets they get if they are published in this order."""
    return [replace(item, offset=number) for number, item in enumerate(events)]


# Nothing else may differ between ways of loading, or between engines.
_LEFT_OUT = ARRIVAL | ENGINES_OWN
_KEYS = {
    "events": "event_id",
    "conversations": "vendor, tenant_id, conversation_id",
    "queue_intervals": "vendor, tenant_id, queue_id, media_type, interval_start",
    "agent_intervals": "vendor, tenant_id, agent_id, interval_start",
    "queue_interval_metrics": "vendor, tenant_id, queue_id, media_type, interval_start",
    "agent_interval_metrics": "vendor, tenant_id, agent_id, interval_start",
    "load_runs": "load_id",
    "landed_files": "name",
    "retention_runs": "run_id, dataset",
}


def table(warehouse: Warehouse, name: str) -> list[dict[str, Any]]:
    """Rows of a table by key, without what depends on arrival."""
    (rows,) = _tables(warehouse, name).values()
    return rows


def frame(warehouse: Warehouse, name: str) -> pd.DataFrame:
    return pd.DataFrame(table(warehouse, name))


def everything(warehouse: Warehouse) -> dict[str, list[dict[str, Any]]]:
    """All data, none of the bookkeeping."""
    return _tables(warehouse, "events", "conversations", "queue_intervals", "agent_intervals")


def _tables(warehouse: Warehouse, *names: str) -> dict[str, list[dict[str, Any]]]:
    found = {}
    with writer(warehouse) as connection:  # one for all: opening a DuckDB file takes 25 ms of CPU
        for name in names:
            rows = connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY {_KEYS[name]}")).mappings().all()
            found[name] = [{key: value for key, value in row.items() if key not in _LEFT_OUT} for row in rows]
    return found


def cells(warehouse: Warehouse, name: str, key: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Cells by (queue or agent, interval's clock), only values that are not 0."""
    keys = {"vendor", "tenant_id", "queue_id", "agent_id", "media_type", "interval_start", "interval_minutes"}
    return {
        (row[key], f"{row['interval_start']:%H:%M}"): {k: v for k, v in row.items() if k not in keys and v}
        for row in table(warehouse, name)
    }


def queue_cells(warehouse: Warehouse) -> dict[tuple[str, str], dict[str, Any]]:
    return cells(warehouse, "queue_intervals", "queue_id")


def agent_cells(warehouse: Warehouse) -> dict[tuple[str, str], dict[str, Any]]:
    return cells(warehouse, "agent_intervals", "agent_id")
