"""A tenant's dead letters on a real broker: written as the platform writes them, replayed, and looked at."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from typing import Any, cast

import orjson
from confluent_kafka import Message, Producer

from schemas.registry import Registry
from streaming.deadletter import Described, Headers, Origin, dead_letter_headers, described
from streaming.errors import BadEventError
from streaming.reprocess.fixups import FixUps
from streaming.reprocess.memory import _true_ends, ensure_replays_topic
from streaming.reprocess.replays import TOPIC, Outcome, Replay
from streaming.reprocess.report import TenantReport
from streaming.reprocess.run import Order, reprocess
from streaming.reprocess.selection import Selection
from streaming.settings import Settings, Tenant
from streaming.topic_reader import TopicReader
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.processes import until

GENESYS: dict[str, Any] = {
    "token_url": "http://127.0.0.1:9/token", "api_url": "http://127.0.0.1:9", "stream_url": "http://127.0.0.1:9/stream",
    "client_id": "i", "client_secret": "s",
}  # fmt: skip
CXONE: dict[str, Any] = {
    "token_url": "http://127.0.0.1:9/token", "api_url": "http://127.0.0.1:9", "client_id": "i", "client_secret": "s",
    "webhook_tokens": ["token-of-16-chars"], "signature": "hmac", "hmac_secret": "hmac-secret-0001",
}  # fmt: skip
MISSING = BadEventError("contactId: missing", reason="missing_field", path="contactId")


class Letters:
    """One tenant.

    Attributes:
        before_ms: Before any of its letters, epoch ms.
    """

    def __init__(self, platform: Platform, vendor: str, name: str = "letters", partitions: int = 1) -> None:
        self.platform = platform
        connection = GENESYS if vendor == "genesys" else CXONE
        self.tenant = Tenant(
            tenant_id=f"{name}-{platform.suffix}", vendor=vendor, connection=connection, partitions=partitions
        )
        self.settings = Settings(
            kafka={"bootstrap_servers": platform.stack.bootstrap_servers},
            registry={"url": platform.stack.registry_url},
            data_dir=platform.folder,
            tenants=(self.tenant,),
        )
        ensure_topics(self.settings.kafka, [self.tenant])
        ensure_replays_topic(self.settings.kafka)
        self.producer = Producer(self.settings.kafka.client_config() | {"message.max.bytes": 17_000_000})
        self.before_ms = time.time_ns() // 1_000_000

    def put(
        self,
        *values: Any,
        error: BadEventError = MISSING,
        stage: str = "normalise",
        transport: str = "webhook",
        attempt: int = 1,
        key: bytes | None = None,
        origin: Origin | None = None,
        original: Headers | None = None,
        failed_ms: int | None = None,
    ) -> None:
        """Dead letters of one failure; what is no bytes is written as its JSON."""
        for value in values:
            headers = dead_letter_headers(
                error, stage=stage, transport=transport, attempt=attempt, origin=origin,
                original=cast("list[tuple[str, bytes | None]]", original or []),
            )  # fmt: skip
            if failed_ms is not None:
                headers = [(k, str(failed_ms).encode() if k == "ccaas.error.time" else v) for k, v in headers]
            self.put_raw(value if isinstance(value, bytes | None) else json.dumps(value).encode(), headers, key)
        self.settle()

    def put_raw(self, value: bytes | None, headers: Headers, key: bytes | None = None) -> None:
        """Any record."""
        self.producer.poll(0)
        self.producer.produce(self.tenant.dlq_topic, value, key, headers=headers)

    def settle(self) -> None:
        """Until Kafka has all."""
        assert self.producer.flush(30) == 0

    def order(self, *fixups: dict[str, Any], dry_run: bool = False, max_attempts: int = 5, **selected: Any) -> Order:
        return Order(Selection.of(**selected), FixUps(fixups), dry_run, max_attempts, run_id="test")

    def run(self, *fixups: dict[str, Any], **options: Any) -> TenantReport:
        return reprocess(self.settings, self.tenant, self.order(*fixups, **options))

    def records(self, topic: str) -> list[Message]:
        """All that is committed; where transactions ended, no record lies."""
        with TopicReader(self.settings.kafka, "reader") as reader:
            # A commit is sure before readers see it.
            ends = _true_ends(self.settings.kafka, reader.partitions(topic))
            until(lambda: all(reader.watermarks(place).end >= end for place, end in ends.items()), what=topic)
            spans = {place: reader.watermarks(place) for place in ends}
            return [message for batch in reader.read(spans) for message in batch]

    def events(self) -> list[Any]:
        with closing(Registry(self.settings.registry)) as registry:
            decoder = registry.decoder()
            return [decoder.decode(message.value()) for message in self.event_records()]

    def event_ids(self) -> Counter[str]:
        return Counter(event["event_id"] for event in self.events())

    def event_records(self) -> list[Message]:
        return self.records(self.tenant.events_topic)

    def dead(self) -> list[tuple[Described, bytes | None]]:
        """Every dead letter, in order of its offset."""
        records = self.records(self.tenant.dlq_topic)
        return [(described(cast("Headers", m.headers() or []), m.timestamp()[1]), m.value()) for m in records]

    def replays(self) -> list[Replay]:
        """The audit, in order."""
        topic = self.tenant.dlq_topic.encode()
        found = (m for m in self.records(TOPIC) if m.key() == topic)
        return [Replay.model_validate_json(message.value() or b"") for message in found]

    def done(self) -> list[int]:
        """Offsets of partition 0 that replays are done with; one twice if two claim it."""
        spans = (span for replay in self.replays() for span in replay.done.get("0", ()))
        return [offset for first, last in spans for offset in range(first, last + 1)]

    def encoded(self, event: Any) -> bytes:
        """An event as on the bus."""
        with closing(Registry(self.settings.registry)) as registry:
            return registry.encoder().encode(event)


def outcomes(report: TenantReport) -> dict[str, int]:
    """What became of those that were tried."""
    return {outcome.value: report.count(outcome) for outcome in Outcome if report.count(outcome)}


def json_of(value: bytes | None) -> Any:
    return orjson.loads(value or b"")
