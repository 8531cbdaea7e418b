"""The consumers' runtime on a real broker: assignment, expired offsets, holds, rebalances, dead letters, lag."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import REGISTRY

from devstack.stack import LocalStack
from schemas.canonical import CanonicalEvent, latest_schema
from schemas.codec import Decoder, Encoder
from schemas.promoted import PromotedField, with_promoted
from schemas.registry import Registry
from streaming.consumer.member import Member
from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption, Partition
from streaming.errors import BadEventError, FencedError, ServiceUnavailableError
from streaming.publisher import Publisher
from streaming.settings import GroupSettings, RegistrySettings, Settings
from streaming.state import open_state
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import until

SCORE = PromotedField("genesys_score", "genesys.score", "long")


class Recorder:
    """A work that notes what it is given, and commits it when it is to settle."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.wanted: dict[Partition, int] = {}
        self.offsets: list[tuple[Partition, int]] = []
        self.next: dict[Partition, int] = {}
        self.said: list[str] = []
        self.on_take: Callable[[list[Message]], None] = lambda _messages: None
        self.forgotten: set[Partition] = set()

    def first_offsets(
        self,
        partitions: Sequence[Partition],  # noqa: ARG002 (the protocol's)
        committed: Mapping[Partition, int],  # noqa: ARG002
    ) -> Mapping[Partition, int]:
        return self.wanted

    def take(self, messages: list[Message]) -> None:
        self.on_take(messages)
        for message in messages:
            partition = str(message.topic()), int(message.partition() or 0)
            assert partition in self.member.assigned
            self.offsets.append((partition, int(message.offset() or 0)))
            self.next[partition] = int(message.offset() or 0) + 1

    def tick(self) -> None:
        self.said.append("tick")

    def settle(self, deadline: float) -> None:
        assert deadline > time.monotonic()
        self.said.append("settle")
        self.member.commit(self.next)

    def forget(self, partitions: Collection[Partition]) -> None:
        self.said.append("forget")
        self.forgotten.update(partitions)

    def close(self) -> None:
        self.said.append("close")


class Bus:
    """Topics of tenants that nobody else has, and members of a group of their own."""

    def __init__(self, platform: Platform) -> None:
        self.suffix = platform.suffix
        self.platform = platform
        self.settings = Settings(
            kafka={"bootstrap_servers": platform.stack.bootstrap_servers},
            registry={"url": platform.stack.registry_url},
            data_dir=platform.folder,
        )
        self.group = GroupSettings(group=f"group-{self.suffix}", topics=rf"^ccaaus\.events\..*-{self.suffix}$", slots=2)
        self.admin = AdminClient(self.settings.kafka.client_config())
        self.producer = Producer(self.settings.kafka.client_config())
        self.registry = Registry(self.settings.registry)
        self.encoder: Encoder = self.registry.encoder()
        self.name = f"consumer-{self.suffix}"

    def topic(self, tenant: str = "south", partitions: int = 2) -> str:
        name = f"ccaaus.events.cxone.{tenant}-{self.suffix}"
        (made,) = self.admin.create_topics([NewTopic(name, partitions, 1)]).values()
        made.result(20)
        until(lambda: len(self.admin.list_topics(name, timeout=5).topics[name].partitions) == partitions)
        return name

    def delete(self, topic: str) -> None:
        (gone,) = self.admin.delete_topics([topic]).values()
        gone.result(20)

    def expire(self, topic: str, partition: int, offset: int) -> None:
        (gone,) = self.admin.delete_records([TopicPartition(topic, partition, offset)]).values()
        gone.result(20)

    def put(self, topic: str, count: int, partition: int = 0, value: bytes | None = None) -> None:
        for _ in range(count):
            self.producer.produce(topic, value or self.encoder.encode(event()), partition=partition)
        assert self.producer.flush(20) == 0

    def commit(self, topic: str, partition: int, offset: int) -> None:
        consumer = Consumer({**self.settings.kafka.client_config(), "group.id": self.group.group})
        consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
        consumer.close()

    def committed(self, topic: str, partition: int = 0) -> int:
        consumer = Consumer({**self.settings.kafka.client_config(), "group.id": self.group.group})
        try:
            return consumer.committed([TopicPartition(topic, partition)], timeout=20)[0].offset
        finally:
            consumer.close()

    def use(self, stack: LocalStack) -> None:
        """Another registry."""
        self.registry.close()
        self.settings = self.settings.model_copy(update={"registry": RegistrySettings(url=stack.registry_url)})
        self.registry = Registry(self.settings.registry)
        self.encoder = self.registry.encoder()

    @contextmanager
    def member(self, slot: str = "0", *, gather_s: float = 0.0) -> Iterator[Recorder]:
        consumption = Consumption(self.name, self.group, 0, poll_records=100, gather_s=gather_s)
        publisher = Publisher(self.settings, self.encoder, "test")
        decoder: Decoder = self.registry.decoder(as_written=True)
        name = f"{self.group.group}-{slot}"
        member = Member(self.settings, consumption, name, decoder, publisher)
        work = Recorder(member)
        try:
            yield work
        finally:
            member.abandon()
            publisher.close()

    def metric(self, name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"consumer": self.name, **labels}) or 0.0


