"""The real broker and the real registry."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from rich.console import Console

from devstack.errors import PortTakenError, StackError
from devstack.guard import is_alive
from devstack.ports import free_port, is_free
from devstack.stack import LocalStack
from tests.devstack.leftovers import marked_with, still_there

OWNER = """
import sys, time
from pathlib import Path
from devstack.stack import LocalStack
with LocalStack(Path(sys.argv[1])) as stack:
    print(stack.bootstrap_servers, stack.registry_url, flush=True)
    time.sleep(600)
"""


@contextmanager
def owner_of(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts a stack, killed at the latest when the block ends."""
    command = [sys.executable, "-c", OWNER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        try:
            yield owner
        finally:
            owner.kill()


def create_topic(bootstrap_servers: str, **config: str) -> str:
    name = f"topic-{uuid.uuid4().hex[:8]}"
    topic = NewTopic(name, num_partitions=2, replication_factor=1, config=config)
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})  # its futures fail when it is collected
    admin.create_topics([topic])[name].result(20)
    return name


def produce(bootstrap_servers: str, topic: str, value: bytes, **config: object) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all", "log_level": 0, **config})
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: failures.append(error))
    assert producer.flush(20) == 0
    assert failures == [None]


def first_value(bootstrap_servers: str, topic: str) -> bytes | None:
    config = {"bootstrap.servers": bootstrap_servers, "group.id": uuid.uuid4().hex, "fetch.message.max.bytes": 20 << 20}
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(10)
        return message.value() if message is not None else None
    finally:
        consumer.close()


def record(name: str, *fields: Mapping[str, object]) -> Schema:
    return Schema(json.dumps({"type": "record", "name": name, "fields": fields}), "AVRO")


def test_a_record_goes_through_the_broker(stack: LocalStack) -> None:
    topic = create_topic(stack.bootstrap_servers)
    produce(stack.bootstrap_servers, topic, b"one")
    assert first_value(stack.bootstrap_servers, topic) == b"one"


def test_a_transaction_commits(stack: LocalStack) -> None:
    topic = create_topic(stack.bootstrap_servers)
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"in a transaction", partition=0)
    producer.commit_transaction(20)
    assert first_value(stack.bootstrap_servers, topic) == b"in a transaction"


def test_a_dead_letter_of_16_mib_fits(stack: LocalStack) -> None:
    topic = create_topic(stack.bootstrap_servers, **{"max.message.bytes": str(17 << 20)})
    value = bytes(16 << 20)
    produce(stack.bootstrap_servers, topic, value, **{"message.max.bytes": 17 << 20})
    assert first_value(stack.bootstrap_servers, topic) == value


def test_topics_are_not_made_by_accident(stack: LocalStack) -> None:
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "message.timeout.ms": 2000})
    errors: list[str] = []
    producer.produce(
        "nobody-made-me", b"x", on_delivery=lambda error, _: errors.append(error.name() if error else "delivered")
    )
    producer.flush(10)
    assert errors in (["UNKNOWN_TOPIC_OR_PART"], ["_UNKNOWN_TOPIC"], ["_MSG_TIMED_OUT"])
    topics = AdminClient({"bootstrap.servers": stack.bootstrap_servers}).list_topics(timeout=10).topics
    assert "nobody-made-me" not in topics


def test_a_killed_broker_comes_back_on_its_port_with_its_records(stack: LocalStack) -> None:
    assert stack.kafka is not None
    address = stack.bootstrap_servers
    topic = create_topic(address)
    produce(address, topic, b"kept")
    waiting = Producer({"bootstrap.servers": address, "log_level": 0})
    stack.kafka.kill()
    assert is_free(stack.kafka.port)
    outcome: list[object] = []
    waiting.produce(topic, b"sent while it was down", partition=0, on_delivery=lambda error, _: outcome.append(error))
    waiting.flush(0.5)
    assert outcome == []
    stack.kafka.start()
    assert waiting.flush(20) == 0
    assert outcome == [None]
    assert stack.bootstrap_servers == address
    assert first_value(address, topic) == b"kept"


def test_a_stopped_broker_refuses_and_starts_again(stack: LocalStack) -> None:
    assert stack.kafka is not None
    stack.kafka.stop()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": stack.bootstrap_servers, "log_level": 0}).list_topics(timeout=1)
    stack.kafka.start()
    stack.kafka.start()  # running already: nothing happens
    AdminClient({"bootstrap.servers": stack.bootstrap_servers}).list_topics(timeout=10)


