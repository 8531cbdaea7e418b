"""analytics-sink: from Kafka to the landing zone."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

import structlog
from confluent_kafka import Message
from prometheus_client import Counter, Gauge

from streaming.consumer.member import DRAIN_S, Member
from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption, Partition
from streaming.errors import BadEventError
from streaming.settings import Settings
from streaming.sink.buffer import Buffer
from streaming.sink.landing import LandingZone

log = structlog.get_logger()

landed_rows = Counter("ccaas_sink_rows_landed", "Events in landing files")
landed_files = Counter("ccaas_sink_files_landed", "Landing files")
buffered_rows = Gauge("ccaas_sink_rows_buffered", "Events waiting for the next file")


class SinkWork:
    """Writes what a member reads to files.

    At least once, in this order: 1. read, 2. buffer, 3. dead letters acknowledged, 4. file (fsync, rename), 5. commit.
    A crash between 4 and 5 leaves a file whose offsets are not committed: on assignment the member seeks past what has
    landed.

    Args:
        member: The runtime's.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._sink = member.settings.sink
        self._buffer = Buffer()
        self._flush_due = time.monotonic() + self._sink.flush_seconds
        self._zone = LandingZone(member.settings.landing_dir, member.cluster_id())
        self._zone.remove_orphans(member.slot)

    def first_offsets(
        self, partitions: Sequence[Partition], committed: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        """max(committed, landed + 1)."""
        self._zone.scan()
        first = {}
        for partition in partitions:
            landed = self._zone.landed(*partition)
            if landed is not None and landed + 1 > committed.get(partition, 0):
                first[partition] = landed + 1
        if first:
            log.info("begins behind what has landed although it was not committed", partitions=len(first))
        return first

    def take(self, messages: list[Message]) -> None:
        """Buffer records; those that can't be decoded become dead letters."""
        member, buffer = self._member, self._buffer
        for message in messages:
            try:
                event = member.decode(message)
            except BadEventError as error:
                member.dead_letter(message, error)
            else:
                if member.decoder.promoted is not buffer.promoted:  # a newer schema came
                    buffer.promote(member.decoder.promoted)
                buffer.add(message, event)
            buffer.pass_over(message)

    def tick(self) -> None:
        """Flush if a bound is reached.

        Raises:
            ServiceUnavailableError: Kafka does not take dead letters.
            OSError: the landing zone can't be written.
        """
        sink, buffer = self._sink, self._buffer
        buffered_rows.set(len(buffer))
        full = len(buffer) >= sink.flush_rows or buffer.bytes >= sink.flush_bytes
        if full or (time.monotonic() >= self._flush_due and buffer.next_offsets):
            self.settle(time.monotonic() + DRAIN_S)

    def settle(self, deadline: float) -> None:
        """Steps 3 to 5 of the class's order.

        Raises:
            ServiceUnavailableError: dead letters are not acknowledged; nothing landed, nothing is committed.
            OSError: the landing zone can't be written.
        """
        member = self._member
        buffer, self._buffer = self._buffer, Buffer(member.decoder.promoted)
        self._flush_due = time.monotonic() + self._sink.flush_seconds
        if not buffer.next_offsets:
            return
        member.settle_dead_letters(deadline)
        if len(buffer):
            path = self._zone.write(buffer.columns, buffer.offsets, member.slot, buffer.promoted)
            landed_rows.inc(len(buffer))
            landed_files.inc()
            log.info("landed", rows=len(buffer), file=path.name)
        # Landed but not committed: whoever has the partitions then begins behind it.
        member.commit(buffer.next_offsets)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Rows of lost partitions are read again by their new owner."""
        self._buffer.drop(partitions)

    def close(self) -> None:
        """Nothing to let go of."""


def run_sink(settings: Settings, stop: threading.Event) -> None:
    """analytics-sink as a service; raises as :func:`streaming.consumer.service.run_member`."""
    consumption = Consumption(
        "analytics-sink", settings.sink, settings.health.analytics_sink, poll_records=2_000, gather_s=0.1
    )  # fmt: skip
    run_member(settings, consumption, SinkWork, stop)
