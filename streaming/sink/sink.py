"""analytics-sink: from Kafka to the landing zone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import structlog
from confluent_kafka import Message
from prometheus_client import Counter, Gauge

from schemas.columns import ColumnDecoder
from streaming.consumer.member import DRAIN_S, Member
from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption, Partition
from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings
from streaming.sink.buffer import Buffer
from streaming.sink.frugal import give_back_memory, keep_out_pandas
from streaming.sink.incarnations import incarnations
from streaming.sink.landing import LandingZone
from streaming.sink.store import open_store

log = structlog.get_logger()

landed_rows = Counter("ccaas_sink_rows_landed", "Events in landing files")
landed_files = Counter("ccaas_sink_files_landed", "Landing files")
buffered_rows = Gauge("ccaas_sink_rows_buffered", "Events waiting for the next file")
refused_files = Counter("ccaas_sink_files_refused", "Attempts to write a file that the landing zone did not take")

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 30.0
# Partitions are held for longer than until the next attempt, which may fail too.
_HOLD_S = 2 * _LONGEST_RETRY_S


class SinkWork:
    """Writes what a member reads to files.

    At least once, in this order: 1. read, 2. buffer, 3. dead letters acknowledged, 4. file (fsync, rename), 5. commit.
    A crash between 4 and 5 leaves a file whose offsets are not committed: on assignment the member seeks past what has
    landed. Offsets count for the topic with the id that they were read from, not for one made anew under its name.
    While the landing zone takes no file, the buffer is kept, nothing more is read, and it is tried again.

    Args:
        member: The runtime's.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._sink = member.settings.sink
        self._columns = ColumnDecoder(member.decoder)
        self._buffer = Buffer()
        self._flush_due = time.monotonic() + self._sink.flush_seconds
        self._retry_s = 0.0
        self._held: set[Partition] = set()
        self._zone = LandingZone(open_store(member.settings.landing), member.cluster_id())
        # Names with ids, by topic.
        self._incarnations: dict[str, str] = {}
        self._taken: dict[Partition, int] = {}
        # Landed, and not committed yet; at most one offset a partition.
        self._uncommitted: dict[Partition, int] = {}
        self._zone.remove_orphans(member.slot)
        # The many files of a long time, while no rebalance waits for it; on assignment there are few new ones.
        self._scan()

    def first_offsets(
        self, partitions: Sequence[Partition], committed: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        """max(committed, landed + 1).

        Raises:
            ServiceUnavailableError: the landing zone can't be read, or Kafka tells no topic's id.
        """
        self._scan()
        self._identify({topic for topic, _ in partitions})
        first = {}
        for topic, number in partitions:
            incarnation = self._incarnations.get(topic)
            if incarnation is None:  # it was deleted just now
                continue
            landed = self._zone.landed(incarnation, number)
            behind = 0 if landed is None else landed + 1
            offset = committed.get((topic, number), 0)
            before = self._zone.landed_before(incarnation, number)
            if behind > offset:
                first[topic, number] = behind
            elif before is not None and behind < offset <= before + 1:
                # Committed on leaving the topic's former incarnation, it may be; records read twice do no harm.
                log.warning("committed offset is of a topic that was deleted", topic=topic, partition=number,
                            offset=offset, begins_at=behind)  # fmt: skip
                first[topic, number] = behind
        if first:
            log.info("begins elsewhere than committed: behind what has landed", partitions=len(first))
            self._uncommitted |= first
        return first

    def take(self, messages: list[Message]) -> None:
        """Buffer records; those that can't be decoded become dead letters."""
        self._follow(messages)
        values = [message.value() for message in messages]
        decoded = self._columns.decode(values)
        for position, error in decoded.bad:
            self._member.dead_letter(messages[position], error)
        self._buffer.add(messages, decoded)

    def tick(self) -> None:
        """Flush if a bound is reached, or, after a file was refused, if the time has come to try again.

        Raises:
            ServiceUnavailableError: Kafka does not take dead letters.
        """
        sink, buffer = self._sink, self._buffer
        buffered_rows.set(buffer.rows)
        due = time.monotonic() >= self._flush_due
        if self._retry_s:
            self._hold()
        elif buffer.rows >= sink.flush_rows or buffer.bytes >= sink.flush_bytes:
            due = True
        if due:
            self.settle(time.monotonic() + DRAIN_S)

    def settle(self, deadline: float) -> None:
        """Steps 3 to 5 of the class's order. What the landing zone does not take stays, and is not committed.

        Raises:
            ServiceUnavailableError: dead letters are not acknowledged; nothing landed, nothing is committed.
        """
        if self._buffer.spans:
            if not self._flush(deadline):
                return
        elif self._uncommitted:
            self._commit({})
        self._flush_due = time.monotonic() + self._sink.flush_seconds
        if self._retry_s:
            self._retry_s = 0.0
            self._release()

    def forget(self, partitions: Collection[Partition]) -> None:
        """Rows of lost partitions are read again by their new owner."""
        self._buffer.drop(partitions)
        for partition in partitions:
            self._taken.pop(partition, None)
            self._uncommitted.pop(partition, None)
        self._held.difference_update(partitions)

    def close(self) -> None:
        """Nothing to let go of."""

    def _scan(self) -> None:
        try:
            self._zone.scan()
        except OSError as error:
            msg = f"the landing zone can't be read: {error}"
            raise ServiceUnavailableError(msg) from None
        give_back_memory()

    def _follow(self, messages: list[Message]) -> None:
        """Notice topics that were made anew: their offsets begin again.

        They do so between two polls, since the runtime assigns such a partition anew.
        """
        first: dict[Partition, int] = {(m.topic(), m.partition()): m.offset() for m in reversed(messages)}  # type: ignore[misc]  # a record has them
        last: dict[Partition, int] = {(m.topic(), m.partition()): m.offset() for m in messages}  # type: ignore[misc]
        back = {partition[0] for partition, offset in first.items() if offset <= self._taken.get(partition, -1)}
        if back:
            self._identify(back)
        self._taken |= last

    def _identify(self, topics: Collection[str]) -> None:
        """Learn the ids of topics; what was read of a former incarnation lands as that one's.

        Raises:
            ServiceUnavailableError: Kafka does not say, or the landing zone takes no file now.
        """
        found = incarnations(self._member.settings.kafka, topics)
        anew = {
            topic for topic, incarnation in found.items() if self._incarnations.get(topic, incarnation) != incarnation
        }
        if anew:
            log.warning("topics were deleted and made anew", topics=sorted(anew))
            self._uncommitted = {place: next_ for place, next_ in self._uncommitted.items() if place[0] not in anew}
            if any(topic in anew for topic, _ in self._buffer.spans) and not self._flush(
                time.monotonic() + DRAIN_S, anew
            ):
                msg = "the landing zone takes no file, and a topic was made anew: its records wait on Kafka"
                raise ServiceUnavailableError(msg)
        self._incarnations |= found

    def _flush(self, deadline: float, gone: Collection[str] = ()) -> bool:
        """Land the buffer and commit, but for topics that are gone: the offsets would count for their successors."""
        member, buffer = self._member, self._buffer
        member.settle_dead_letters(deadline)
        if buffer.rows:
            now = time.monotonic()
            # A store that just refused a file is not tried again before its time: a rebalance may wait for this.
            if now >= deadline or (self._retry_s and now < self._flush_due) or not self._land(buffer):
                return False
        # Landed but not committed: whoever has the partitions then begins behind it.
        self._commit({place: last + 1 for place, (_, last) in buffer.spans.items() if place[0] not in gone})
        self._buffer = Buffer()
        give_back_memory()
        return True

    def _commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit next offsets, and those that Kafka did not take before, in a rebalance for example.

        Else a partition of which nothing comes any more would seem to be behind for ever.
        """
        offsets = {**self._uncommitted, **offsets}
        self._uncommitted = {} if self._member.commit(offsets) else offsets

    def _land(self, buffer: Buffer) -> bool:
        layout, tables = buffer.tables(self._member.decoder.promoted)
        offsets: dict[str, dict[int, tuple[int, int]]] = {}
        for (topic, number), span in buffer.spans.items():
            if topic in self._incarnations:  # else it was deleted before its id was known: nobody needs its offsets
                offsets.setdefault(self._incarnations[topic], {})[number] = span
        try:
            name = self._zone.write(layout, tables, offsets, self._member.slot)
        except (OSError, ServiceUnavailableError) as error:
            refused_files.inc()
            self._retry_s = min(_LONGEST_RETRY_S, 2 * self._retry_s or _FIRST_RETRY_S)
            wait = self._retry_s * random.uniform(0.5, 1)
            self._flush_due = time.monotonic() + wait
            log.error("the landing zone takes no file; nothing more is read until it does",
                      rows=buffer.rows, error=str(error), again_in_s=round(wait, 1))  # fmt: skip
            self._held.clear()
            self._hold()
            return False
        landed_rows.inc(buffer.rows)
        landed_files.inc()
        log.info("landed", rows=buffer.rows, file=name)
        return True

    def _hold(self) -> None:
        """Read no partition, those that came since among them."""
        fresh = self._member.assigned - self._held
        if fresh:
            self._member.hold(fresh, _HOLD_S)
            self._held |= fresh

    def _release(self) -> None:
        self._member.hold(self._held, 0)
        self._held.clear()


def run_sink(settings: Settings, stop: threading.Event) -> None:
    """analytics-sink as a service; raises as :func:`streaming.consumer.service.run_member`."""
    keep_out_pandas()
    consumption = Consumption(
        "analytics-sink", settings.sink, settings.health.analytics_sink, poll_records=2_000, gather_s=0.1
    )
    run_member(settings, consumption, SinkWork, stop)
