"""wfm-realtime's part of a member: facts out of its partitions' events, and merging the tenants that it answers for."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from prometheus_client import Counter

from streaming.clients import durable
from streaming.consumer.member import Member
from streaming.consumer.work import Partition
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.settings import Tenant
from streaming.topic_reader import Place, Span, TopicReader
from streaming.wfm.facts import Fact, Segment, cut, fact_of, read_block, write_block
from streaming.wfm.merger import Merger
from streaming.wfm.topics import ensure_wfm_topics, facts_topic

log = structlog.get_logger()

future_events = Counter("ccaas_wfm_future_events", "Events from more than 5 min in the future, not in live figures")

FUTURE_MS = 300_000
"""An event from further in the future is not counted live, and moves no clock."""

_PASS_ON_EVERY_S = 0.1
_FACTS_TOGETHER = 1000
# How much of a facts topic is looked at for where the partitions' last readers were.
_TAIL = 100
_PATIENCE_S = 60.0
_DEAD_LETTERS_S = 20.0


class _Read:
    """What was read of a partition and is not passed on yet."""

    __slots__ = ("facts", "first", "newest_ms", "next")

    def __init__(self, first: int) -> None:
        self.first = self.next = first
        self.newest_ms = 0
        self.facts: list[Fact] = []


class WfmWork:
    """See :class:`streaming.consumer.work.Work`.

    Events become facts, which are passed on through Kafka ten times a second to the member that merges the tenant. What
    is passed on counts as done: a later reader of the partition begins there, at the latest at the committed offset,
    which belongs to a snapshot. Facts had before are skipped by their offsets.

    Args:
        member: The group's member.
    """

    def __init__(self, member: Member) -> None:
        settings = member.settings
        self._member = member
        self._settings = settings
        self._read: dict[Partition, _Read] = {}
        self._tenants: dict[str, Tenant] = {}
        self._due = 0.0
        self._facts = 0
        self._has_bad = False
        self._assignment_changed = False
        self._fault: KafkaError | None = None
        self._reader = TopicReader(settings.kafka, f"{member.slot}-tail")
        self._producer = Producer(
            {
                **durable(settings.kafka, f"{member.slot}-live"),
                "linger.ms": 5,
                "batch.size": 256 * 1024,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 32 * 1024,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
            }
        )
        self._merger = Merger(settings, member.slot, self._send)

    def first_offsets(
        self, partitions: Sequence[Partition], committed: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        """Where the partitions' last readers were, if that is behind the committed offset."""
        self._assignment_changed = True
        topics = {topic for topic, _ in partitions}
        new = [tenant for topic in topics - self._tenants.keys() if (tenant := self._member.tenant_of(topic))]
        ensure_wfm_topics(self._settings.kafka, new)
        self._tenants |= {tenant.events_topic: tenant for tenant in new}
        reached = self._passed_on([self._tenants[topic] for topic in topics if topic in self._tenants])
        first: dict[Partition, int] = {}
        for partition in partitions:
            begin = max(reached.get(partition, -1), committed.get(partition, -1))
            if begin >= 0:
                first[partition] = begin
                self._read[partition] = _Read(begin)
        return first

    def _passed_on(self, tenants: list[Tenant]) -> dict[Partition, int]:
        """Up to which offset facts were passed on lately, of the partitions that the ends of the topics tell of."""
        spans: dict[Place, Span] = {}
        events = {facts_topic(tenant): tenant.events_topic for tenant in tenants}
        for topic in events:
            low, high = self._reader.watermarks(Place(topic, 0))
            spans[Place(topic, 0)] = Span(max(low, high - _TAIL), high)
        reached: dict[Partition, int] = {}
        for batch in self._reader.read(spans):
            for message in batch:
                try:
                    segments = read_block(message.value())
                except ValueError:
                    continue  # the merger tells of it
                for segment in segments:
                    partition = events[str(message.topic())], segment.partition
                    reached[partition] = max(reached.get(partition, 0), segment.next)
        return reached

    def take(self, messages: list[Message]) -> None:
        """Events become facts."""
        # Without the member's patience, which costs every record a microsecond.
        decode, reads = self._member.decoder.decode, self._read
        horizon_ms = int(time.time() * 1000) + FUTURE_MS
        for message in messages:
            partition: Partition = message.topic(), message.partition()  # type: ignore[assignment]  # a record has both
            offset: int = message.offset()  # type: ignore[assignment]
            read = reads.get(partition)
            if read is None:
                read = reads[partition] = _Read(offset)
            elif offset != read.next:
                read = self._jump(partition, read, offset)
            read.next = offset + 1
            try:
                try:
                    event = decode(message.value())
                except ServiceUnavailableError:
                    event = self._member.decode(message)
            except BadEventError as error:
                self._has_bad = True
                self._member.dead_letter(message, error)
                continue
            at_ms = event["timestamp"]
            if at_ms > horizon_ms:
                future_events.inc()
                continue
            fact = fact_of(event, offset)
            if fact is not None:
                read.facts.append(fact)
                self._facts += 1
                read.newest_ms = max(read.newest_ms, at_ms)
        if self._facts >= _FACTS_TOGETHER:
            self._pass_on()

    def _jump(self, partition: Partition, read: _Read, offset: int) -> _Read:
        """A partition does not go on where it was: nothing of what was read is lost, and a gap is told."""
        if offset < read.next:
            log.error("a partition goes back: was its topic made anew? See docs/wfm-live.md", topic=partition[0],
                      partition=partition[1], expected=read.next, offset=offset)  # fmt: skip
        elif offset == read.next + 1 or self._reader.watermarks(Place(*partition)).first <= read.next:
            return read  # the end of a transaction, or an aborted one: nothing is missing
        self._pass_on()
        begun = self._read[partition] = _Read(offset)
        return begun

    def tick(self) -> None:
        """Pass facts on if it is time; merge."""
        if self._assignment_changed:
            self._assignment_changed = False
            mine = (self._tenants.get(topic) for topic, number in self._member.assigned if number == 0)
            self._merger.set_tenants([tenant for tenant in mine if tenant is not None])
        if time.monotonic() >= self._due:
            self._pass_on()
        self._producer.poll(0)
        self._check()
        self._merger.tick(self._member.group_metadata)

    def settle(self, deadline: float) -> None:
        """What was taken is passed on; offsets are committed with the next snapshot."""
        self._pass_on()
        self._producer.flush(max(0.0, deadline - time.monotonic()))
        self._check()

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are read by another member now."""
        self._assignment_changed = True
        for partition in partitions:
            self._read.pop(partition, None)

    def close(self) -> None:
        """Let go of the connections."""
        self._producer.purge(in_queue=True, in_flight=True)
        self._producer.poll(0)
        self._reader.close()
        self._merger.close()

    def _pass_on(self) -> None:
        self._due = time.monotonic() + _PASS_ON_EVERY_S
        if self._has_bad:  # what is passed on is done with, so Kafka has its dead letters before
            self._member.settle_dead_letters(time.monotonic() + _DEAD_LETTERS_S)
            self._has_bad = False
        segments: dict[str, list[Segment]] = {}
        for (topic, number), read in self._read.items():
            if read.next > read.first:
                segment = Segment(number, read.first, read.next, read.newest_ms, read.facts)
                segments.setdefault(topic, []).append(segment)
                read.first, read.facts = read.next, []
        self._facts = 0
        for topic, found in segments.items():
            tenant = self._tenants.get(topic)
            if tenant is not None:
                for portion in cut(found):
                    self._send(facts_topic(tenant), tenant.tenant_id.encode(), write_block(portion))

    def _send(self, topic: str, key: bytes, value: bytes | None) -> None:
        deadline = 0.0
        while True:
            try:
                self._producer.produce(topic, value, key)
            except BufferError:
                # Kafka takes what waits, or the deadline comes: memory stays bounded.
                deadline = deadline or time.monotonic() + _PATIENCE_S
                if time.monotonic() > deadline:
                    msg = f"{topic}: Kafka takes no records"
                    raise ServiceUnavailableError(msg) from None
                self._producer.poll(0.05)
            except KafkaException as error:
                msg = f"{topic}: live figures can't be written: {error.args[0].str()}"
                raise ServiceUnavailableError(msg) from None
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            log.error("Kafka refuses a record; mend the topic or its permissions", topic=message.topic(),
                      error=error.str())  # fmt: skip
            self._fault = error

    def _check(self) -> None:
        if self._fault is not None:
            msg = f"live figures can't be written: {self._fault.str()}"
            raise ServiceUnavailableError(msg)
