"""What the live topics say, for those who look: any member can serve any tenant.

A tenant's topic is read once somebody asks for it, and as long as somebody does: a thousand tenants would take memory.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import orjson
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streaming.clients import log_error
from streaming.settings import Settings, owner_of, topic_name
from streaming.wfm.topics import LIVE

log = structlog.get_logger()

Key = tuple[str, ...]
"""Kind and names of a record of the live topic."""

_BATCH = 500
_POLL_S = 0.1
_FORGET_S = 300.0
_AT_ONCE = 50
_LIST_S = 5.0
_KAFKA_S = 5.0
_RETRY_S = 1.0


class _Followed:
    """One live topic."""

    def __init__(self) -> None:
        self.records: dict[Key, dict[str, Any]] = {}
        self.asked = time.monotonic()
        self.complete = threading.Event()

    def take(self, message: Message) -> None:
        """The newest record of a key wins; one of a merger that was replaced is known by its lower version."""
        key: Key = tuple(orjson.loads(message.key() or b"[]"))
        value = message.value()
        if value is None:
            self.records.pop(key, None)
            return
        record = orjson.loads(value)
        held = self.records.get(key)
        if held is None or record["version"] >= held["version"]:
            self.records[key] = record


class LiveView:
    """Follows live topics in a thread of its own.

    Args:
        settings: The platform's.
    """

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()
        self._topics: list[str] = []
        self._listed = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout=_KAFKA_S)

    def tenants(self) -> list[tuple[str, str]]:
        """Vendor and id of the tenants that have live figures, as of the last seconds."""
        return sorted(owner for topic in self._topics if (owner := owner_of(topic, LIVE)))

    def records(self, vendor: str, tenant_id: str, wait_s: float) -> dict[Key, dict[str, Any]] | None:
        """A tenant's records by key, as of now; None if it has no live figures, or they can't be read now.

        Args:
            vendor: Of the tenant.
            tenant_id: Its id.
            wait_s: For so long a topic that nobody looked at may take to be read.
        """
        topic = topic_name(LIVE, vendor, tenant_id)
        if topic not in self._topics:
            return None
        with self._lock:
            followed = self._followed.setdefault(topic, _Followed())
            followed.asked = time.monotonic()
        if not followed.complete.wait(wait_s):
            return None
        with self._lock:
            return dict(followed.records)

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = Consumer(
                {
                    **self._kafka.client_config(),
                    # Never joined: partitions are assigned by hand.
                    "group.id": "wfm-live-view",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 100,
                    "queued.max.messages.kbytes": 8 * 1024,
                    "error_cb": log_error,
                }
            )
            try:
                self._follow(consumer)
            except KafkaException as error:
                log.warning("live topics can't be read; trying again", error=str(error))
                self._stop.wait(_RETRY_S)
            finally:
                with self._lock:
                    self._followed.clear()
                consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        assigned: set[str] = set()
        while not self._stop.is_set():
            now = time.monotonic()
            if now - self._listed > _LIST_S or not self._topics:
                self._topics = [
                    topic for topic in consumer.list_topics(timeout=_KAFKA_S).topics if owner_of(topic, LIVE)
                ]
                self._listed = now
            with self._lock:
                by_age = sorted(self._followed, key=lambda topic: self._followed[topic].asked)
                old = [topic for topic in by_age if now - self._followed[topic].asked > _FORGET_S]
                for topic in {*old, *by_age[: max(0, len(by_age) - _AT_ONCE)]}:
                    del self._followed[topic]
                wanted = set(self._followed)
            if gone := assigned - wanted:
                consumer.incremental_unassign([TopicPartition(topic, 0) for topic in gone])
            if new := wanted - assigned:
                consumer.incremental_assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in new])
            assigned = wanted
            self._take(consumer.consume(_BATCH, _POLL_S) if assigned else self._rest())

    def _rest(self) -> list[Message]:
        self._stop.wait(_POLL_S)
        return []

    def _take(self, messages: list[Message]) -> None:
        with self._lock:
            for message in messages:
                followed = self._followed.get(str(message.topic()))
                if followed is None:
                    continue
                error = message.error()
                if error is None:
                    try:
                        followed.take(message)
                    except (ValueError, KeyError, TypeError) as failure:
                        log.warning("a record of a live topic is passed over", topic=message.topic(),
                                    offset=message.offset(), error=type(failure).__name__)  # fmt: skip
                elif error.code() == KafkaError._PARTITION_EOF:
                    followed.complete.set()
                else:
                    log.warning("reading live figures", topic=message.topic(), error=error.str())
