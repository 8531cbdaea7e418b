"""``reprocess``: how fast one process replays dead letters, beside a bare consume → produce loop in transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.consuming import genesys_tenant
from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.messages import genesys_call
from streaming.deadletter import Headers, dead_letter_headers
from streaming.errors import BadEventError
from streaming.reprocess.fixups import FixUps
from streaming.reprocess.run import Order, reprocess
from streaming.settings import Settings, Tenant
from streaming.topics import ensure_topics

_LETTERS = 105_000
_PER_TRANSACTION = 5_000
_PEER = "bare loop"
_DEADLINE_S = 120.0
# The vendor called the conversation's id otherwise for a while.
_FIX = {"op": "rename", "path": "eventBody.conversationIdentifier", "to": "eventBody.conversationId"}


def run(lab: Lab, rounds: int, letters: int = _LETTERS) -> list[Figure]:
    """In every round: a tenant's dead letters are written, then read and replayed by each side."""
    settings = Settings(
        kafka={"bootstrap_servers": lab.stack.bootstrap_servers},
        registry={"url": lab.stack.registry_url},
        data_dir=lab.folder,
    )
    ours, bare = [], []
    # A round that does not count: the broker's compiler has seen the work once.
    for number in range(rounds + 1):
        tenant = genesys_tenant(f"bench-{number}")
        ensure_topics(settings.kafka, [tenant])
        _fill(settings, tenant, letters)
        bare.append(_bare(settings, tenant, letters))
        ours.append(_replay(settings, tenant, letters))
    goal = Goal(15_000, "value", "at least")
    return [Figure("dead letters replayed", "records/s", ours[1:], "more", _PEER, bare[1:], goal)]


def _values(letters: int) -> Iterator[bytes]:
    call = 0
    while True:
        for message in genesys_call(call):
            body = message["eventBody"]
            if "conversationId" in body:
                body["conversationIdentifier"] = body.pop("conversationId")
            yield orjson.dumps(message)
            letters -= 1
            if not letters:
                return
        call += 1


def _fill(settings: Settings, tenant: Tenant, letters: int) -> None:
    missing = BadEventError(
        "eventBody.conversationId: missing", reason="missing_field", path="eventBody.conversationId"
    )
    producer = Producer({**settings.kafka.client_config(), "linger.ms": 20, "compression.type": "lz4"})
    for value in _values(letters):
        headers = dead_letter_headers(missing, stage="normalise", transport="sse")
        _when_room(producer, lambda v=value, h=headers: producer.produce(tenant.dlq_topic, v, headers=h))  # type: ignore[misc]
    producer.flush(_DEADLINE_S)


def _replay(settings: Settings, tenant: Tenant, letters: int) -> float:
    began = time.monotonic()
    report = reprocess(settings, tenant, Order(fixups=FixUps([_FIX]), run_id="bench"))
    seconds = time.monotonic() - began
    if report.events != letters:
        msg = f"{report.events} of {letters} dead letters replayed"
        raise RuntimeError(msg)
    return letters / seconds


def _bare(settings: Settings, tenant: Tenant, letters: int) -> float:
    """confluent_kafka alone: values read are produced to another topic, in transactions of the same size."""
    topic = f"{tenant.events_topic}.bare"
    admin = AdminClient(settings.kafka.client_config())
    for future in admin.create_topics([NewTopic(topic, tenant.partitions, 1)]).values():
        future.result(30)
    began = time.monotonic()
    consumer = Consumer({**settings.kafka.client_config(), "group.id": "bare", "enable.auto.commit": False})
    consumer.assign([TopicPartition(tenant.dlq_topic, 0, 0)])
    producer = Producer(
        {
            **settings.kafka.client_config(),
            "transactional.id": topic,
            "compression.type": "lz4",
            "linger.ms": 10,
            "queue.buffering.max.messages": 2 * _PER_TRANSACTION,
        }
    )
    producer.init_transactions(30)
    headers: Headers = [("ccaas.transport", b"sse")]
    done = 0
    try:
        while done < letters:
            producer.begin_transaction()
            until = min(done + _PER_TRANSACTION, letters)
            while done < until:
                for message in consumer.consume(min(1_000, until - done), 1.0):
                    producer.produce(topic, message.value(), str(message.offset()), headers=headers)
                    done += 1
            producer.commit_transaction(30)
            if time.monotonic() - began > _DEADLINE_S:
                msg = f"the bare loop has sent {done} of {letters} in {_DEADLINE_S:.0f} s"
                raise TimeoutError(msg)
    finally:
        consumer.close()
    return letters / (time.monotonic() - began)


def _when_room(producer: Producer, send: Callable[[], None]) -> None:
    while True:
        try:
            send()
        except BufferError:
            producer.poll(0.05)
        else:
            return
