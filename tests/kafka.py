"""Reads topics as any consumer would."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.conftest import Platform


def read_all(platform: Platform, topic: str) -> list[Message]:
    """Every record of a topic, up to its present end."""
    consumer = Consumer(
        {
            "bootstrap.servers": platform.stack.bootstrap_servers,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # A partition's end is known once a fetch found nothing for so long.
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        ends = _ends(consumer, topic)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        unread = {number for number, (low, high) in ends.items() if low < high}
        found: list[Message] = []
        deadline = time.monotonic() + 30
        while unread:
            for message in consumer.consume(1000, 0.05):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(int(message.partition() or 0))
            assert time.monotonic() < deadline, f"{topic}: {len(found)} records, {unread} not to their end"
        return found
    finally:
        consumer.close()


@retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(30), wait=wait_fixed(0.2), reraise=True)
def _ends(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    """First and next offset by partition; of a broker that was just started again no partition may be led yet."""
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    return {number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10) for number in partitions}


def read_events(platform: Platform, topic: str) -> list[Any]:
    """Every event of a topic, by Confluent's own AvroDeserializer."""
    context = SerializationContext(topic, MessageField.VALUE)
    with SchemaRegistryClient({"url": platform.stack.registry_url}) as registry:
        deserialise = AvroDeserializer(registry)
        return [deserialise(message.value(), context) for message in read_all(platform, topic)]
