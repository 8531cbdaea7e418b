"""Reading the bus by time, on a real broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]  # public, but not in __all__

import streaming.topic_reader
from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.bus_window import BusWindow
from streaming.errors import ServiceUnavailableError
from streaming.settings import KafkaSettings, Settings, Tenant
from streaming.topic_reader import Place, Span
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.processes import free_port

NINE = datetime(2026, 11, 23, 9, tzinfo=UTC)
TEN = NINE + timedelta(hours=1)
NINE_MS = int(NINE.timestamp() * 1000)


class Bus:
    """A tenant's topics, written and read."""

    def __init__(self, platform: Platform) -> None:
        self.settings: Settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=platform.stack.bootstrap_servers),
            registry={"url": platform.stack.registry_url},
        )
        self.tenant = Tenant(tenant_id=f"window-{platform.suffix}", vendor="cxone", partitions=3)
        ensure_topics(self.settings.kafka, [self.tenant])
        self.registry = Registry(self.settings.registry)
        self.encoder: Encoder = self.registry.encoder()
        self.admin = AdminClient(self.settings.kafka.client_config())
        self.producer = Producer(self.settings.kafka.client_config())

    def put(self, *offsets_ms: int, published_ms: int = 0, producer: Producer | None = None) -> None:
        """Events so many ms after nine o'clock."""
        producer = producer or self.producer
        for offset in offsets_ms:
            value = self.encoder.encode(event(offset))
            producer.produce(
                self.tenant.events_topic, value, str(offset), timestamp=published_ms or int(time.time() * 1000)
            )
        assert producer.flush(10) == 0

    def window(self) -> BusWindow:
        return BusWindow(self.settings, self.tenant, self.registry.decoder())

    def empty(self) -> None:
        """As retention does."""
        ends = [TopicPartition(self.tenant.events_topic, number, -1) for number in range(3)]
        for future in self.admin.delete_records(ends).values():
            future.result(20)

    def configure(self, name: str, value: int) -> None:
        entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.tenant.events_topic, incremental_configs=[entry])
        (future,) = self.admin.incremental_alter_configs([resource]).values()
        future.result(20)

    def complete_since(self) -> datetime | None:
        with self.window() as window:
            return window.complete_since()

    def read(self, start: datetime = NINE, end: datetime = TEN) -> list[str]:
        with self.window() as window:
            return sorted(found["event_id"] for batch in window.events(start, end) for found in batch)


def event(offset_ms: int) -> CanonicalEvent:
    return {
        "event_id": f"e{offset_ms}", "vendor": "cxone", "tenant_id": "t", "timestamp": NINE_MS + offset_ms,
        "event_type": "conversation.queued", "payload": {"conversation_id": "c"}, "metadata": {},
    }  # fmt: skip


@pytest.fixture
def bus(platform: Platform) -> Iterator[Bus]:
    made = Bus(platform)
    yield made
    made.registry.close()


def test_the_envelopes_time_decides_and_the_end_is_exclusive(bus: Bus) -> None:
    bus.put(-1, 0, 1, 3_599_999, 3_600_000)
    assert bus.read() == ["e0", "e1", "e3599999"]
    with bus.window() as window:
        (found,) = (found for batch in window.events(NINE, NINE + timedelta(milliseconds=1)) for found in batch)
    assert found == event(0)


def test_all_partitions_and_repeats(bus: Bus) -> None:
    bus.put(*range(50))
    bus.put(7)
    assert len(bus.read()) == 51


