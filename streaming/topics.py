"""Topics of the tenants: made once, with partitions and retention from the settings."""

from __future__ import annotations

from collections.abc import Iterable

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


def ensure_topics(settings: KafkaSettings, tenants: Iterable[Tenant]) -> None:
    """Create the tenants' topics that are missing, and add partitions where the settings ask for more.

    Raises:
        ServiceUnavailableError: the cluster does not answer.
        ConfigurationError: it refuses a topic.
    """
    wanted = {
        name: NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=settings.replication_factor,
            config={"retention.ms": str(tenant.retention_ms), "max.message.bytes": str(MAX_RECORD_BYTES)},
        )
        for tenant in tenants
        for name, partitions in ((tenant.events_topic, tenant.partitions), (tenant.dlq_topic, 1))
    }
    if not wanted:
        return
    admin = AdminClient(settings.client_config())
    try:
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        msg = f"Kafka at {settings.bootstrap_servers} does not answer: {error.args[0].str()}"
        raise ServiceUnavailableError(msg) from None
    missing = [topic for name, topic in wanted.items() if name not in existing]
    for name, future in (admin.create_topics(missing, request_timeout=_TIMEOUT_S) if missing else {}).items():
        try:
            future.result(_TIMEOUT_S)
        except KafkaException as error:
            # Another process was faster: that is what we wanted.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                msg = f"topic {name}: {error.args[0].str()}; mend the tenant's partitions or kafka.replication_factor"
                raise ConfigurationError(msg) from None
        else:
            log.info("topic created", topic=name, partitions=wanted[name].num_partitions)
    grown = [
        NewPartitions(name, topic.num_partitions)
        for name, topic in wanted.items()
        if name in existing and 0 < len(existing[name].partitions) < topic.num_partitions
    ]
    for name, future in (admin.create_partitions(grown, request_timeout=_TIMEOUT_S) if grown else {}).items():
        try:
            future.result(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.INVALID_PARTITIONS:  # another process was faster
                msg = f"topic {name}: {error.args[0].str()}; mend the tenant's partitions"
                raise ConfigurationError(msg) from None
        else:
            log.warning("partitions added; keys move between partitions from now on", topic=name)