def event() -> CanonicalEvent:
    return {
        "event_id": uuid.uuid4().hex, "vendor": "cxone", "tenant_id": "south", "timestamp": 1,
        "event_type": "conversation.started", "payload": {}, "metadata": {},
    }  # fmt: skip


@pytest.fixture
def bus(platform: Platform) -> Iterator[Bus]:
    made = Bus(platform)
    yield made
    made.registry.close()


def step_until(work: Recorder, condition: Callable[[], object], what: str = "condition") -> None:
    def stepped() -> object:
        work.member.step()
        return condition()

    until(stepped, seconds=40, what=what)


def read(work: Recorder, partition: Partition) -> list[int]:
    return [offset for found, offset in work.offsets if found == partition]


@pytest.mark.parametrize("gather_s", [0.0, 0.1])
def test_it_reads_from_the_beginning_and_goes_on_at_what_it_settled(bus: Bus, gather_s: float) -> None:
    topic = bus.topic()
    bus.put(topic, 150)
    bus.put(topic, 3, partition=1)
    with bus.member(gather_s=gather_s) as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 153)
        assert read(work, (topic, 0)) == list(range(150))
        work.member.close()
    assert (bus.committed(topic), bus.committed(topic, 1)) == (150, 3)
    bus.put(topic, 1)
    with bus.member(gather_s=gather_s) as work:
        work.member.start(work)
        step_until(work, lambda: work.offsets)
        assert work.offsets == [((topic, 0), 150)]


def test_a_new_tenant_is_read_without_a_restart_and_its_dead_letters_have_a_topic(bus: Bus) -> None:
    first = bus.topic()
    with bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: (first, 1) in work.member.assigned)
        topic = bus.topic("west", partitions=1)
        bus.put(topic, 1, value=b"no Avro")
        letters: list[Message] = []

        def take(messages: list[Message]) -> None:
            for message in messages:
                with pytest.raises(BadEventError) as caught:
                    work.member.decode(message)
                work.member.dead_letter(message, caught.value)
                letters.append(message)

        work.on_take = take
        step_until(work, lambda: letters, "the new tenant's record")
        work.member.settle_dead_letters(time.monotonic() + 20)
    (letter,) = read_all(bus.platform, f"ccaaus.dlq.cxone.west-{bus.suffix}")
    assert letter.value() == b"no Avro"
    said: dict[str, Any] = dict(letter.headers() or [])
    assert said["__connect.errors.topic"] == topic.encode()
    assert said["__connect.errors.stage"] == bus.name.encode()
    assert bus.metric("ccaas_consumer_dead_letters_total") == 1


def test_records_that_expired_before_they_were_read_are_told_and_counted(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 10)
    bus.commit(topic, 0, 2)
    bus.expire(topic, 0, 6)
    with structlog.testing.capture_logs() as said, bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 4)
        assert read(work, (topic, 0)) == [6, 7, 8, 9]
    (told,) = [line for line in said if line["event"].startswith("records expired")]
    assert (told["lost"], told["topic"], told["log_level"]) == (4, topic, "error")
    assert bus.metric("ccaas_consumer_records_expired_total") == 4


