"""A caller's data goes from the CRM's state topic, and the states stay."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from confluent_kafka import Producer
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from schemas.canonical import CanonicalEvent, EventType
from streaming.crm.fold import Change, Entity, State, fold
from streaming.crm.work import STATE
from streaming.erasure.crm_state import clean_crm_state
from streaming.erasure.personal import ADDRESSES, ErasureKey, Mode, Owner, Rule, Suppressed
from streaming.instants import HOUR_MS, to_ms
from streaming.settings import topic_name
from streaming.topics import ensure
from tests.conftest import Platform
from tests.kafka import read_all

KEY = ErasureKey(SecretStr("0123456789abcdef" * 4))


OTHER = b"somebody else's"


def event(tenant: str, number: int, type_: EventType, conversation: str, **payload: str) -> CanonicalEvent:
    return {
        "event_id": f"e{number}",
        "vendor": "genesys",
        "tenant_id": tenant,
        "timestamp": 1_700_000_000_000 + number * 1000,
        "event_type": type_,
        "payload": {"conversation_id": conversation, "queue_id": "q", **payload},
        "metadata": {},
    }


def last_of(platform: Platform, topic: str) -> dict[bytes, bytes]:
    """As compaction leaves the log: of a key the last record, if it has a value."""
    last = {bytes(message.key() or b""): message.value() for message in read_all(platform, topic)}
    return {key: bytes(value) for key, value in last.items() if value is not None}


def states_of(changes: Iterable[bytes]) -> dict[Entity, State]:
    return fold(Change.read(change) for change in changes if change != OTHER)


def without_addresses(states: dict[Entity, State], conversation: str) -> dict[Entity, State]:
    return {
        entity: {name: said for name, said in state.items() if entity.id != conversation or name not in ADDRESSES}
        for entity, state in states.items()
    }


def test_state_changes_are_replaced_under_their_keys(platform: Platform) -> None:
    tenant = platform.add_tenant("genesys", "bank")
    owner, kafka = Owner("genesys", tenant), platform.settings().kafka
    topic = topic_name(STATE, *owner)

    def list_of(mode: Mode) -> Suppressed:
        return Suppressed(KEY, {}, {(owner, KEY.conversation(owner, "c1")): Rule(mode)})

    # Before crm-sync has written anything there is no topic.
    assert clean_crm_state(kafka, owner, list_of("erase")) == 0
    ensure(kafka, [NewTopic(topic, num_partitions=2, config={"cleanup.policy": "compact,delete"})])
    changes = [
        Change.of(event(tenant, 1, EventType.STARTED, "c1", ani="+4930111", dnis="+4930222")),
        Change.of(event(tenant, 2, EventType.QUEUED, "c1", ani="tel:+4930111")),
        Change.of(event(tenant, 3, EventType.HANDLED, "c1", talk_ms="1000")),
        Change.of(event(tenant, 4, EventType.STARTED, "c2", ani="+4930333")),
    ]
    producer = Producer({"bootstrap.servers": platform.stack.bootstrap_servers})
    at_ms = to_ms(datetime.now(UTC)) - HOUR_MS
    for number, change in enumerate(changes):
        producer.produce(topic, change.document(), change.key, partition=number % 2, timestamp=at_ms)
    producer.produce(topic, OTHER, b"x", partition=0, timestamp=at_ms)
    producer.produce(topic, None, b"y", partition=0, timestamp=at_ms)
    producer.flush(20)
    before = states_of(last_of(platform, topic).values())

    assert clean_crm_state(kafka, owner, list_of("pseudonymise"), dry_run=True) == 2
    assert len(read_all(platform, topic)) == 6
    assert clean_crm_state(kafka, owner, list_of("pseudonymise")) == 2
    assert clean_crm_state(kafka, owner, list_of("pseudonymise")) == 0
    replaced = read_all(platform, topic)
    assert len(replaced) == 8
    # Each is in the partition, and of the time, of what it replaces.
    assert len({(message.partition(), message.key()) for message in replaced}) == 6
    assert {message.timestamp()[1] for message in replaced} == {at_ms}
    state = states_of(last_of(platform, topic).values())
    c1 = Entity(*owner, "conversation", "c1")
    token = KEY.pseudonym(owner, "0049 30 111")
    assert (state[c1]["ani"].value, state[c1]["status"].value, state[c1]["talk_ms"].value) == (token, "queued", "1000")
    assert without_addresses(state, "c1") == without_addresses(before, "c1")

    # Asked for more, it goes altogether.
    assert clean_crm_state(kafka, owner, list_of("erase")) == 2
    assert states_of(last_of(platform, topic).values()) == without_addresses(before, "c1")