def test_one_reader_reads_again_and_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions that come to their end first are paused; the next read must not find them so."""
    monkeypatch.setattr(streaming.topic_reader, "_SILENT_S", 5)
    bus.put(*range(30))
    with bus.window() as window:
        for _ in range(3):
            assert sum(len(batch) for batch in window.events(NINE, TEN)) == 30


def test_nothing_and_no_topic(bus: Bus) -> None:
    assert bus.read() == []
    bus.tenant = Tenant(tenant_id="nobody", vendor="cxone")
    assert bus.read() == []


def test_what_is_no_event_is_counted(bus: Bus) -> None:
    bus.put(1)
    for value in (b"", b"rubbish", None, b"\x00\x00\x00\x00\x63" + b"x"):
        bus.producer.produce(bus.tenant.events_topic, value, "k")
    bus.producer.flush(10)
    bus.put(2)
    with bus.window() as window:
        assert sorted(found["event_id"] for batch in window.events(NINE, TEN) for found in batch) == ["e1", "e2"]
        assert window.undecodable == 4


def test_a_read_ends_at_the_watermark_of_its_start(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.topic_reader, "_BATCH", 10)
    bus.put(*range(50))
    with bus.window() as window:
        batches = window.events(NINE, TEN)
        found = [*next(batches)]
        bus.put(*range(100, 150))
        for batch in batches:
            found += batch
    assert sorted(item["timestamp"] - NINE_MS for item in found) == list(range(50))


def test_records_published_before_the_span_are_not_read(bus: Bus) -> None:
    bus.put(1, published_ms=NINE_MS - 3_600_000)
    bus.put(2, published_ms=NINE_MS - 60_000)  # a vendor's clock that is ahead
    bus.put(3)
    assert bus.read() == ["e2", "e3"]


def test_aborted_transactions_are_not_read_and_hold_nothing_up(bus: Bus) -> None:
    transactional = Producer({**bus.settings.kafka.client_config(), "transactional.id": bus.tenant.tenant_id})
    transactional.init_transactions(20)
    transactional.begin_transaction()
    bus.put(1, 2, 3, producer=transactional)
    transactional.commit_transaction(20)
    transactional.begin_transaction()
    bus.put(4, 5, 6, producer=transactional)
    transactional.abort_transaction(20)
    assert bus.read() == ["e1", "e2", "e3"]


def test_dead_letters_with_their_headers(bus: Bus) -> None:
    headers: list[tuple[str, str | bytes | None]] = [("ccaas.error.reason", b"unparsable"), ("empty", None)]
    bus.producer.produce(bus.tenant.dlq_topic, b"{", headers=headers)
    bus.producer.produce(bus.tenant.dlq_topic, b"old", timestamp=NINE_MS - 3_600_000)
    bus.producer.flush(10)
    with bus.window() as window:
        letters = [letter for batch in window.dead_letters(NINE) for letter in batch]
    # Offsets decide, not each record's time: what lies behind the first one is read.
    assert [letter.value for letter in letters] == [b"{", b"old"]
    assert letters[0].headers == {"ccaas.error.reason": b"unparsable", "empty": None}


def test_retention_says_since_when_everything_is_there(bus: Bus) -> None:
    with bus.window() as window:
        assert window.complete_since() is None
    published = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    bus.put(*range(30), published_ms=NINE_MS)
    bus.empty()
    bus.put(*range(30, 60), published_ms=int(published.timestamp() * 1000))
    # By time, only what was published longer ago than the retention can be gone, however young the first record is.
    assert_near(bus.complete_since(), datetime.now(UTC) - timedelta(milliseconds=bus.tenant.retention_ms))
    bus.configure("retention.ms", 60_000)
    assert bus.complete_since() == published, "nothing behind the first record left is gone"
    bus.configure("retention.ms", -1)
    assert bus.complete_since() is None
    bus.configure("retention.bytes", 1_000_000_000)
    assert bus.complete_since() == published, "by size everything before the first record may be gone"


def test_a_partition_that_retention_emptied_holds_all_that_is_young(bus: Bus) -> None:
    bus.put(*range(30), published_ms=NINE_MS)
    bus.empty()
    assert_near(bus.complete_since(), datetime.now(UTC) - timedelta(milliseconds=bus.tenant.retention_ms))
    bus.configure("retention.bytes", 1_000_000_000)
    assert_near(bus.complete_since(), datetime.now(UTC))


def assert_near(found: datetime | None, wanted: datetime) -> None:
    assert found is not None
    assert abs(found - wanted) < timedelta(minutes=5)


def test_errors_are_no_sign_of_life(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that answers every fetch with an error: only a stand-in does so on demand."""

    class Erring:
        def consume(self, *_: object) -> list[Any]:
            time.sleep(0.01)
            return [Erring()]

        def error(self) -> KafkaError:
            return KafkaError(KafkaError._TRANSPORT)

        def __getattr__(self, _name: str) -> Any:
            return lambda *_: None

    monkeypatch.setattr(streaming.topic_reader, "_SILENT_S", 0.2)
    with bus.window() as window:
        reader = window._reader
        real, reader._consumer = reader._consumer, Erring()  # type: ignore[assignment]
        with pytest.raises(ServiceUnavailableError, match="gave nothing"):
            list(reader.read({Place(bus.tenant.events_topic, 0): Span(0, 1)}))
        reader._consumer = real


def test_a_broker_that_does_not_answer(platform: Platform, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.topic_reader, "TIMEOUT_S", 0.3)
    bus.settings = Settings(kafka=KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}"))
    with bus.window() as window, pytest.raises(ServiceUnavailableError, match=bus.tenant.events_topic):
        list(window.events(NINE, TEN))
    with bus.window() as window, pytest.raises(ServiceUnavailableError, match=bus.tenant.events_topic):
        window.complete_since()
