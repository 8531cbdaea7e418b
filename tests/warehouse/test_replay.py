"""Landing zone and tables from Kafka: a real broker and registry, DuckDB."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prefect.logging import disable_run_logger

import flows.replay_topic as module
from flows.replay_topic import replay_topic
from schemas.canonical import CanonicalEvent, EventType
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.instants import to_ms
from streaming.sink.landing import LandingZone
from streaming.sink.store import LocalStore
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.flows.shown import Shown
from tests.warehouse.events import Event, event, everything, queued, status
from warehouse.engine import Warehouse
from warehouse.errors import WindowError
from warehouse.load_events import load_events
from warehouse.schema import migrate

# Published now, as everything is; dated this morning.
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = TODAY + timedelta(minutes=5)
END = TODAY + timedelta(minutes=20)
NOW = datetime.now(UTC) + timedelta(days=1)


class Bus:
    """A tenant's topic and a warehouse of its own."""

    def __init__(self, platform: Platform) -> None:
        self.tenant_id = platform.add_tenant("genesys", "replay", partitions=3)
        self.settings = platform.settings()
        (self.tenant,) = self.settings.tenants
        ensure_topics(self.settings.kafka, [self.tenant])
        self.registry = Registry(self.settings.registry)
        self.encoder = self.registry.encoder()
        self.producer = Producer(self.settings.kafka.client_config())
        self.warehouse = Warehouse.from_settings(self.settings)
        self.store = LocalStore(self.settings.landing_dir)
        migrate(self.warehouse)

    def publish(self, *events: Event, producer: Producer | None = None) -> None:
        producer = producer or self.producer
        for item in events:
            producer.produce(self.tenant.events_topic, self.encoder.encode(self.canonical(item)), item.event_id)
        assert producer.flush(20) == 0

    def canonical(self, item: Event) -> CanonicalEvent:
        return {
            "event_id": item.event_id, "vendor": "genesys", "tenant_id": self.tenant_id,
            "timestamp": to_ms(item.time), "event_type": str(item.type), "payload": item.payload,
            "metadata": item.metadata,
        }  # fmt: skip

    def landed(self) -> list[str]:
        return sorted(entry.name for entry in self.store.entries("raw"))


@pytest.fixture
def bus(platform: Platform) -> Iterator[Bus]:
    made = Bus(platform)
    yield made
    made.registry.close()


@pytest.fixture
def shown(bus: Bus, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    shown = Shown()
    monkeypatch.setattr(module, "show_table", shown.table)
    monkeypatch.setattr(module, "scheduled_time", lambda: NOW)
    monkeypatch.setattr(module, "run_id", lambda: "run")
    monkeypatch.setattr(module, "shown_progress", lambda *_: lambda share: shown.events.append({"share": share}))
    return shown


def replay(bus: Bus, shown: Shown, start: datetime = START, end: datetime = END) -> dict[str, Any]:
    with disable_run_logger():
        landed = replay_topic.fn(bus.tenant_id, start, end)
    (row,) = shown.tables["replay-topic"]
    assert row["landed now"] == landed
    return row


def calls(number: int) -> list[Event]:
    """From five minutes past midnight on."""
    found = [status(START, "ANNA", "IDLE")]
    for call in range(number):
        at = START + timedelta(seconds=10 * call)
        found += [
            event(EventType.QUEUED, at, f"c{call}", queue="PS", media="VOICE"),
            event(EventType.ASSIGNED, at + timedelta(seconds=3), f"c{call}", queue="PS", agent="ANNA"),
            event(EventType.HANDLED, at + timedelta(seconds=9), f"c{call}", queue="PS", agent="ANNA", talk_ms=6_000),
        ]
    return found


def test_everything_comes_back_from_kafka_and_nothing_twice(bus: Bus, shown: Shown) -> None:
    outside = [event(EventType.QUEUED, START - timedelta(milliseconds=1), "early", queue="PS"),
               event(EventType.QUEUED, END, "end", queue="PS")]  # fmt: skip
    bus.publish(*calls(20)[:40], *outside)
    bus.producer.produce(bus.tenant.events_topic, b"rubbish", "k")
    assert bus.producer.flush(20) == 0
    transactional = Producer({**bus.settings.kafka.client_config(), "transactional.id": bus.tenant_id})
    transactional.init_transactions(20)
    transactional.begin_transaction()
    bus.publish(*calls(20)[40:], producer=transactional)
    transactional.commit_transaction(20)
    transactional.begin_transaction()
    bus.publish(event(EventType.QUEUED, START, "aborted", queue="PS"), producer=transactional)
    transactional.abort_transaction(20)
    first = replay(bus, shown)
    assert {key: first[key] for key in ("records read", "no events", "in the window", "had landed", "landed now")} == {
        "records read": 64, "no events": 1, "in the window": 61, "had landed": 0, "landed now": 61
    }  # fmt: skip
    assert (first["in events before"], first["in events now"]) == (0, 61)
    assert first["Kafka is complete since"] == "its start"
    assert shown.events[-1] == {"share": 1.0}
    tables = everything(bus.warehouse)
    assert len(tables["conversations"]) == 20
    assert sum(row["answered"] for row in tables["queue_intervals"]) == 20
    assert sum(row["handled"] for row in tables["agent_intervals"]) == 20
    # The sink takes none of it for its own work.
    zone = LandingZone(bus.store, "any")
    zone.scan()
    assert zone.landed(bus.tenant.events_topic, 0) is None
    files = bus.landed()
    again = replay(bus, shown)
    assert (again["had landed"], again["landed now"], again["in events now"]) == (61, 0, 61)
    assert bus.landed() == files
    load_events(bus.warehouse, run_id="r")
    assert everything(bus.warehouse) == tables
    # Both are lost, and come back in two steps.
    shutil.rmtree(bus.settings.landing_dir)
    assert bus.warehouse.database
    bus.warehouse.database.unlink()
    half = replay(bus, shown, START, START + timedelta(seconds=100))
    assert 0 < half["landed now"] < 61
    rest = replay(bus, shown)
    assert (rest["had landed"], rest["landed now"]) == (half["landed now"], 61 - half["landed now"])
    assert (rest["in events before"], rest["in events now"]) == (half["landed now"], 61)
    assert everything(bus.warehouse) == tables


def test_what_kafka_has_expired_is_told(bus: Bus, shown: Shown) -> None:
    bus.publish(*calls(10))
    ends = [TopicPartition(bus.tenant.events_topic, number, -1) for number in range(3)]
    admin = AdminClient(bus.settings.kafka.client_config())
    for future in admin.delete_records(ends).values():
        future.result(20)
    bus.publish(queued("09:00:00", "old"), *calls(2)[1:3])
    row = replay(bus, shown, START - timedelta(days=400), END)
    assert (row["landed now"], row["in events now"]) == (2, 2)
    since = datetime.strptime(row["Kafka is complete since"], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    kept = timedelta(milliseconds=bus.tenant.retention_ms)
    assert abs(datetime.now(UTC) - kept - since) < timedelta(minutes=5)


def test_a_window_or_tenant_that_cannot_be(bus: Bus, shown: Shown) -> None:
    with pytest.raises(WindowError, match="in the future"):
        replay_topic.fn(bus.tenant_id, NOW, NOW + timedelta(hours=1))
    with pytest.raises(WindowError, match="give an end after the start"):
        replay_topic.fn(bus.tenant_id, END, START)
    with pytest.raises(ConfigurationError, match="is not configured"):
        replay_topic.fn("nobody", START, END)
