"""From Kafka to the CRM and the state topic, on a real broker with a CRM as a process."""

from __future__ import annotations

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from schemas.canonical import EventType
from streaming.crm.fold import Change
from streaming.settings import Tenant
from streaming.topics import ensure_topics
from tests.kafka import read_all
from tests.streaming.crm.support import CrmPath


def test_every_event_has_one_effect_and_one_state_change(path: CrmPath) -> None:
    with path.process() as member:
        member.wait_ready(60)
        path.send(*path.lives(100))
        path.wait_until_read()
    path.assert_exactly_once()
    assert set(path.crm.asked().values()) == {1}
    states = path.crm.states()
    assert {fields["status"] for fields in states.values()} == {"ended"}
    assert "s3cret" not in member.log.read_text()


def test_an_event_that_is_on_the_bus_twice_has_one_effect(path: CrmPath) -> None:
    events = path.lives(10)
    path.send(*events)
    path.send(*events[::2])
    with path.member():
        path.wait_until_read()
    assert path.crm.keys() == {event["event_id"] for event in events}
    assert len(path.changes()) == len(path.sent), "one for each record; compaction drops the repetition"
    assert len({message.key() for message in path.changes()}) == len(events)


def test_of_two_copies_that_differ_the_first_counts(path: CrmPath) -> None:
    first = path.event(EventType.QUEUED, 1, queue_id="first")
    second = {**first, "payload": {**first["payload"], "queue_id": "second"}}
    path.send(first, second, partition=0)  # type: ignore[arg-type]  # a TypedDict, spread
    with path.member():
        path.wait_until_read()
    (fields,) = path.crm.states().values()
    assert fields["queue_id"] == "first"


def test_a_tenant_that_comes_later_needs_no_restart(path: CrmPath) -> None:
    """Nor do the settings know it."""
    later = Tenant(tenant_id=f"later-{path.platform.suffix}", vendor="cxone", partitions=1)
    event = {**path.event(EventType.STARTED, 2), "vendor": "cxone", "tenant_id": later.tenant_id}
    path.send(path.event(EventType.STARTED, 1))
    with path.member():
        path.wait_until_read()
        ensure_topics(path.settings.kafka, [later])
        producer = Producer(path.settings.kafka.client_config())
        producer.produce(later.events_topic, path.encode(event))  # type: ignore[arg-type]  # a TypedDict, spread
        assert producer.flush(30) == 0
        path.until(lambda: len(path.crm.states()) == 2, 60, "the CRM knows it")
    (message,) = read_all(path.platform, later.topic("crm.state"))
    assert Change.read(message.value() or b"").entity == ("cxone", later.tenant_id, "conversation", "c-2")


def test_the_state_topic_keeps_what_the_tenants_events_keep(path: CrmPath) -> None:
    path.send(path.event(EventType.STARTED, 1))
    with path.member():
        path.wait_until_read()
    admin = AdminClient(path.settings.kafka.client_config())
    topic = ConfigResource(ResourceType.TOPIC, path.tenant.topic("crm.state"))
    config = next(iter(admin.describe_configs([topic]).values())).result(30)
    assert config["cleanup.policy"].value in {"compact,delete", "delete,compact"}
    assert config["retention.ms"].value == str(path.tenant.retention_ms)
    assert len(admin.list_topics(topic.name, timeout=30).topics[topic.name].partitions) == 3