def test_records_that_expire_while_a_partition_is_held_are_told_and_counted(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 3)
    with structlog.testing.capture_logs() as said, bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 3)
        work.member.hold([(topic, 0)], 2.0)
        bus.put(topic, 5)
        bus.expire(topic, 0, 6)
        step_until(work, lambda: len(work.offsets) == 5)
        assert read(work, (topic, 0)) == [0, 1, 2, 6, 7]
    assert any(line["event"].startswith("records expired") for line in said)
    assert bus.metric("ccaas_consumer_records_expired_total") == 3


def test_a_topic_made_anew_is_read_from_its_beginning(bus: Bus) -> None:
    topic = bus.topic(partitions=1)
    bus.put(topic, 2)
    bus.commit(topic, 0, 500)
    with structlog.testing.capture_logs() as said, bus.member() as work:
        work.wanted = {(topic, 0): 900}
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 2)
    assert any(line["event"].startswith("offset behind") and line["offset"] == 900 for line in said)


def test_work_may_begin_elsewhere_than_at_the_committed_offset(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 5)
    bus.commit(topic, 0, 1)
    with bus.member() as work:
        work.wanted = {(topic, 0): 3}
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 2)
        assert read(work, (topic, 0)) == [3, 4]


def test_a_held_partition_rests_while_others_go_on_and_a_sought_one_is_read_again(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 4)
    bus.put(topic, 2, partition=1)
    with bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 6)
        work.offsets.clear()
        work.member.seek((topic, 0), 1)
        work.member.hold([(topic, 0)], 1.5)
        held_until = time.monotonic() + 1.5
        bus.put(topic, 2, partition=1)
        step_until(work, lambda: len(work.offsets) == 2)
        assert read(work, (topic, 0)) == []
        step_until(work, lambda: read(work, (topic, 0)))
        assert time.monotonic() >= held_until
        step_until(work, lambda: len(work.offsets) == 5)
        assert read(work, (topic, 0)) == [1, 2, 3]


def test_a_revoke_settles_before_the_other_member_begins(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 50)
    bus.put(topic, 50, partition=1)
    with bus.member("0") as first, bus.member("1") as second:
        first.member.start(first)
        step_until(first, lambda: len(first.offsets) == 100)
        second.member.start(second)

        def both() -> bool:
            first.member.step()
            second.member.step()
            return len(second.member.assigned) == 1 == len(first.member.assigned)

        until(both, seconds=60, what="a partition each")
        (gone,) = second.member.assigned
        assert first.forgotten == {gone}
        assert first.said.index("settle") < first.said.index("forget")
        bus.put(topic, 1, partition=gone[1])
        step_until(second, lambda: second.offsets)
        assert second.offsets == [(gone, 50)], "it begins behind what the first one settled"
        assert read(first, gone) == list(range(50))


def test_a_held_partition_that_comes_back_is_read(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 2)
    with bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 2)
        work.member.hold([(topic, 0), (topic, 1)], 600)
        work.member._consumer.unsubscribe()
        step_until(work, lambda: not work.member.assigned, "given up")
        work.member.start(work)
        step_until(work, lambda: (topic, 0) in work.member.assigned, "it comes back")
        bus.put(topic, 1)
        step_until(work, lambda: ((topic, 0), 2) in work.offsets, "it is read")


def test_partitions_whose_schema_can_t_be_asked_for_wait_and_others_go_on(
    bus: Bus, own_registry: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.consumer.member._REGISTRY_S", 1.0)
    assert own_registry.registry is not None
    topic = bus.topic()
    bus.use(own_registry)
    bus.put(topic, 2)
    bus.put(topic, 1, partition=1)
    with bus.member() as work:

        def decode_all(messages: list[Message]) -> None:
            for message in messages:
                work.member.decode(message)

        work.on_take = decode_all
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 3)
        schema_id = bus.registry.register(with_promoted(latest_schema(), [SCORE]))
        own_registry.registry.stop()
        bus.put(topic, 1)
        bus.put(topic, 1, value=Encoder(with_promoted(latest_schema(), [SCORE]), schema_id).encode(event()))
        bus.put(topic, 1)
        bus.put(topic, 1, partition=1)
        step_until(work, lambda: len(work.offsets) == 5)
        assert (read(work, (topic, 0)), read(work, (topic, 1))) == ([0, 1, 2], [0, 1])
        own_registry.registry.start()
        step_until(work, lambda: len(work.offsets) == 7, "the registry is back")
        assert read(work, (topic, 0)) == [0, 1, 2, 3, 4]


