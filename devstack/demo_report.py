"""The report of a replay: what each vendor sent, and where it is now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from devstack.bus import Bus
from devstack.replay import CallReplay, Vendor
from schemas.codec import Decoder
from schemas.registry import Registry
from streaming.settings import Settings
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.tables import agent_intervals, conversations, events, queue_intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorCounts:
    """Counts of distinct canonical events, unless said otherwise.

    Attributes:
        expected: what the whole trace must become.
        sent: what the vendor's accepted native events must become.
        refused: native requests that the platform refused, by HTTP status.
        on_bus: on the vendor's topic.
        duplicates_on_bus: records beyond the first of their id.
        in_events: in the warehouse's ``events``.
        rows_in_events: rows there.
        in_crm: with an effect in the CRM; None if there is none.
        dead_letters: records on the dead-letter topic.
        by_way: those on the bus by the way they came: pushed, or polled, reconciled, backfilled, deferred.
        by_type: of each event type how many the trace must become, were sent, are on the bus and in ``events``.
    """

    vendor: str
    tenant_id: str
    expected: int
    sent: int
    refused: dict[str, int]
    on_bus: int
    duplicates_on_bus: int
    in_events: int
    rows_in_events: int
    in_crm: int | None
    dead_letters: int
    by_way: dict[str, int] = field(default_factory=dict)
    by_type: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def recovered(self) -> int:
        """Events that did not come by the vendor's push."""
        return sum(count for way, count in self.by_way.items() if way != "pushed")

    @property
    def adds_up(self) -> bool:
        """Whether everything that happened arrived everywhere, once."""
        return not self.complaints()

    def complaints(self) -> list[str]:
        """What does not add up, for a person."""
        said = []
        if self.on_bus != self.expected:
            said.append(f"{self.expected} events in the trace, {self.sent} sent, but {self.on_bus} on the bus")
        if self.in_events != self.on_bus:
            said.append(f"{self.on_bus} on the bus, but {self.in_events} in events")
        if self.rows_in_events != self.in_events:
            said.append(f"{self.rows_in_events} rows for {self.in_events} events: an id is there twice")
        if self.in_crm not in (None, self.on_bus):
            said.append(f"{self.on_bus} on the bus, but {self.in_crm} in the CRM")
        if self.dead_letters:
            said.append(f"{self.dead_letters} dead letters")
        said += [
            f"{kind}: {count['expected']} in the trace, {count['in_events']} in events"
            for kind, count in sorted(self.by_type.items())
            if count["expected"] != count["in_events"]
        ]
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``ccaas demo --report`` writes."""

    vendors: tuple[VendorCounts, ...]
    tables: dict[str, int]
    warehouse: str
    seconds: float

    @property
    def adds_up(self) -> bool:
        """Whether both vendors' counts do."""
        return all(vendor.adds_up for vendor in self.vendors)

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "adds_up": self.adds_up,
            "seconds": round(self.seconds, 1),
            "warehouse": self.warehouse,
            "tables": self.tables,
            "vendors": {
                item.vendor: {
                    "tenant_id": item.tenant_id,
                    "expected": item.expected,
                    "sent": item.sent,
                    "refused": item.refused,
                    "on_bus": item.on_bus,
                    "duplicates_on_bus": item.duplicates_on_bus,
                    "in_events": item.in_events,
                    "rows_in_events": item.rows_in_events,
                    "in_crm": item.in_crm,
                    "dead_letters": item.dead_letters,
                    "by_way": item.by_way,
                    "recovered_by_reconciliation": item.by_way.get("reconciled", 0),
                    "by_type": item.by_type,
                }
                for item in self.vendors
            },
        }


def collect(replay: CallReplay, *, seconds: float) -> Report:
    """Count everything anew, from the simulators, Kafka and the warehouse."""
    settings = replay.settings()
    warehouse = Warehouse.from_settings(settings)
    publish_read_copy(warehouse, force=True)
    registry = Registry(settings.registry)
    decoder, bus = registry.decoder(), Bus(settings.kafka)
    try:
        with reader(warehouse) as connection:
            vendors = tuple(_count(replay, settings, vendor, bus, decoder, connection) for vendor in replay.vendors)
            tables = {
                table.name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
                for table in (events, conversations, queue_intervals, agent_intervals)
            }
    finally:
        bus.close()
        registry.close()
    # DuckDB: whoever opens the writer's file shuts out the loads, so people are shown the copy.
    url = warehouse.engine_url
    shown = (url.set(database=str(warehouse.read_copy)) if warehouse.read_copy else url).render_as_string()
    return Report(vendors=vendors, tables=tables, warehouse=shown, seconds=seconds)


def _count(  # noqa: PLR0917
    replay: CallReplay, settings: Settings, vendor: Vendor, bus: Bus, decoder: Decoder, connection: sa.Connection
) -> VendorCounts:
    status = replay.status(vendor.name)
    (tenant,) = (item for item in settings.tenants if item.tenant_id == vendor.tenant_id)
    content = bus.read(tenant.events_topic, decoder)
    mine = (events.c.vendor == vendor.name, events.c.tenant_id == vendor.tenant_id)
    query = (
        sa.select(events.c.event_type, sa.func.count(), sa.func.count(sa.distinct(events.c.event_id)))
        .where(*mine)
        .group_by(events.c.event_type)
    )
    rows = {kind: (int(rows), int(ids)) for kind, rows, ids in connection.execute(query)}
    kinds = sorted(set(status["expected"]) | set(content.by_type) | set(rows))
    return VendorCounts(
        vendor=vendor.name,
        tenant_id=vendor.tenant_id,
        expected=sum(status["expected"].values()),
        sent=sum(status["sent"].values()),
        refused=status["refused"],
        on_bus=len(content.ids),
        duplicates_on_bus=content.duplicates,
        in_events=sum(ids for _, ids in rows.values()),
        rows_in_events=sum(count for count, _ in rows.values()),
        in_crm=replay.effects().get(vendor.name, 0) if replay.has_crm else None,
        dead_letters=bus.count(tenant.dlq_topic),
        by_way=dict(content.by_way),
        by_type={
            kind: {
                "expected": status["expected"].get(kind, 0),
                "sent": status["sent"].get(kind, 0),
                "on_bus": content.by_type[kind],
                "in_events": rows.get(kind, (0, 0))[1],
            }
            for kind in kinds
        },
    )