def test_full_compatibility_refuses_what_breaks_readers_or_writers(stack: LocalStack) -> None:
    subject = f"com.example.{uuid.uuid4().hex}"
    one = {"name": "a", "type": "string"}
    optional = {"name": "b", "type": ["null", "long"], "default": None}
    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        first = client.register_schema(subject, record("R", one))
        client.set_compatibility(subject, "FULL")
        with pytest.raises(SchemaRegistryError) as caught:
            client.register_schema(subject, record("R", one, {"name": "b", "type": "long"}))
        assert caught.value.http_status_code == httpx.codes.CONFLICT
        assert client.register_schema(subject, record("R", one, optional)) != first
        assert client.register_schema(subject, record("R", one)) == first


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_schemas_and_their_ids_outlive_the_registry(stack: LocalStack, way: str) -> None:
    assert stack.registry is not None
    subject = f"com.example.{uuid.uuid4().hex}"
    schema = record("R", {"name": "a", "type": "string"})
    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        identity = client.register_schema(subject, schema)
    getattr(stack.registry, way)()  # at once: a write still on its way to the disk would be lost
    with pytest.raises(httpx.ConnectError):
        httpx.get(stack.registry_url, trust_env=False)
    stack.registry.start()
    with SchemaRegistryClient({"url": stack.registry_url}) as fresh:
        assert fresh.get_latest_version(subject).schema_id == identity
        assert fresh.register_schema(subject, schema) == identity


def test_a_port_that_is_taken_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            LocalStack(
                tmp_path, kafka_port=port, registry_url="http://127.0.0.1:1", console=Console(quiet=True)
            ).__enter__()
    message = str(caught.value)
    for part in (f"port {port}", "Kafka", f"pid {psutil.Process().pid}", "kafka.bootstrap_servers"):
        assert part in message


def test_addresses_of_a_cluster_that_exists_are_used_instead(tmp_path: Path) -> None:
    brokers, registry = "broker1:9092,broker2:9092", "https://registry.example"
    with LocalStack(tmp_path, kafka_bootstrap=brokers, registry_url=registry) as external:
        assert (external.kafka, external.registry) == (None, None)
        assert external.environment() == {
            "CCAAS_KAFKA__BOOTSTRAP_SERVERS": brokers,
            "CCAAS_REGISTRY__URL": registry,
        }
        assert marked_with("CCAAS_STACK_ID", external.processes.stack_id) == []


def test_addresses_are_not_known_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="not started"):
        _ = LocalStack(tmp_path).bootstrap_servers


def test_ports_are_given_out_once_and_below_the_ephemeral_range() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 30_000


def test_kill_9_of_the_owner_leaves_nothing_and_the_next_start_finds_its_data(tmp_path: Path) -> None:
    with owner_of(tmp_path) as owner:
        assert owner.stdout is not None
        bootstrap_servers, registry_url = owner.stdout.readline().split()
        topic = create_topic(bootstrap_servers)
        produce(bootstrap_servers, topic, b"kept")
        schema = record("R", {"name": "a", "type": "string"})
        with SchemaRegistryClient({"url": registry_url}) as client:
            identity = client.register_schema("s", schema)
        stack_id = json.loads((tmp_path / "stack.json").read_text())["stack_id"]
        children = marked_with("CCAAS_STACK_ID", stack_id)
        assert len(children) == 2
        owner.kill()
    # No pause: the next start must cope with servers that are still on their way out.
    with LocalStack(tmp_path) as again:
        assert [process for process in children if is_alive(process)] == []
        assert first_value(again.bootstrap_servers, topic) == b"kept"
        with SchemaRegistryClient({"url": again.registry_url}) as client:
            assert client.get_latest_version("s").schema_id == identity


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    with owner_of(tmp_path) as owner:
        state = tmp_path / "stack.json"
        deadline = time.monotonic() + 30
        while not (state.exists() and json.loads(state.read_text())["processes"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = marked_with("CCAAS_STACK_ID", json.loads(state.read_text())["stack_id"])
        owner.send_signal(2)
        output, errors = owner.communicate(timeout=30)
    assert output == ""
    assert "KeyboardInterrupt" in errors
    assert still_there(children) == []
    assert not state.exists()
