"""A whole replay in a test: simulators, services as processes, loads called directly."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from devstack.bus import Bus
from devstack.demo_report import Report, collect
from devstack.replay import CallReplay
from devstack.simulators.trace import read_trace
from devstack.stack import LocalStack
from tests.processes import ServiceProcess, service, until
from warehouse.engine import Warehouse, publish_read_copy, reader, writer
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.schema import open_warehouse
from warehouse.tables import events
from warehouse.windows import Window, ceil


class Replaying:
    """A replay with its services running."""

    def __init__(self, replay: CallReplay, services: dict[str, ServiceProcess]) -> None:
        self.replay = replay
        self.services = services

    def play(self, *, speed: float = 0, seconds: float = 300) -> None:
        """Play everything and wait until all of it has landed."""
        self.replay.begin(speed)
        self.wait_landed(seconds)

    def wait_landed(self, seconds: float = 300) -> None:
        until(self.replay.is_done, seconds, "the vendors have sent everything")
        bus = Bus(self.replay.settings().kafka)

        def on_bus() -> bool:
            return all(
                bus.count(vendor.events_topic) >= sum(self.replay.status(vendor.name)["sent"].values())
                for vendor in self.replay.vendors
            )

        until(on_bus, seconds, "everything is on the bus")
        bus.close()

    def load(self, *, of: str = "sent") -> Report:
        """Load all tables from what has landed, until it is as much as was ``sent``, or ``expected`` of the trace."""
        settings = self.replay.settings()

        expected = sum(sum(self.replay.status(vendor.name)[of].values()) for vendor in self.replay.vendors)

        def loaded() -> bool:
            with open_warehouse(settings) as warehouse:
                load_events(warehouse, run_id="test")
                with writer(warehouse) as connection:
                    count = sa.select(sa.func.count()).select_from(events)
                    return int(connection.execute(count).scalar_one()) >= expected

        until(loaded, 60, "everything is in events")
        with open_warehouse(settings) as warehouse:
            load_wfm_intervals(warehouse, self.window(), run_id="test")
            load_conversations(warehouse, run_id="test")
        return collect(self.replay, seconds=0)

    def speed_for(self, seconds: float) -> float:
        """Speed at which the trace, from 00:00 of its first date, takes so long."""
        last_ms = max(
            call.ended_ms
            for vendor in self.replay.vendors
            for call in read_trace(self.replay.trace, ivr=vendor.ivr, shift_days=self.replay.shift_days)
        )
        return (last_ms / 1000 - self.replay.start.timestamp()) / seconds

    def window(self) -> Window:
        """From 00:00 of the first date to the midnight after the last event."""
        last = ceil(self.replay.last_event(), 60)
        midnight = datetime(last.year, last.month, last.day, tzinfo=last.tzinfo)
        return Window(self.replay.start, midnight if midnight == last else midnight + timedelta(days=1))

    def table(self, table: sa.Table) -> pd.DataFrame:
        return read_table(Warehouse.from_settings(self.replay.settings()), table)


def read_table(warehouse: Warehouse, table: sa.Table) -> pd.DataFrame:
    """A whole table as a frame, instants in UTC."""
    publish_read_copy(warehouse, force=True)
    with reader(warehouse) as connection:
        rows = connection.execute(sa.select(table)).mappings().all()
    return pd.DataFrame([dict(row) for row in rows], columns=[column.name for column in table.columns])


@contextmanager
def replaying(stack: LocalStack, folder: Path, **options: Any) -> Iterator[Replaying]:
    """Simulators idle, all four services ready."""
    replay = CallReplay(stack, folder, flush_seconds=1, suffix=f"-{uuid.uuid4().hex[:6]}", **options)
    replay.prepare()
    ports = replay.ports
    with ExitStack() as exits:
        services = {
            name: exits.enter_context(service(name, replay.config, port))
            for name, port in (
                ("cxone-receiver", ports.receiver),
                ("cxone-publisher", ports.cxone_publisher),
                ("genesys-ingest", ports.genesys_ingest),
                ("analytics-sink", ports.analytics_sink),
            )
        }
        for process in services.values():
            process.wait_ready(60)
        yield Replaying(replay, services)
