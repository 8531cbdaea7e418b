"""Merges what all members passed on into the live figures of the tenants that this member answers for.

That is the member which has partition 0 of a tenant's events. It begins with the newest snapshot and reads the facts
that came after it; what it publishes overwrites what was there, so a second merger for a moment does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import Gauge

from streaming.clients import log_error
from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings, Tenant
from streaming.topic_reader import TIMEOUT_S, Place, TopicReader
from streaming.wfm.conversation import Rules
from streaming.wfm.facts import read_block
from streaming.wfm.fold import Fold, Limits
from streaming.wfm.records import Records
from streaming.wfm.room import make_room
from streaming.wfm.snapshot import Kept, Snapshot, SnapshotWriter, read_snapshots
from streaming.wfm.topics import facts_topic, live_topic, state_topic

log = structlog.get_logger()

merged_tenants = Gauge("ccaas_wfm_tenants", "Tenants whose live figures this member publishes")
kept_rows = Gauge("ccaas_wfm_rows", "Facts, status changes and intervals in memory, bounded by wfm.max_rows")

Send = Callable[[str, bytes, bytes | None], None]
"""Topic, key, value."""

_BATCH = 100
# What one tick may spend on each of its parts: the member has to poll, too.
_READ_S = 0.1
_PUBLISH_S = 0.1
_PUBLISH_EVERY_S = 0.25
# The figures of the open interval are in the queues' records; as intervals they follow at leisure.
_ALL_CELLS_EVERY_S = 2.0
_SWEEP_S = 1.0
# A partition that is silent for so long does not keep an interval open.
_IDLE_S = 10.0
# In a replay an interval ends every moment: at most so often a tenant's state is kept.
_SNAPSHOT_EVERY_S = 5.0
# And for at most this part of the time: meanwhile nothing else is done.
_SNAPSHOT_SHARE = 0.1
_LONGEST_SNAPSHOT_S = 3.0
# A tenant's record is published at least so often: who looks at it sees that somebody keeps it.
_SIGN_OF_LIFE_S = 10.0
_COMPLAIN_EVERY_S = 60.0
# Of that many tenants in one transaction.
_TOGETHER = 50
_HOUR_MS = 3_600_000


class _Merged:
    """One tenant that is merged here."""

    def __init__(self, tenant: Tenant, fold: Fold, partitions: int, position: int, ready_at: int) -> None:
        self.tenant = tenant
        self.fold = fold
        self.records = Records(fold, tenant.vendor, tenant.tenant_id)
        self.partitions = max(1, partitions)
        self.position = position
        """Next offset of the facts topic."""
        self.ready_at = ready_at
        """Facts before it were there when merging began: until then figures are of the past and not published."""
        self.parts = 0
        self.inherited: set[bytes] = set()
        """Keys that an earlier merger published: what is not published anew with the first figures is no more."""
        self.changed = True
        self.closed = False
        now = time.monotonic()
        self.heard: dict[int, float] = dict.fromkeys(fold.covered, now)
        self.published = self.all_cells = 0.0
        self.snapshot = now

    @property
    def is_ready(self) -> bool:
        return self.position >= self.ready_at

    def pass_time(self) -> None:
        """Close intervals as far as the partitions' clocks allow."""
        fold, now = self.fold, time.monotonic()
        lively = [fold.newest.get(number, 0) for number, heard in self.heard.items() if now - heard < _IDLE_S]
        if lively:
            watermark_ms = min(lively)
        else:  # nobody says anything: event time goes on like the wall's
            watermark_ms = min(int(time.time() * 1000) - fold.behind_ms, fold.clock_ms + 24 * _HOUR_MS)
        if fold.clock_ms and fold.close_until(watermark_ms):
            self.closed = True

    @property
    def forget_ms(self) -> int:
        """Event time that every partition has passed: one may be far behind, its reader just starting again."""
        newest = self.fold.newest
        return min(newest.values()) if len(newest) >= self.partitions else 0


