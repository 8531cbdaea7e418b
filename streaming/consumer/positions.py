"""Where a member begins to read: the committed offset, checked against what the partitions still hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _Spec  # type: ignore[attr-defined]  # exported, not declared so
from prometheus_client import Counter

from streaming.consumer.work import Partition
from streaming.errors import ServiceUnavailableError

log = structlog.get_logger()

expired_records = Counter(
    "ccaas_consumer_records_expired", "Records whose retention ended before they were read", ["consumer"]
)


Ends = dict[TopicPartition, "Future[Any]"]
"""Answers to come, by partition."""


class Span(NamedTuple):
    """What a partition holds: first offset, and one behind the last."""

    low: int
    high: int


def committed_offsets(consumer: Consumer, partitions: Iterable[Partition], timeout: float) -> dict[Partition, int]:
    """The group's next offset of each partition that has one.

    Args:
        consumer: A member.
        partitions: Asked about.
        timeout: Seconds; longer than a transaction that a killed member left open, which Kafka waits for.

    Raises:
        ServiceUnavailableError: Kafka does not say; it would be wrong to take that for "none".
    """
    try:
        found = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout=timeout)
        faults = [(position, position.error) for position in found if position.error is not None]
    except KafkaException as failure:
        msg = f"committed offsets: {failure.args[0].str()}"
        raise ServiceUnavailableError(msg) from None
    if faults:
        position, error = faults[0]
        msg = f"committed offset of {position.topic}[{position.partition}]: {error}"
        raise ServiceUnavailableError(msg)
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


def ends(admin: AdminClient, partitions: Iterable[Partition], timeout: float, *, first: bool = False) -> Ends:
    """Ask where partitions end, or where they begin; a request a broker, however many there are."""
    spec = _Spec.earliest() if first else _Spec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(*partition): spec for partition in partitions}
    return admin.list_offsets(asked, request_timeout=timeout) if asked else {}


def spans(admin: AdminClient, partitions: Collection[Partition], timeout: float) -> dict[Partition, Span]:
    """What partitions hold; those without a leader, or deleted meanwhile, are left out.

    Raises:
        ServiceUnavailableError: Kafka says nothing of any.
    """
    asked = [ends(admin, partitions, timeout, first=first) for first in (True, False)]
    found: list[dict[Partition, int]] = [{}, {}]
    fault: Exception | None = None
    for offsets, answers in zip(found, asked, strict=True):
        for at, answer in answers.items():
            try:
                offsets[at.topic, at.partition] = answer.result(timeout).offset
            except (KafkaException, TimeoutError) as error:
                fault = error
                log.warning("what a partition holds is not known", topic=at.topic, partition=at.partition,
                            error=str(error))  # fmt: skip
    low, high = found
    held = {partition: Span(low[partition], high[partition]) for partition in low.keys() & high.keys()}
    if fault is not None and not held:
        msg = f"offsets of partitions: {fault}"
        raise ServiceUnavailableError(msg)
    return held


def checked(
    consumer: str,
    partitions: Iterable[Partition],
    wanted: Mapping[Partition, int],
    committed: Mapping[Partition, int],
    held: Mapping[Partition, Span],
) -> dict[Partition, int]:
    """The offset at which each partition begins; says loudly what is lost or makes no sense.

    Args:
        consumer: Its name, for the metric.
        partitions: Those that are begun.
        wanted: Asked for by the consumer's work; goes before the committed one.
        committed: By the group.
        held: What the partitions hold, as far as it is known; the others begin unchecked.
    """
    first: dict[Partition, int] = {}
    for partition in partitions:
        begin = wanted.get(partition, committed.get(partition))
        span = held.get(partition)
        if span is None:
            first[partition] = OFFSET_BEGINNING if begin is None else begin
            continue
        where = {"topic": partition[0], "partition": partition[1], "low": span.low, "high": span.high}
        if begin is not None and begin > span.high:
            log.error("offset behind the partition's end: was the topic made anew?", offset=begin, **where)
            begin = committed.get(partition)
            if begin is not None and begin > span.high:
                begin = None
        if begin is not None and begin < span.low:
            expired_records.labels(consumer).inc(span.low - begin)
            log.error(
                "records expired before they were read; replay them from the vendor (backfill, reconcile)",
                offset=begin, lost=span.low - begin, **where,
            )  # fmt: skip
            begin = span.low
        first[partition] = span.low if begin is None else begin
    return first
