"""A tenant's events on the real bus, and rows of the warehouse that stand for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Producer

from schemas.canonical import CanonicalEvent
from schemas.registry import Registry
from streaming.instants import to_ms
from streaming.topics import ensure_topics
from tests.conftest import Platform
from warehouse.engine import Warehouse, publish_read_copy, writer


class Bus:
    """A tenant's topic of two partitions."""

    def __init__(self, platform: Platform) -> None:
        # Everything that a test publishes now is published before it. Kafka refuses times of more than an hour ahead.
        self.until = datetime.now(UTC) + timedelta(minutes=10)
        self.tenant_id = platform.add_tenant("genesys", "north")
        self.settings = platform.settings()
        ensure_topics(self.settings.kafka, self.settings.tenants)
        self.topic = self.settings.tenants[0].events_topic
        registry = Registry(self.settings.registry)
        self._encoder = registry.encoder()
        registry.close()

    def event(self, name: str) -> CanonicalEvent:
        return {
            "event_id": f"{name}-{self.tenant_id}",
            "vendor": "genesys",
            "tenant_id": self.tenant_id,
            "timestamp": to_ms(self.until - timedelta(days=2)),
            "event_type": "agent.status_changed",
            "payload": {"agent_id": "ANNA", "agent_status": "IDLE"},
            "metadata": {},
        }

    def publish(
        self, *names: str, partition: int = 0, transaction: bool | None = None, timestamp: datetime | None = None
    ) -> list[int]:
        """Events by name (``!`` is no event at all), in a transaction that is committed or not; gives the offsets."""
        producer = Producer(
            self.settings.kafka.client_config()
            | ({} if transaction is None else {"transactional.id": f"t-{self.tenant_id}"})
        )
        offsets: list[int] = []
        if transaction is not None:
            producer.init_transactions(20)
            producer.begin_transaction()
        at_ms = to_ms(timestamp or datetime.now(UTC))
        for name in names:
            value = b"!" if name == "!" else self._encoder.encode(self.event(name))
            producer.produce(
                self.topic, value, partition=partition, timestamp=at_ms,
                on_delivery=lambda _, message: offsets.append(message.offset() or 0),
            )  # fmt: skip
        assert producer.flush(20) == 0
        if transaction is not None:
            (producer.commit_transaction if transaction else producer.abort_transaction)(20)
        return offsets

    def row(self, name: str, offset: int, partition: int = 0) -> dict[str, Any]:
        event = self.event(name)
        place = {"topic": self.topic, "partition": partition, "offset": offset}
        kept = {key: event[key] for key in ("event_id", "vendor", "tenant_id", "event_type")}
        at = {"timestamp_ms": event["timestamp"], "timestamp": self.until - timedelta(days=2), "agent_id": "ANNA"}
        return kept | place | at | {"payload": "{}", "metadata": "{}", "load_id": 1}


def insert(warehouse: Warehouse, table: sa.Table, *rows: dict[str, Any]) -> None:
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.insert(table), list(rows))
    publish_read_copy(warehouse, force=True)
