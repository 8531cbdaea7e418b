"""Which life of a topic an offset belongs to: a topic that is deleted and made anew begins at 0 again."""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streaming.errors import ServiceUnavailableError
from streaming.settings import KafkaSettings

_KAFKA_S = 20.0
# Of brokers before 2.8 and of such without KRaft's metadata.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


def incarnations(kafka: KafkaSettings, topics: Collection[str]) -> dict[str, str]:
    """Each topic's name with its id, ``<name>@<id>``: another one for a topic made anew.

    Args:
        kafka: The cluster.
        topics: Asked about. One that is not there is left out; where Kafka gives no ids, it is the name alone.

    Raises:
        ServiceUnavailableError: Kafka does not say.
    """
    if not topics:
        return {}
    # Asked once a rebalance: a client that stays would cost memory and connections.
    admin = AdminClient(kafka.client_config())
    named = {}
    try:
        answers = admin.describe_topics(TopicCollection(list(topics)), request_timeout=_KAFKA_S)
        for topic, answer in answers.items():
            try:
                topic_id = str(answer.result(_KAFKA_S).topic_id)
            except KafkaException as failure:
                if failure.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
            else:
                named[topic] = topic if topic_id == _NO_ID else f"{topic}@{topic_id}"
    except (KafkaException, TimeoutError) as failure:
        msg = f"ids of topics: {failure}"
        raise ServiceUnavailableError(msg) from None
    return named


def topic_of(incarnation: str) -> str:
    """The topic's name."""
    return incarnation.partition("@")[0]