class Merger:
    """Every method is called from the member's thread.

    Args:
        settings: The platform's.
        slot: Name of the member's slot.
        send: Queues a record for Kafka.
    """

    def __init__(self, settings: Settings, slot: str, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._slot = slot
        self._merged: dict[str, _Merged] = {}
        self._touched: set[str] = set()
        self._swept = 0.0
        self._complained = 0.0
        self._snapshot_s = 0.0
        warehouse, wfm = settings.warehouse, settings.wfm
        self._rules = Rules(warehouse.interval_minutes * 60_000, warehouse.service_level_seconds * 1000)
        self._limits = Limits(
            int(wfm.keep_hours * _HOUR_MS),
            int(wfm.longest_conversation_hours * _HOUR_MS),
            warehouse.longest_status_hours * _HOUR_MS,
        )
        self._reader = TopicReader(settings.kafka, f"{slot}-state")
        self._writer: SnapshotWriter | None = None
        self._consumer = Consumer(
            {
                **settings.kafka.client_config(),
                # Never joined: partitions are assigned by hand.
                "group.id": f"{slot}-facts",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 8 * 1024,
                "fetch.message.max.bytes": 1024 * 1024,
                "error_cb": log_error,
            }
        )

    def set_tenants(self, tenants: Iterable[Tenant]) -> None:
        """Merge these from now on, and no others.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        wanted = {facts_topic(tenant): tenant for tenant in tenants}
        gone = self._merged.keys() - wanted.keys()
        new = [tenant for topic, tenant in wanted.items() if topic not in self._merged]
        try:
            if gone:
                self._consumer.incremental_unassign([TopicPartition(topic, 0) for topic in gone])
            for topic in gone:
                del self._merged[topic]
            self._touched -= gone
            if new:
                self._begin(new)
        except KafkaException as failure:
            raise _unavailable(failure) from None
        merged_tenants.set(len(self._merged))

    def _begin(self, tenants: list[Tenant]) -> None:
        snapshots = read_snapshots(self._reader, tenants)
        topics = self._consumer.list_topics(timeout=TIMEOUT_S).topics
        starts: list[TopicPartition] = []
        begun: dict[str, _Merged] = {}
        for tenant in tenants:
            topic = facts_topic(tenant)
            low, high = self._reader.watermarks(Place(topic, 0))
            fold = Fold(f"{tenant.vendor}.{tenant.tenant_id}", self._rules, self._limits)
            snapshot = snapshots.get(state_topic(tenant))
            position = low
            if snapshot is not None:
                position = self._restore(fold, snapshot, topic, low, high)
            partitions = len(topics[tenant.events_topic].partitions) if tenant.events_topic in topics else 1
            merged = self._merged[topic] = _Merged(tenant, fold, partitions, position, high)
            merged.parts = snapshot.parts if snapshot else 0
            fold.touch_all()
            self._touched.add(topic)
            starts.append(TopicPartition(topic, 0, position))
            begun[live_topic(tenant)] = merged
            log.info("merges a tenant", tenant=fold.tenant, snapshot=snapshot is not None, facts=high - position)
        self._inherit(begun)
        self._consumer.incremental_assign(starts)

    def _inherit(self, begun: dict[str, _Merged]) -> None:
        """Know what is on the live topics: it may hold what later facts, which only this merger knows, take back."""
        spans = {Place(topic, 0): self._reader.watermarks(Place(topic, 0)) for topic in begun}
        for batch in self._reader.read(spans):
            for message in batch:
                inherited, key = begun[str(message.topic())].inherited, message.key()
                if not isinstance(key, bytes) or message.value() is None:
                    inherited.discard(key or b"")
                else:
                    inherited.add(key)

    def _restore(self, fold: Fold, snapshot: Snapshot, topic: str, low: int, high: int) -> int:
        fold.load(snapshot.head, snapshot.pieces)
        if low <= snapshot.facts <= high:
            return snapshot.facts
        log.error("the facts after the snapshot are not there: was the topic made anew?", topic=topic,
                  position=snapshot.facts, low=low, high=high)  # fmt: skip
        return low

    def tick(self, group: Callable[[], Any]) -> None:
        """Read facts, publish what changed, keep the state of tenants whose interval has ended.

        Args:
            group: Gives the consumer's group metadata.

        Raises:
            ServiceUnavailableError: Kafka fails for good, or another member has the slot.
        """
        if not self._merged:
            return
        self._read()
        now = time.monotonic()
        if now - self._swept > _SWEEP_S:
            self._swept = now
            for merged in self._merged.values():
                merged.pass_time()
                merged.fold.pack()
                if merged.fold.changes or now - merged.published > _SIGN_OF_LIFE_S:
                    self._touched.add(facts_topic(merged.tenant))
            self._bound()
            self._keep(now, group)
        self._publish(now)

    def _read(self) -> None:
        until = time.monotonic() + _READ_S
        read: set[str] = set()
        while True:
            try:
                messages = self._consumer.consume(_BATCH, 0)
            except KafkaException as failure:
                raise _unavailable(failure) from None
            for message in messages:
                error = message.error()
                if error is None:
                    self._take(message)
                    read.add(str(message.topic()))
                elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise _unavailable(KafkaException(error))
                else:
                    log.warning("reading facts", topic=message.topic(), error=error.str())
            if len(messages) < _BATCH or time.monotonic() > until:
                break
        for topic in read:
            if (merged := self._merged.get(topic)) is not None:
                merged.fold.measure()
                merged.pass_time()
        self._touched |= read & self._merged.keys()

    def _take(self, message: Message) -> None:
        merged = self._merged.get(str(message.topic()))
        offset = message.offset() or 0
        if merged is None or offset < merged.position:
            return
        merged.position = offset + 1
        try:
            segments = read_block(message.value())
        except ValueError as error:
            log.error("a record of the facts topic is passed over", topic=message.topic(), offset=offset,
                      error=str(error))  # fmt: skip
            return
        written_ms = message.timestamp()[1]
        now = time.monotonic()
        for segment in segments:
            merged.fold.apply(segment, written_ms)
            merged.heard[segment.partition] = now
        merged.changed = True

    def _publish(self, now: float) -> None:
        until = now + _PUBLISH_S
        # Who waited longest first: if there is not time for all, none waits for ever.
        for topic in sorted(self._touched, key=lambda topic: self._merged[topic].published):
            merged = self._merged[topic]
            if not merged.is_ready or now - merged.published < _PUBLISH_EVERY_S:
                continue
            if now - merged.all_cells > _ALL_CELLS_EVERY_S or merged.fold.is_over(merged.forget_ms):
                self._publish_one(merged, all_cells=True)
                merged.all_cells = now
                merged.fold.forget(merged.forget_ms)
            else:
                self._publish_one(merged, all_cells=False)
            merged.published = now
            if not merged.fold.changes:
                self._touched.discard(topic)
            if time.monotonic() > until:
                return

    def _publish_one(self, merged: _Merged, *, all_cells: bool) -> None:
        topic = live_topic(merged.tenant)
        for key, value in merged.records.changed(all_cells=all_cells or bool(merged.inherited)):
            self._send(topic, key, value)
            merged.inherited.discard(key)
        if not merged.is_ready:
            return
        for key in merged.inherited:
            if merged.records.is_taken_back(key):
                self._send(topic, key, None)
        merged.inherited.clear()

    def _bound(self) -> None:
        folds = {merged.fold: merged for merged in self._merged.values()}
        most = self._settings.wfm.max_rows
        rows = make_room(folds, most, lambda fold: self._publish_one(folds[fold], all_cells=True))
        if rows > most and time.monotonic() - self._complained > _COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            log.error("no room for what has to be kept: raise wfm.max_rows", rows=rows, max_rows=most)
        kept_rows.set(rows)

    def _keep(self, now: float, group: Callable[[], Any]) -> None:
        """One transaction for tenants whose interval ended, or that changed and were not kept for as long."""
        due = [
            merged
            for merged in self._merged.values()
            if merged.changed
            and merged.fold.covered
            and (
                (merged.closed and now - merged.snapshot > max(_SNAPSHOT_EVERY_S, self._snapshot_s / _SNAPSHOT_SHARE))
                or now - merged.snapshot > self._rules.step_ms / 1000
            )
        ]
        if not due:
            return
        due = sorted(due, key=lambda merged: merged.snapshot)[:_TOGETHER]
        if self._writer is None:
            writer = SnapshotWriter(self._settings, self._slot)
            writer.start()
            self._writer = writer
        kept = [Kept(merged.tenant, merged.fold, merged.position, merged.parts) for merged in due]
        parts = self._writer.write(kept, group())
        for number, merged in enumerate(due):
            merged.snapshot = now  # if it was given up, it is tried again after a while
            if parts is not None:
                self._snapshot_s = min(time.monotonic() - now, _LONGEST_SNAPSHOT_S)
                merged.parts = parts[number]
                merged.changed = merged.closed = False

    def close(self) -> None:
        """Let go of the connections."""
        self._merged.clear()
        self._reader.close()
        self._consumer.close()
        if self._writer is not None:
            self._writer.close()


def _unavailable(failure: KafkaException) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"facts: {failure.args[0].str()}")
