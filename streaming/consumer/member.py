"""One member of a consumer group: it polls, and hands records, assignments and revokes to the consumer's work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import Counter

from schemas.canonical import CanonicalEvent
from schemas.codec import HEADER, MAGIC, Decoder
from streaming.clients import log_error
from streaming.consumer.gauges import Gauges
from streaming.consumer.positions import checked, committed_offsets, spans
from streaming.consumer.work import Consumption, Partition, Work
from streaming.deadletter import KAFKA, Headers, Origin, dead_letter_headers, headers_of
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.publisher import Publisher
from streaming.settings import Settings, Tenant, owner_of
from streaming.topics import dead_letter_topic, ensure

log = structlog.get_logger()

DRAIN_S = 20.0
"""One deadline for all that a revoke or the end does."""

_POLL_S = 0.1
_KAFKA_S = 20.0
# A killed member's open transaction may hold offsets of the partitions: Kafka ends it after 20 s at most, and looks
# for such every 10 s.
_COMMITTED_S = 40.0
# How long partitions wait whose records need a schema that the registry can't be asked for.
_REGISTRY_S = 5.0
# Of schema ids seen; of garbage each record may have another.
_MOST_IDS = 10_000

poison = Counter("ccaas_consumer_dead_letters", "Records that this consumer could not read", ["consumer"])


class Member:
    """Polls under a leased slot, whose name is its static membership.

    Args:
        settings: The platform's.
        consumption: How this consumer reads.
        slot: Name of the slot.
        decoder: For the records' values.
        publisher: For dead letters.
    """

    def __init__(
        self,
        settings: Settings,
        consumption: Consumption,
        slot: str,
        decoder: Decoder,
        publisher: Publisher,
    ) -> None:
        self.settings = settings
        self.slot = slot
        self.decoder = decoder
        self.assigned: set[Partition] = set()
        # Next offset of each: the client's own position does not follow a seek, nor pass a transaction's end.
        self._positions: dict[Partition, int] = {}
        self._consumption = consumption
        self._publisher = publisher
        self._work: Work | None = None
        self._held: dict[Partition, float] = {}
        self._tenants: dict[str, Tenant | None] = {tenant.events_topic: tenant for tenant in settings.tenants}
        self._ids: set[bytes] = set()
        # Changes with the assignment: a poll may return records of partitions that went away during it.
        self._generation = 0
        self._left = False
        self._failure: Exception | None = None
        self._admin = AdminClient(settings.kafka.client_config())
        self.gauges = Gauges(consumption.name, self._admin)
        config = settings.kafka.client_config()
        self._consumer = Consumer(
            {
                **config,
                "group.id": consumption.group.group,
                "group.instance.id": slot,
                "client.id": slot,
                # Every member says itself where it begins; an offset that is gone is an error to be told.
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # Tells the position behind records that are not shown, such as the end of a transaction.
                "enable.partition.eof": True,
                "partition.assignment.strategy": "cooperative-sticky",
                # The default of 5 min would hide a new tenant for as long.
                "topic.metadata.refresh.interval.ms": 10_000,
                "session.timeout.ms": 30_000,
                "heartbeat.interval.ms": int(consumption.heartbeat_s * 1000),
                # Prefetched at most, for the sake of memory; a full queue is filled again at once, not after 1 s.
                "queued.max.messages.kbytes": 4 * 1024,
                # librdkafka refuses less than the message.max.bytes that the settings may give.
                "fetch.max.bytes": max(1024 * 1024, int(config.get("message.max.bytes", 0))),
                "fetch.message.max.bytes": 256 * 1024,
                "fetch.queue.backoff.ms": 10,
                "error_cb": log_error,
            }
        )

    # The loop

    def start(self, work: Work) -> None:
        """Join the group: from now on :meth:`step` reads."""
        self._work = work
        self._consumer.subscribe(
            [self._consumption.group.topics],
            on_assign=self._guarded(self._on_assign),
            on_revoke=self._guarded(self._on_revoke),
            on_lost=self._guarded(self._on_lost),
        )

    def step(self) -> None:
        """One poll.

        Raises:
            ServiceUnavailableError: Kafka or what the work needs; the member is to be built anew, and reads again from
                the committed offsets.
        """
        work = self._joined()
        self._resume()
        messages = self._poll()
        if messages:
            self.gauges.count(messages)
            work.take(messages)
        self._publisher.poll()
        work.tick()
        self.gauges.look(self._positions)

    def close(self) -> None:
        """Settle and leave; the static membership keeps the partitions for a successor."""
        self._joined().settle(time.monotonic() + DRAIN_S)
        self.abandon()

    def abandon(self) -> None:
        """Leave as it is, after an error: what was not committed is read again."""
        self._work = None
        if not self._left:
            self._left = True
            self._consumer.close()

    # For the work

    def decode(self, message: Message) -> CanonicalEvent:
        """The record's event.

        Raises:
            BadEventError: the record is no event.
            ServiceUnavailableError: the registry went away since :meth:`step` asked it for the record's schema.
        """
        return self.decoder.decode(message.value())

    def dead_letter(self, message: Message, error: BadEventError) -> None:
        """Queue a record for its tenant's dead letters; :meth:`settle_dead_letters` before its offset is committed.

        Raises:
            ServiceUnavailableError: there is no room for it, and Kafka takes none for 20 s.
        """
        letter = self.dead_letter_record(message, error)
        if letter is None:
            return
        tenant, key, value, headers = letter
        deadline = time.monotonic() + DRAIN_S
        while True:
            try:
                self._publisher.dead_letter(tenant, key=key, value=value, headers=headers, acknowledged=lambda: None)
            except BufferError:
                if time.monotonic() > deadline:
                    msg = f"{self.slot}: Kafka does not take dead letters"
                    raise ServiceUnavailableError(msg) from None
                self._publisher.poll(0.05)
            else:
                return

    def dead_letter_record(
        self, message: Message, error: BadEventError
    ) -> tuple[Tenant, bytes | None, bytes | None, Headers] | None:
        """Tenant, key, value and headers of a record's dead letter; None where its topic is no tenant's."""
        topic = str(message.topic())
        origin = Origin(topic, int(message.partition() or 0), int(message.offset() or 0))
        poison.labels(self._consumption.name).inc()
        tenant = self.tenant_of(topic)
        if tenant is None:  # told once, when the topic was met; the record stays there
            return None
        log.warning("a record goes to the dead letters", origin=origin, error=str(error))
        headers = dead_letter_headers(
            error, stage=self._consumption.name, transport=KAFKA, origin=origin, original=headers_of(message)
        )
        return tenant, message.key(), message.value(), headers

    def notice_dead_letter(self, tenant: Tenant, value: bytes | None, headers: Headers) -> None:
        """A dead letter that the work wrote in a transaction of its own is committed: it is counted and told."""
        self._publisher.notice_dead_letter(tenant, value, headers)

    def settle_dead_letters(self, deadline: float) -> None:
        """Wait until Kafka has the queued dead letters.

        Raises:
            ServiceUnavailableError: it has not by the monotonic deadline, or refuses one.
        """
        if self._publisher.drain(max(0.0, deadline - time.monotonic())) or self._publisher.has_refusals():
            msg = f"{self.slot}: Kafka does not take dead letters"
            raise ServiceUnavailableError(msg)
        self._publisher.check()

    def tenant_of(self, topic: str) -> Tenant | None:
        """Whose events a topic holds: from the settings, else, of a tenant that came later, from its name.

        Raises:
            ServiceUnavailableError: a new tenant's dead-letter topic can't be made now.
        """
        if topic not in self._tenants:
            self._meet([topic])
        return self._tenants[topic]

    def _meet(self, topics: Iterable[str]) -> None:
        """Learn whose topics these are; tenants that the settings do not know get a topic for their dead letters."""
        new: dict[str, Tenant | None] = {}
        for topic in set(topics) - self._tenants.keys():
            owner = owner_of(topic, "events")
            new[topic] = Tenant(vendor=owner[0], tenant_id=owner[1]) if owner else None
            if owner is None:
                log.error("a topic is no tenant's: what of it can't be read is passed over; mend the pattern of topics",
                          topic=topic)  # fmt: skip
        kafka = self.settings.kafka
        if tenants := [tenant for tenant in new.values() if tenant is not None]:
            ensure(kafka, [dead_letter_topic(kafka, tenant) for tenant in tenants])
        self._tenants |= new

    def cluster_id(self) -> str:
        """Id of the Kafka cluster.

        Raises:
            ServiceUnavailableError: it does not answer.
        """
        try:
            return str(self._admin.list_topics(timeout=_KAFKA_S).cluster_id)
        except KafkaException as failure:
            msg = f"Kafka does not answer: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from None

    def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Commit next offsets; whether Kafka took them. If not, whoever has the partitions reads again from before."""
        if not offsets:
            return True
        positions = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=positions, asynchronous=False)
        except KafkaException as failure:
            log.warning("offsets not committed", slot=self.slot, error=failure.args[0].str())
            return False
        return True

    def group_metadata(self) -> Any:
        """For the producer's ``send_offsets_to_transaction``."""
        return self._consumer.consumer_group_metadata()

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from there.

        Raises:
            ServiceUnavailableError: the client refuses.
        """
        if partition not in self.assigned:
            return
        try:
            self._consumer.seek(TopicPartition(*partition, offset))
        except KafkaException as failure:
            msg = f"{self.slot}: seek in {partition}: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from None
        self._positions[partition] = offset

    def hold(self, partitions: Iterable[Partition], seconds: float) -> None:
        """Read nothing of these for a while; polling goes on, so the membership stays."""
        held = [partition for partition in partitions if partition in self.assigned]
        self._consumer.pause([TopicPartition(*partition) for partition in held])
        self._held |= dict.fromkeys(held, time.monotonic() + seconds)

    # Inside

    def _joined(self) -> Work:
        if self._work is None:
            msg = f"{self.slot} has not started, or has left"
            raise RuntimeError(msg)
        return self._work

    def _resume(self) -> None:
        if not self._held:
            return
        now = time.monotonic()
        due = [partition for partition, until in self._held.items() if until <= now]
        for partition in due:
            del self._held[partition]
        self._consumer.resume([TopicPartition(*partition) for partition in due])

    def _poll(self) -> list[Message]:
        generation, records = self._generation, self._consumption.poll_records
        try:
            if self._consumption.gather_s:
                polled = self._consumer.consume(records, self._consumption.gather_s)
            else:
                # consume() waits for as many as were asked for; what is there already costs no time.
                first = self._consumer.poll(_POLL_S)
                polled = [] if first is None else [first, *self._consumer.consume(records - 1, 0)]
        except KafkaException as failure:
            msg = f"{self.slot}: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from None
        self._raise_failure()
        messages = [message for message in polled if message.error() is None]
        if generation != self._generation:
            messages = [m for m in messages if (m.topic(), m.partition()) in self.assigned]
        positions = self._positions
        for message in messages:
            positions[message.topic(), message.partition()] = message.offset() + 1  # type: ignore[index,operator]  # a record has them
        if len(messages) < len(polled):  # after the records: the end of a partition lies behind them
            for message in polled:
                if (error := message.error()) is not None:
                    self._on_error(message, error)
        return self._readable(messages)

    def _raise_failure(self) -> None:
        """Raise what a callback kept."""
        failure, self._failure = self._failure, None
        if isinstance(failure, KafkaException):
            msg = f"{self.slot}: {failure.args[0].str()}"
            raise ServiceUnavailableError(msg) from failure
        if failure is not None:
            raise failure

    def _readable(self, messages: list[Message]) -> list[Message]:
        """Those whose schema is known, or known not to exist.

        While the registry can't be asked, partitions wait at their first record that needs it; the others go on.
        """
        new = {value[: HEADER.size] for message in messages if (value := message.value())} - self._ids
        waiting = set()
        for header in new:
            if len(header) < HEADER.size or header[0] != MAGIC:
                continue
            try:
                self.decoder.ask_for(HEADER.unpack(header)[1])
            except ServiceUnavailableError as error:
                log.warning("records wait for the schema registry", slot=self.slot, error=str(error))
                waiting.add(header)
                break  # no use in asking for more
        if not waiting:
            if len(self._ids) > _MOST_IDS:
                self._ids.clear()
            self._ids |= new
            return messages
        held: dict[Partition, int] = {}
        readable = []
        for message in messages:
            partition: Partition = message.topic(), message.partition()  # type: ignore[assignment]  # a record has both
            if partition in held:
                continue
            if (message.value() or b"")[: HEADER.size] in new:
                held[partition] = int(message.offset() or 0)
            else:
                readable.append(message)
        for partition, offset in held.items():
            self.seek(partition, offset)
        self.hold(held, _REGISTRY_S)
        return readable

    def _on_error(self, message: Message, error: KafkaError) -> None:
        partition = str(message.topic()), int(message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:
            if partition in self.assigned:
                self._positions[partition] = int(message.offset() or 0)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._begin_anew(partition)
        elif error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._FENCED):
            msg = f"{self.slot}: {error.str()}"
            raise ServiceUnavailableError(msg)
        else:
            log.warning("consumer", slot=self.slot, error=error.str())

    def _begin_anew(self, partition: Partition) -> None:
        """The next record expired while the member read, or the topic was made anew."""
        if partition not in self.assigned:
            return
        held = spans(self._admin, [partition], _KAFKA_S)
        first = checked(self._consumption.name, [partition], self._positions, {}, held)
        self._consumer.incremental_unassign([TopicPartition(*partition)])
        self._consumer.incremental_assign([TopicPartition(*partition, first[partition])])
        self._positions.pop(partition, None)
        self._place(first)

    def _guarded(
        self, callback: Callable[[list[TopicPartition]], None]
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        """Keep an error for :meth:`_poll`: through the client's C code it would come as what nobody catches."""

        def call(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                callback(partitions)
            except Exception as error:  # noqa: BLE001 (raised by _poll)
                self._failure = self._failure or error

        return call

    def _on_assign(self, partitions: list[TopicPartition]) -> None:
        came = [(p.topic, p.partition) for p in partitions]
        self._generation += 1
        if came and self._work is not None:
            self._meet(topic for topic, _ in came)
            committed = committed_offsets(self._consumer, came, _COMMITTED_S)
            wanted = self._work.first_offsets(came, committed)
            first = checked(self._consumption.name, came, wanted, committed, spans(self._admin, came, _KAFKA_S))
            partitions = [TopicPartition(*partition, offset) for partition, offset in first.items()]
            self._place(first)
        self._consumer.incremental_assign(partitions)
        self.assigned.update(came)
        log.info("partitions assigned", slot=self.slot, count=len(came), all=len(self.assigned))

    def _place(self, first: Mapping[Partition, int]) -> None:
        self._positions |= {partition: offset for partition, offset in first.items() if offset >= 0}

    def _on_revoke(self, partitions: list[TopicPartition]) -> None:
        if self._work is not None:  # else it leaves after an error
            self._work.settle(time.monotonic() + DRAIN_S)
        self._give_up(partitions)
        log.info("partitions given up", slot=self.slot, count=len(partitions), left=len(self.assigned))

    def _on_lost(self, partitions: list[TopicPartition]) -> None:
        self._give_up(partitions)
        log.warning("partitions lost; what was not committed is read again elsewhere", slot=self.slot,
                    count=len(partitions))  # fmt: skip

    def _give_up(self, partitions: list[TopicPartition]) -> None:
        gone = {(p.topic, p.partition) for p in partitions}
        self._generation += 1
        self.assigned -= gone
        # The client remembers a pause for as long as it lives, also where the partition went away and came back.
        self._consumer.resume([TopicPartition(*partition) for partition in gone & self._held.keys()])
        for partition in gone:
            self._held.pop(partition, None)
            self._positions.pop(partition, None)
        if self._work is not None:
            self._work.forget(gone)
        self._consumer.incremental_unassign(partitions)
