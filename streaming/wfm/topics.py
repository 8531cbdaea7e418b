"""The three topics that live figures have for each tenant, all of one partition."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka.cimpl import NewTopic

from streaming.settings import KafkaSettings, Tenant
from streaming.topics import MAX_RECORD_BYTES, ensure

LIVE = "wfm.live"
"""Kind of the topics of live figures."""

_DAY_MS = 24 * 3_600_000
# Compaction leaves the newest segment alone: a new one every hour keeps what a reader has to pass short.
_SEGMENT_MS = 3_600_000


def facts_topic(tenant: Tenant) -> str:
    """What the members read from the tenant's events; as long on Kafka as the events themselves."""
    return tenant.topic("wfm.facts")


def state_topic(tenant: Tenant) -> str:
    """The state at the end of an interval, with the offsets that belong to it."""
    return tenant.topic("wfm.state")


def live_topic(tenant: Tenant) -> str:
    """Live figures, compacted by key. What is not published anew for two days is gone."""
    return tenant.topic(LIVE)


def ensure_wfm_topics(settings: KafkaSettings, tenants: Iterable[Tenant]) -> None:
    """Make those that are missing; raises as :func:`streaming.topics.ensure`."""
    compacted = {"cleanup.policy": "compact", "segment.ms": str(_SEGMENT_MS)}
    wanted = []
    for tenant in tenants:
        for name, config in (
            (facts_topic(tenant), {"retention.ms": str(tenant.retention_ms)}),
            (state_topic(tenant), compacted),
            (live_topic(tenant), {**compacted, "cleanup.policy": "compact,delete", "retention.ms": str(2 * _DAY_MS)}),
        ):
            wanted.append(
                NewTopic(
                    name,
                    num_partitions=1,
                    replication_factor=settings.replication_factor,
                    config={**config, "max.message.bytes": str(MAX_RECORD_BYTES)},
                )
            )
    ensure(settings, wanted)
