"""A past window of a tenant's events, compared with the bus and completed by REST. Works without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx

from schemas.registry import Registry
from streaming.bus_window import BusWindow
from streaming.errors import ConfigurationError
from streaming.publisher import Publisher
from streaming.settings import Settings, Tenant
from streaming.topics import ensure_topics
from streaming.vendors import connection_of
from streaming.vendors.genesys.connection import VENDOR, GenesysConnection
from streaming.vendors.genesys.ingest import api_of, token_source
from streaming.vendors.genesys.recovery import Recovery, RecoveryCounts

# A day at a time: so many ids are held in memory, and the vendor's queries stay short.
_CHUNK = timedelta(days=1)


@dataclass(slots=True)
class BackfillReport:
    """What became of a window.

    Attributes:
        tenant_id: Whose.
        start: Event time, UTC.
        end: Exclusive.
        expected: Events that REST tells of, by type.
        missing: Those that were not on the bus, by type; published unless it was a dry run.
        dead_letters: Rows of REST that are no events.
    """

    tenant_id: str
    start: datetime
    end: datetime
    expected: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0

    @property
    def missing_share(self) -> float:
        """Of the expected events, 0 to 1."""
        expected = sum(self.expected.values())
        return sum(self.missing.values()) / expected if expected else 0.0

    def add(self, counts: RecoveryCounts) -> None:
        """A part of the window is done."""
        for mine, theirs in ((self.expected, counts.found), (self.missing, counts.published)):
            for kind, count in theirs.items():
                mine[kind] = mine.get(kind, 0) + count
        self.dead_letters += counts.dead_letters


def genesys_tenant(settings: Settings, tenant_id: str) -> Tenant:
    """The tenant of that id.

    Raises:
        ConfigurationError: there is none; names those that there are.
    """
    tenants = {tenant.tenant_id: tenant for tenant in settings.tenants_of(VENDOR)}
    if tenant_id not in tenants:
        msg = f"tenant: {tenant_id!r} is no Genesys tenant; there are {', '.join(sorted(tenants)) or 'none'}"
        raise ConfigurationError(msg)
    return tenants[tenant_id]


def backfill(
    settings: Settings,
    tenant: Tenant,
    start: datetime,
    end: datetime,
    *,
    publish: bool = True,
    progress: Callable[[datetime], None] = lambda _: None,
) -> BackfillReport:
    """Publish the events of [start, end) that are not on the bus, with the ids that they would have had.

    Interrupted or run twice at once, it publishes the same ids again, which consumers drop.

    Args:
        settings: The platform's.
        tenant: Whose events.
        start: Event time, aware.
        end: Exclusive, aware.
        publish: False only counts (dry run).
        progress: Told the end of each part that is done.

    Raises:
        ConfigurationError: the window is wrong, or the vendor refuses the client.
        ServiceUnavailableError: the vendor, Kafka or the registry does not answer.
    """
    if start.tzinfo is None or end.tzinfo is None or end <= start:
        msg = f"start, end: {start} to {end}; give two instants with an offset, the end after the start"
        raise ConfigurationError(msg)
    ensure_topics(settings.kafka, [tenant])
    registry = Registry(settings.registry)
    publisher = Publisher(settings, registry.encoder(), "genesys-backfill")
    report = BackfillReport(tenant.tenant_id, start, end)
    try:
        with BusWindow(settings, tenant, registry.decoder()) as bus:
            begin = start
            while begin < end:
                until = min(begin + _CHUNK, end)
                known = {event["event_id"]: True for batch in bus.events(begin, until) for event in batch}
                report.add(asyncio.run(_fill(tenant, publisher, begin, until, known, publish=publish)))
                progress(until)
                begin = until
    finally:
        publisher.close()
        registry.close()
    return report


async def _fill(
    tenant: Tenant, publisher: Publisher, start: datetime, end: datetime, known: dict[str, bool], *, publish: bool
) -> RecoveryCounts:
    connection = connection_of(tenant, GenesysConnection)
    async with httpx.AsyncClient(timeout=30) as http:
        api = api_of(http, token_source(http, connection), connection)
        recovery = Recovery(tenant, connection, api, publisher, mark="backfilled", poll=lambda: publisher.poll(0))
        return await recovery.fill(start, end, known=known, publish=publish)
