"""Topics of the tenants: made once, with partitions and retention from the settings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.settings import KafkaSettings, Tenant

log = structlog.get_logger()

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""Events may have 8 MiB on a stream and grow a little in the envelope; dead-letter topics take 16 MiB."""

_TIMEOUT_S = 30.0
# KRaft takes 10,000 metadata records at a time; a topic has one, one for each partition and one for each property.
_BATCH = 500
_LED_POLL_S = 0.2
# Too few brokers are up for the replication factor: they may come.
_TRANSIENT = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.INVALID_REPLICATION_FACTOR}


def ensure_topics(settings: KafkaSettings, tenants: Iterable[Tenant]) -> None:
    """Create the tenants' topics that are missing, and add partitions where the settings ask for more.

    Raises:
        ServiceUnavailableError: the cluster does not answer.
        ConfigurationError: it refuses a topic.
    """
    wanted = [
        topic
        for tenant in tenants
        for topic in (
            _topic(settings, tenant, tenant.events_topic, tenant.partitions),
            dead_letter_topic(settings, tenant),
        )
    ]
    ensure(settings, wanted)


def dead_letter_topic(settings: KafkaSettings, tenant: Tenant) -> NewTopic:
    """The tenant's topic of dead letters, for :func:`ensure`."""
    return _topic(settings, tenant, tenant.dlq_topic, 1)


def _topic(settings: KafkaSettings, tenant: Tenant, name: str, partitions: int) -> NewTopic:
    return NewTopic(
        name,
        num_partitions=partitions,
        replication_factor=settings.replication_factor,
        config={"retention.ms": str(tenant.retention_ms), "max.message.bytes": str(MAX_RECORD_BYTES)},
    )


def ensure(settings: KafkaSettings, topics: Iterable[NewTopic]) -> None:
    """Create topics that are missing, and add partitions where there are fewer; raises as :func:`ensure_topics`."""
    wanted = {topic.topic: topic for topic in topics}
    admin = AdminClient(settings.client_config())
    try:
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        msg = f"Kafka at {settings.bootstrap_servers} does not answer: {error.args[0].str()}"
        raise ServiceUnavailableError(msg) from None
    missing = [topic for name, topic in wanted.items() if name not in existing]
    for first in range(0, len(missing), _BATCH):
        created = admin.create_topics(missing[first : first + _BATCH], request_timeout=_TIMEOUT_S)
        _settle(created, KafkaError.TOPIC_ALREADY_EXISTS, "created")
    if missing:
        _wait_until_led(admin, [topic.topic for topic in missing])
    grown = [
        NewPartitions(name, topic.num_partitions)
        for name, topic in wanted.items()
        if name in existing and 0 < len(existing[name].partitions) < topic.num_partitions
    ]
    if grown:
        # Keys move between partitions; consumers do not rely on an order across them (docs/architecture.md).
        _settle(admin.create_partitions(grown, request_timeout=_TIMEOUT_S), KafkaError.INVALID_PARTITIONS, "enlarged")


def _wait_until_led(admin: AdminClient, names: list[str]) -> None:
    """The controller has the topics at once, the brokers a moment later: a record that comes between is refused."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            found = admin.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            msg = f"Kafka does not answer: {error.args[0].str()}"
            raise ServiceUnavailableError(msg) from None
        if all(
            name in found
            and found[name].partitions
            and all(partition.leader >= 0 for partition in found[name].partitions.values())
            for name in names
        ):
            return
        time.sleep(_LED_POLL_S)
    msg = f"topics have no leader after {_TIMEOUT_S:.0f} s, among them one of {names[0]} to {names[-1]}"
    raise ServiceUnavailableError(msg)


def _settle(futures: dict[str, Future[None]], harmless: int, done: str) -> None:
    """Wait for the cluster's answers; the ``harmless`` one says that another process was faster."""
    for name, future in futures.items():
        try:
            future.result(_TIMEOUT_S)
        except KafkaException as error:
            fault = error.args[0]
            if fault.retriable() or fault.code() in _TRANSIENT:
                msg = f"topic {name}: {fault.str()}"
                raise ServiceUnavailableError(msg) from None
            if fault.code() != harmless:
                msg = f"topic {name}: {error.args[0].str()}; mend the tenant's partitions or kafka.replication_factor"
                raise ConfigurationError(msg) from None
        else:
            log.debug("topic settled", topic=name, done=done)
    log.info("topics settled", topics=len(futures), done=done)