def test_the_end_of_a_transaction_is_no_lag(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.consumer.gauges._EVERY_S", 0.2)
    topic = bus.topic(partitions=1)
    transactional = Producer({**bus.settings.kafka.client_config(), "transactional.id": bus.suffix})
    transactional.init_transactions(20)
    transactional.begin_transaction()
    transactional.produce(topic, bus.encoder.encode(event()))
    transactional.commit_transaction(20)
    with bus.member(gather_s=0.1) as work:
        work.member.start(work)
        step_until(work, lambda: work.offsets)
        step_until(work, lambda: bus.metric("ccaas_consumer_partitions") == 1)
        step_until(work, lambda: bus.metric("ccaas_consumer_lag_records", topic=topic) == 0, "no lag")


def test_after_an_error_nothing_is_settled(bus: Bus) -> None:
    topic = bus.topic()
    bus.put(topic, 3)

    def fail(_messages: list[Message]) -> None:
        msg = "the CRM is down"
        raise ServiceUnavailableError(msg)

    with bus.member() as work:
        work.on_take = fail
        work.member.start(work)
        with pytest.raises(ServiceUnavailableError, match="CRM"):
            step_until(work, lambda: False)
        work.member.abandon()
        assert "settle" not in work.said
    assert bus.committed(topic) < 0


@pytest.mark.parametrize("error", [TypeError("odd"), KafkaException(KafkaError(KafkaError._TIMED_OUT))])
def test_an_error_of_a_callback_comes_out_of_the_step(
    bus: Bus, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.topic()

    def fail(*_: object) -> Mapping[Partition, int]:
        raise error

    with bus.member() as work:
        monkeypatch.setattr(work, "first_offsets", fail)
        work.member.start(work)
        with pytest.raises(TypeError if isinstance(error, TypeError) else ServiceUnavailableError):
            step_until(work, lambda: False)
        assert work.offsets == []


def test_a_second_process_with_the_slot_fences_the_first(bus: Bus) -> None:
    topic = bus.topic()
    with bus.member("0") as first, bus.member("0") as second:
        first.member.start(first)
        step_until(first, lambda: (topic, 0) in first.member.assigned)
        second.member.start(second)
        step_until(second, lambda: (topic, 0) in second.member.assigned)
        with pytest.raises(ServiceUnavailableError, match="fenced"):
            step_until(first, lambda: False)


def test_lag_and_standstill_are_measured(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.consumer.gauges._EVERY_S", 0.2)
    monkeypatch.setattr("streaming.consumer.gauges._STALLED_S", 1.0)
    topic = bus.topic()
    bus.put(topic, 5)
    with bus.member() as work:
        work.member.start(work)
        step_until(work, lambda: len(work.offsets) == 5)
        step_until(work, lambda: bus.metric("ccaas_consumer_partitions") == 2)
        assert bus.metric("ccaas_consumer_lag_records", topic=topic) == 0
        work.member.seek((topic, 0), 2)
        work.member.hold([(topic, 0)], 60)
        step_until(work, lambda: bus.metric("ccaas_consumer_lag_records", topic=topic) == 3, "lag")
        step_until(work, lambda: work.member.gauges.stalled == [(topic, 0)], "standstill")
        assert bus.metric("ccaas_consumer_partitions_stalled") == 1
        assert bus.metric("ccaas_consumer_records_total") == 5


def test_a_member_whose_slot_another_process_took_ends_as_fenced(bus: Bus) -> None:
    bus.topic()
    settings = bus.settings.model_copy(update={"state": bus.settings.state.model_copy(update={"lease_ttl_seconds": 1})})
    consumption = Consumption(bus.name, bus.group.model_copy(update={"slots": 1}), 0, poll_records=10)
    works: list[Recorder] = []

    def make(member: Member) -> Recorder:
        works.append(Recorder(member))
        return works[0]

    ended: list[BaseException] = []

    def run() -> None:
        try:
            run_member(settings, consumption, make, threading.Event())
        except FencedError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: works and works[0].member.assigned, seconds=40)
    engine = open_state(settings.state_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE lease SET holder = 'another', epoch = epoch + 1")
    thread.join(30)
    assert ended
    assert "settle" not in works[0].said
    assert works[0].said[-1] == "close"
    engine.dispose()
