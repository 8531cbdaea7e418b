"""analytics-sink: the loop from Kafka to the landing zone."""

from __future__ import annotations

import threading
import time

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge

from schemas.canonical import CanonicalEvent
from schemas.codec import Decoder
from schemas.registry import Registry
from streaming.deadletter import Origin, dead_letter_headers, headers_of
from streaming.errors import BadEventError, FencedError, ServiceUnavailableError
from streaming.health import HealthServer, Progress
from streaming.lease import LeaseKeeper
from streaming.publisher import Publisher
from streaming.service import prepare, when_available
from streaming.settings import Settings
from streaming.sink.buffer import Buffer
from streaming.sink.landing import LandingZone
from streaming.state import open_state

log = structlog.get_logger()

_POLL_RECORDS = 2_000
_POLL_S = 0.1
# One deadline for all that a revoke or the end does at Kafka.
_DRAIN_S = 20.0

landed_rows = Counter("ccaas_sink_rows_landed", "Events in landing files")
landed_files = Counter("ccaas_sink_files_landed", "Landing files")
buffered_rows = Gauge("ccaas_sink_rows_buffered", "Events waiting for the next file")


class AnalyticsSink:
    """One member of the group, under a leased slot.

    At least once, in this order: 1. read, 2. buffer, 3. dead letters acknowledged, 4. file (fsync, rename), 5. commit.
    A crash between 4 and 5 leaves a file whose offsets are not committed: on assignment the member seeks past what has
    landed.

    Args:
        settings: The platform's.
        slot: Name of the slot: group.instance.id and part of the files' names.
        decoder: For the records' values.
        publisher: For dead letters.
        stop: Ends waiting for the registry.
    """

    def __init__(
        self, settings: Settings, slot: str, decoder: Decoder, publisher: Publisher, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._slot = slot
        self._decoder = decoder
        self._publisher = publisher
        self._buffer = Buffer()
        self.assigned = False
        """Whether this member has partitions; read by the health server's thread."""
        self._flush_due = time.monotonic() + settings.sink.flush_seconds
        self._tenants = {tenant.events_topic: tenant for tenant in settings.tenants}
        self._consumer = Consumer(
            {
                **settings.kafka.client_config(),
                "group.id": settings.sink.group,
                "group.instance.id": slot,
                "client.id": slot,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                # The default of 5 min would hide a new tenant for as long.
                "topic.metadata.refresh.interval.ms": 10_000,
                "session.timeout.ms": 30_000,
                "heartbeat.interval.ms": 3_000,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
                "queued.max.messages.kbytes": 64 * 1024,
                "error_cb": lambda error: log.warning("Kafka client", error=error.str()),
            }
        )
        self._zone = LandingZone(settings.landing_dir, self._cluster_id())
        self._zone.remove_orphans(slot)
        self._consumer.subscribe(
            [settings.sink.topics], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _cluster_id(self) -> str:
        try:
            return str(self._consumer.list_topics(timeout=_DRAIN_S).cluster_id)
        except KafkaException as failure:
            msg = f"Kafka does not answer: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from None

    def step(self) -> None:
        """Read a batch and flush if a bound is reached.

        Raises:
            ServiceUnavailableError: Kafka; the member is to be built anew and reads again from the committed offsets.
            OSError: the landing zone can't be written.
        """
        try:
            messages = self._consumer.consume(_POLL_RECORDS, _POLL_S)
        except KafkaException as failure:  # from a callback: the committed offsets can't be read
            msg = f"{self._slot}: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from None
        for message in messages:
            error = message.error()
            if error is None:
                self._take(message)
            elif error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._FENCED):
                msg = f"{self._slot}: {error.str()}"
                raise ServiceUnavailableError(msg)
            else:
                log.warning("consumer", error=error.str())
        self._publisher.poll()
        sink, buffer = self._settings.sink, self._buffer
        buffered_rows.set(len(buffer))
        full = len(buffer) >= sink.flush_rows or buffer.bytes >= sink.flush_bytes
        if full or (time.monotonic() >= self._flush_due and buffer.next_offsets):
            self.flush()

    def flush(self) -> None:
        """Steps 3 to 5 of the class's order.

        Raises:
            ServiceUnavailableError: dead letters are not acknowledged; nothing landed, nothing is committed.
            OSError: the landing zone can't be written.
        """
        buffer, self._buffer = self._buffer, Buffer(self._decoder.promoted)
        self._flush_due = time.monotonic() + self._settings.sink.flush_seconds
        if not buffer.next_offsets:
            return
        if self._publisher.drain(_DRAIN_S) or self._publisher.has_refusals():
            msg = "Kafka does not take dead letters"
            raise ServiceUnavailableError(msg)
        self._publisher.check()
        if len(buffer):
            path = self._zone.write(buffer.columns, buffer.offsets, self._slot, buffer.promoted)
            landed_rows.inc(len(buffer))
            landed_files.inc()
            log.info("landed", rows=len(buffer), file=path.name)
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in buffer.next_offsets.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Landed but not committed: whoever owns the partitions now seeks past it.
            log.warning("offsets not committed after landing", error=error.args[0].str())

    def close(self) -> None:
        """Flush and leave; the slot's static membership keeps its partitions for a successor."""
        self.flush()
        self._consumer.close()

    def abandon(self) -> None:
        """Leave without a flush, after an error: what was not committed is read again."""
        self._buffer = Buffer()
        self._consumer.close()

    def _take(self, message: Message) -> None:
        try:
            event = self._decode(message.value())
        except BadEventError as error:
            self._dead_letter(message, error)
        else:
            if self._decoder.promoted is not self._buffer.promoted:  # a newer schema came
                self._buffer.promote(self._decoder.promoted)
            self._buffer.add(message, event)
        self._buffer.pass_over(message)

    def _decode(self, value: bytes | None) -> CanonicalEvent:
        try:
            return self._decoder.decode(value)
        except ServiceUnavailableError:
            # A schema id not seen before and the registry down: wait here, the record is not bad.
            return when_available("schema registry", lambda: self._decoder.decode(value), self._stop)

    def _dead_letter(self, message: Message, error: BadEventError) -> None:
        topic = str(message.topic())
        origin = Origin(topic, int(message.partition() or 0), int(message.offset() or 0))
        tenant = self._tenants.get(topic)
        if tenant is None:
            log.error("undecodable record of a tenant that the settings don't know; skipped, it stays on its topic",
                      origin=origin, error=str(error))  # fmt: skip
            return
        log.warning("undecodable record goes to the dead letters", origin=origin, error=str(error))
        headers = dead_letter_headers(
            error, stage="sink", transport="kafka", origin=origin, original=headers_of(message)
        )
        self._publisher.dead_letter(
            tenant, key=message.key(), value=message.value(), headers=headers, acknowledged=lambda: None
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._zone.scan()
        committed = {(p.topic, p.partition): p.offset for p in consumer.committed(partitions, timeout=_DRAIN_S)}
        for partition in partitions:
            partition.offset = self._start_offset(consumer, partition, committed[partition.topic, partition.partition])
        consumer.incremental_assign(partitions)
        self.assigned = self.assigned or bool(partitions)
        log.info("partitions assigned", count=len(partitions))

    def _start_offset(self, consumer: Consumer, partition: TopicPartition, committed: int) -> int:
        """max(committed, landed + 1); without either a negative constant, by which auto.offset.reset decides."""
        landed = self._zone.landed(partition.topic, partition.partition)
        if landed is None or landed + 1 <= committed:
            return committed
        where = {"topic": partition.topic, "partition": partition.partition, "landed": landed}
        _, high = consumer.get_watermark_offsets(partition, timeout=_DRAIN_S)
        if landed + 1 > high:
            log.error(
                "landing files hold offsets that the partition does not have: it was made anew?", high=high, **where
            )
            return committed
        log.info("seeks past what has landed", committed=committed, **where)
        return landed + 1

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.flush()
        consumer.incremental_unassign(partitions)
        self.assigned = len(consumer.assignment()) > len(partitions)
        log.info("partitions given up", count=len(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = {(p.topic, p.partition) for p in partitions}
        kept = {(p.topic, p.partition) for p in consumer.assignment()} - lost
        self._buffer.keep_only(kept)
        consumer.incremental_unassign(partitions)
        log.warning("partitions lost; their unflushed rows are read again elsewhere", count=len(partitions))


def run_sink(settings: Settings, stop: threading.Event) -> None:
    """Wait for a free slot, then sink until stopped or fenced.

    Raises:
        FencedError: the slot was lost; what was not committed is read again by its new holder.
        ServiceUnavailableError: Kafka fails for good; to be started again.
    """
    slots = [f"{settings.sink.group}-{number}" for number in range(settings.sink.slots)]
    progress = Progress()
    sink: AnalyticsSink | None = None
    health = settings.health
    with HealthServer(health.host, health.analytics_sink, progress, lambda: sink is not None and sink.assigned):
        encoder = prepare(settings, settings.tenants, stop, progress)
        registry = Registry(settings.registry)
        engine = when_available("state database", lambda: open_state(settings.state_url), stop, progress)
        ttl = settings.state.lease_ttl_seconds
        keeper = LeaseKeeper(engine, [f"slot/{slot}" for slot in slots], ttl=ttl, at_most=1)
        publisher = Publisher(settings, encoder, "analytics-sink")
        keeper.start()
        try:
            lease = _wait_for_slot(keeper, progress, stop)
            if lease is None:
                return
            decoder = registry.decoder(as_written=True)
            sink = AnalyticsSink(settings, lease.removeprefix("slot/"), decoder, publisher, stop)
            while not stop.is_set():
                # A database that does not answer is no reason to stop: Kafka fences a second member of this slot.
                if keeper.is_lost(lease):
                    msg = f"{lease} is held by another process now; it goes on there"
                    raise FencedError(msg)
                sink.step()
                progress.step()
            sink.close()
        except BaseException:
            if sink is not None:
                sink.abandon()
            raise
        finally:
            keeper.close()
            publisher.close()
            encoder.close()
            registry.close()
            engine.dispose()


def _wait_for_slot(keeper: LeaseKeeper, progress: Progress, stop: threading.Event) -> str | None:
    while not stop.is_set():
        lease = keeper.wait_for_any(0.5)
        progress.step()
        if lease is not None:
            return lease
    return None
