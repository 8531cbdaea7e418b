"""The producer of the event path: canonical events and dead letters, acknowledged by all replicas."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from prometheus_client import Counter

from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from streaming.clients import durable
from streaming.deadletter import Headers, own_headers
from streaming.drift import DriftWatch
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.settings import Settings, Tenant
from streaming.topics import MAX_RECORD_BYTES

log = structlog.get_logger()

published = Counter("ccaas_events_published", "Canonical events acknowledged by Kafka", ["vendor", "tenant_id"])
dead_lettered = Counter("ccaas_events_dead_lettered", "Dead letters acknowledged by Kafka", ["vendor", "tenant_id"])

# Bound of what may wait in memory; at it the caller pauses its input, nothing is dropped.
_MAX_QUEUED_RECORDS = 100_000
_MAX_QUEUED_KBYTES = 256 * 1024
# Key, headers and framing beside a record's value.
_OVERHEAD_BYTES = 16 * 1024
MAX_VALUE_BYTES = MAX_RECORD_BYTES - _OVERHEAD_BYTES
"""Of an event or a dead letter."""

RECEIVED_AT = "ccaas.received_at"
"""Header: when this platform received the event, epoch µs as text. For latency; never for event time."""

TRANSPORT = "ccaas.transport"
"""Header: how the event came (sse, websocket, webhook, rest)."""


class Publisher:
    """Sends events to their tenants' topics.

    ``publish`` only queues; ``poll`` runs the callbacks of what Kafka acknowledged. A record that Kafka refuses for
    good is never acknowledged: ``take_refusal`` says so, and the caller reads that tenant again from its durable input
    (spool, cursor). Use one instance from one thread.

    Args:
        settings: Kafka and producer settings.
        encoder: Under the registered schema.
        client_id: Name in the broker's logs and metrics.
    """

    def __init__(self, settings: Settings, encoder: Encoder, client_id: str) -> None:
        self._encoder = encoder
        self._fatal: KafkaError | None = None
        self._refused: dict[str, KafkaError] = {}
        self._queued_bytes = 0
        self._counters: dict[str, Counter] = {}
        # A tool with no place for a state database has nobody to tell.
        has_state = settings.state.url is not None or settings.data_dir.is_absolute()
        self._drift = DriftWatch(settings.state_url) if has_state else None
        self._producer = Producer(
            {
                **durable(settings.kafka, client_id),
                "linger.ms": settings.producer.linger_ms,
                "batch.size": settings.producer.batch_size,
                "queue.buffering.max.messages": _MAX_QUEUED_RECORDS,
                "queue.buffering.max.kbytes": _MAX_QUEUED_KBYTES,
            }
        )

    def encode(self, event: CanonicalEvent) -> bytes:
        """The value of an event's record.

        Raises:
            BadEventError: it fits neither the schema nor a record.
        """
        value = self._encoder.encode(event)
        if len(value) > MAX_VALUE_BYTES:
            msg = f"a record of {len(value)} bytes, more than {MAX_VALUE_BYTES}"
            raise BadEventError(msg, reason="too_large")
        return value

    def publish(
        self,
        tenant: Tenant,
        event: CanonicalEvent,
        value: bytes,
        *,
        received_us: int,
        transport: str,
        acknowledged: Callable[[], None],
    ) -> None:
        """Queue a canonical event.

        Args:
            tenant: Whose it is.
            event: From the normaliser.
            value: From :meth:`encode`: all of a message's events are encoded before the first is queued.
            received_us: When it was received, epoch µs.
            transport: How it came.
            acknowledged: Called by ``poll`` once all in-sync replicas have it.

        Raises:
            BufferError: the queue is full; poll and call again.
        """
        key = event["event_id"]
        if tenant.partition_key == "conversation_id":
            key = event["payload"].get("conversation_id", key)
        headers: Headers = [(RECEIVED_AT, b"%d" % received_us), (TRANSPORT, transport.encode())]
        self._produce(tenant.events_topic, key.encode(), value, headers, self._counter(tenant), acknowledged)
        if self._drift is not None:
            self._drift.see_event(tenant, event)

    def _counter(self, tenant: Tenant) -> Counter:
        """The tenant's counter; kept, since looking up labels costs as much as counting."""
        counter = self._counters.get(tenant.events_topic)
        if counter is None:
            counter = self._counters[tenant.events_topic] = published.labels(tenant.vendor, tenant.tenant_id)
        return counter

    def dead_letter(
        self,
        tenant: Tenant,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        acknowledged: Callable[[], None],
    ) -> None:
        """Queue a dead letter: the original's bytes, cut to what a record can hold; else as :meth:`publish`."""
        key, value, headers = fitting(key, value, headers)
        counter = dead_lettered.labels(tenant.vendor, tenant.tenant_id)
        self._produce(tenant.dlq_topic, key, value, headers, counter, acknowledged)
        if self._drift is not None:
            self._drift.see_dead_letter(tenant, value, headers)

    def notice_dead_letter(self, tenant: Tenant, value: bytes | None, headers: Headers) -> None:
        """Count a dead letter that was written by another producer, in a transaction, and have it told."""
        dead_lettered.labels(tenant.vendor, tenant.tenant_id).inc()
        if self._drift is not None:
            self._drift.see_dead_letter(tenant, value, headers)

    def _produce(  # noqa: PLR0917 (by position: it runs once an event)
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        counter: Counter,
        acknowledged: Callable[[], None],
    ) -> None:
        size = len(value) if value else 0

        def delivered(error: KafkaError | None, _message: Message) -> None:
            self._queued_bytes -= size
            if error is None:
                counter.inc()
                acknowledged()
            elif error.fatal():
                self._fatal = error
            elif topic not in self._refused:
                log.error("Kafka refuses a record; mend the topic or its permissions", topic=topic, error=error.str())
                self._refused[topic] = error

        self._producer.produce(topic, key=key, value=value, headers=list(headers), on_delivery=delivered)
        self._queued_bytes += size

    @property
    def queued(self) -> int:
        """Records not yet acknowledged."""
        return len(self._producer)

    def has_room(self) -> bool:
        """Whether a caller should read more input: below half of both bounds."""
        return len(self._producer) < _MAX_QUEUED_RECORDS // 2 and self._queued_bytes < _MAX_QUEUED_KBYTES * 512

    def poll(self, timeout: float = 0) -> None:
        """Run the callbacks of acknowledged records, waiting for one at most ``timeout`` seconds.

        Raises:
            ServiceUnavailableError: see :meth:`check`.
        """
        self._producer.poll(timeout)
        self.check()

    def check(self) -> None:
        """Raise if the producer can't go on.

        Raises:
            ServiceUnavailableError: start anew from the durable input.
        """
        if self._fatal is not None:
            msg = f"the producer can't go on: {self._fatal.str()}"
            raise ServiceUnavailableError(msg)

    def take_refusal(self, tenant: Tenant) -> KafkaError | None:
        """Why Kafka refused records of a tenant since the last call, None if it did not.

        Those records are lost to this producer; the tenant is to be read again from its durable input. Others go on.
        """
        if not self._refused:
            return None
        return self._refused.pop(tenant.events_topic, None) or self._refused.pop(tenant.dlq_topic, None)

    def has_refusals(self) -> bool:
        """Whether Kafka refused a record that nobody asked about yet."""
        return bool(self._refused)

    def close(self) -> None:
        """Forget what is queued: the next producer reads it again from the durable input, in order."""
        self._producer.purge(in_queue=True, in_flight=True)
        self._producer.poll(0)
        if self._drift is not None:
            self._drift.close()

    def drain(self, timeout: float) -> int:
        """Wait until all is acknowledged, at most ``timeout`` seconds; gives the number that is not."""
        deadline = time.monotonic() + timeout
        while len(self._producer) and (left := deadline - time.monotonic()) > 0:
            self._producer.poll(min(left, 0.1))
        return len(self._producer)

    def reachable(self) -> bool:
        """Whether a broker answers within 2 s."""
        try:
            self._producer.list_topics(timeout=2)
        except KafkaException:
            return False
        return True


def fitting(key: bytes | None, value: bytes | None, headers: Headers) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of a dead letter, cut to what a record can hold.

    The end of the value goes first; if that is not enough, the original's headers and its key go too.
    """
    room = MAX_VALUE_BYTES - len(key or b"") - sum(len(name) + len(text or b"") for name, text in headers)
    if room < 0:
        key, headers = None, own_headers(headers)
        room = MAX_VALUE_BYTES
    return key, value if value is None else value[:room], headers
