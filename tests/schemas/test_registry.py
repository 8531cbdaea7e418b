"""Registration on the real registry, and our topics as others read them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import DeserializingConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import StringDeserializer

from devstack.stack import LocalStack
from schemas.canonical import SUBJECT, latest_schema
from schemas.normalise import normaliser
from schemas.registry import IncompatibleSchemaError, Registry
from streaming.errors import ServiceUnavailableError
from streaming.publisher import Publisher
from streaming.settings import KafkaSettings, RegistrySettings, Settings, Tenant
from streaming.topics import ensure_topics
from tests.schemas.messages import genesys, raw


@pytest.fixture
def registry(stack: LocalStack) -> Iterator[Registry]:
    made = Registry(RegistrySettings(url=stack.registry_url))
    yield made
    made.close()


def test_registering_again_gives_the_same_id_and_the_subject_is_full(registry: Registry, stack: LocalStack) -> None:
    first = registry.register(latest_schema())
    assert registry.register(latest_schema()) == first
    assert json.loads(registry.schema_of(first)) == json.loads(latest_schema())
    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        assert client.get_compatibility(SUBJECT) == "FULL"


def test_a_schema_that_is_not_full_compatible_is_refused(registry: Registry) -> None:
    registry.register(latest_schema())
    schema = json.loads(latest_schema())
    schema["fields"].append({"name": "must", "type": "string"})
    with pytest.raises(IncompatibleSchemaError, match="not FULL compatible"):
        registry.register(json.dumps(schema))


def test_an_unknown_id_and_a_registry_that_is_down_are_different_things(registry: Registry) -> None:
    with pytest.raises(KeyError):
        registry.schema_of(999_999)
    down = Registry(RegistrySettings(url="http://127.0.0.1:9/apis/ccompat/v7"))
    with pytest.raises(ServiceUnavailableError):
        down.schema_of(1)
    down.close()


def test_topics_have_the_tenants_partitions_and_retention(stack: LocalStack) -> None:
    kafka = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    name = f"t-{uuid.uuid4().hex[:8]}"
    tenant = Tenant(tenant_id=name, vendor="genesys", partitions=3, value_class="high")
    ensure_topics(kafka, [tenant])
    ensure_topics(kafka, [tenant])
    admin = AdminClient(kafka.client_config())
    topics = admin.list_topics(timeout=10).topics
    assert len(topics[tenant.events_topic].partitions) == 3
    resource = ConfigResource(ConfigResource.Type.TOPIC, tenant.events_topic)
    config = admin.describe_configs([resource])[resource].result(10)
    assert config["retention.ms"].value == "604800000"
    resource = ConfigResource(ConfigResource.Type.TOPIC, tenant.dlq_topic)
    assert admin.describe_configs([resource])[resource].result(10)["max.message.bytes"].value == str(16 * 1024 * 1024)
    ensure_topics(kafka, [tenant.model_copy(update={"partitions": 5})])
    assert len(admin.list_topics(timeout=10).topics[tenant.events_topic].partitions) == 5


def test_a_plain_deserializing_consumer_reads_our_topics(registry: Registry, stack: LocalStack) -> None:
    kafka = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    tenant = Tenant(tenant_id=f"t-{uuid.uuid4().hex[:8]}", vendor="genesys", partitions=1)
    ensure_topics(kafka, [tenant])
    (event,) = normaliser("genesys").normalise(raw(genesys("customer.start")), tenant.tenant_id)
    publisher = Publisher(Settings(kafka=kafka), registry.encoder(), "test")
    done: list[int] = []
    value = publisher.encode(event)
    publisher.publish(tenant, event, value, received_us=1, transport="sse", acknowledged=lambda: done.append(1))
    assert publisher.drain(20) == 0
    publisher.close()
    assert done == [1]

    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        consumer = DeserializingConsumer(
            {
                "bootstrap.servers": stack.bootstrap_servers,
                "group.id": "anybody",
                "key.deserializer": StringDeserializer(),
                "value.deserializer": AvroDeserializer(client),
            }
        )
        consumer.assign([TopicPartition(tenant.events_topic, 0, 0)])
        message = consumer.poll(20)
        assert message is not None
        assert message.key() == event["event_id"]
        assert message.value() == event
        consumer.close()
