"""A run of dlq-reprocess for one tenant.

In this order: 1. a wrong path of a fix-up is told, 2. earlier runs of the tenant are fenced, 3. what they committed is
read, 4. the selected dead letters are tried, and each batch of them committed with what they became.

So each is replayed at most once, whether a run is killed, repeated, or another one runs at once: what was not committed
is not there, and what was is known to whoever comes after.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import structlog

from schemas.canonical import latest_schema
from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.reprocess.again import Again, Record, failed_again
from streaming.reprocess.batch import Batch, Found
from streaming.reprocess.committer import Committer
from streaming.reprocess.fixups import FixUps, RefusedError
from streaming.reprocess.hook import vendor_replay
from streaming.reprocess.kinds import any_element
from streaming.reprocess.memory import Memory, ensure_replays_topic, remember, wait_until_settled
from streaming.reprocess.rehearsal import check_paths
from streaming.reprocess.replays import TOPIC, Outcome
from streaming.reprocess.report import TenantReport
from streaming.reprocess.scan import Scan
from streaming.reprocess.selection import Left, Selection
from streaming.reprocess.transaction import ReplayProducer
from streaming.settings import Settings, Tenant
from streaming.topic_reader import TopicReader
from streaming.topics import MAX_RECORD_BYTES, ensure_topics

log = structlog.get_logger()

MAX_ATTEMPTS = 5
"""By default: the one at its arrival and four more."""

# What a record has beside key, value and headers.
_FRAMING_BYTES = 1_024


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        selection: Which dead letters.
        fixups: Tried on each.
        dry_run: Nothing is written, and no running one is fenced.
        max_attempts: What fails so often is parked.
        run_id: For the audit.
    """

    selection: Selection = field(default_factory=Selection)
    fixups: FixUps = field(default_factory=FixUps)
    dry_run: bool = False
    max_attempts: int = MAX_ATTEMPTS
    run_id: str = "by hand"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            msg = f"max_attempts is {self.max_attempts}: give 1 or more"
            raise ConfigurationError(msg)


Progress = Callable[[TenantReport], None]
"""Told after each commit, by a thread of its own."""


def reprocess(
    settings: Settings,
    tenant: Tenant,
    order: Order,
    report: TenantReport | None = None,
    *,
    progress: Progress = lambda _report: None,
) -> TenantReport:
    """Replay a tenant's selected dead letters.

    Args:
        settings: The platform's.
        tenant: Whose.
        order: What is asked for. Its fix-ups count where they were applied: one order a tenant.
        report: Of an attempt that failed, to go on counting.
        progress: See there.

    Returns:
        The report.

    Raises:
        ConfigurationError: a fix-up's path is in no selected dead letter, or a setting is wrong.
        FencedError: another run of this tenant began; it goes on.
        ServiceUnavailableError: Kafka or the registry does not answer. What was committed is done, the rest untouched;
            run again.
    """
    report = report or TenantReport(tenant.vendor, tenant.tenant_id, is_dry_run=order.dry_run)
    report.applied = order.fixups.applied
    with TopicReader(settings.kafka, f"ccaas-dlq-reprocess-{tenant.vendor}-{tenant.tenant_id}") as reader:
        spans = [reader.watermarks(place) for place in reader.partitions(tenant.dlq_topic)]
        if all(span.first >= span.end for span in spans):
            return report
        with closing(Registry(settings.registry)) as registry:
            run = _Run(settings, tenant, order, report, reader, registry)
            if order.fixups:
                with closing(run.scan(remember(reader, tenant.dlq_topic)).letters()) as letters:
                    check_paths(order.fixups, letters)
            if order.dry_run:
                run.rehearse()
            else:
                run.replay(progress)
    return report


class _Run:
    def __init__(  # noqa: PLR0917 (what reprocess() was given and made)
        self,
        settings: Settings,
        tenant: Tenant,
        order: Order,
        report: TenantReport,
        reader: TopicReader,
        registry: Registry,
    ) -> None:
        self._settings = settings
        self._tenant = tenant
        self._order = order
        self._report = report
        self._reader = reader
        self._hook = vendor_replay(tenant)
        # A dry run must register nothing.
        encoder = Encoder(latest_schema(registry.folder), 0) if order.dry_run else registry.encoder()
        self._again = Again(tenant, self._hook, order.fixups, encoder, registry.decoder())
        self._refused: Counter[str] = Counter()
        self._now_ms = time.time_ns() // 1_000_000

    def scan(self, memory: Memory) -> Scan:
        """A walk over the selected dead letters."""
        return Scan(
            self._reader,
            self._tenant,
            self._order.selection,
            memory,
            asks_again=self._hook.asks_again,
            now_ms=self._now_ms,
        )

    def rehearse(self) -> None:
        """Try all, and keep nothing."""
        scan = self.scan(remember(self._reader, self._tenant.dlq_topic))
        batch = Batch()
        for found in scan.letters():
            self._try(found, batch)
            if batch.is_full:
                self._report.add(batch.rows(), batch.events)
                batch = Batch()
        self._report.add(batch.rows(), batch.events)
        self._count(scan)

    def replay(self, progress: Progress) -> None:
        """Try all, and commit batch by batch."""
        kafka, tenant = self._settings.kafka, self._tenant
        ensure_topics(kafka, [tenant])
        ensure_replays_topic(kafka)
        with ReplayProducer(self._settings, tenant) as producer:
            producer.start()
            # Only now: an earlier run can commit nothing more.
            wait_until_settled(kafka, self._reader)
            scan = self.scan(remember(self._reader, tenant.dlq_topic))
            send, commit = partial(self._send, producer), partial(self._commit, producer, progress)
            with Committer(send, commit) as committer, closing(scan.letters()) as letters:
                batch = Batch()
                for found in letters:
                    self._try(found, batch)
                    if batch.is_full:
                        committer.commit(batch)
                        batch = Batch()
                if batch:
                    committer.commit(batch)
        self._count(scan)
        log.info(
            "dead letters replayed", vendor=tenant.vendor, tenant_id=tenant.tenant_id, read=scan.read,
            **{outcome.value: self._report.count(outcome) for outcome in Outcome},
        )  # fmt: skip

    def _try(self, found: Found, batch: Batch) -> None:
        """Hot path: what one dead letter becomes goes into the batch."""
        tenant, letter = self._tenant, found.letter
        try:
            tried = self._again.try_(letter)
        except RefusedError as refused:
            self._refused[str(refused)] += 1
            return
        for record in tried.events:
            batch.publish(tenant.events_topic, record)
        batch.events += len(tried.events)
        error = tried.error
        if error is None:
            batch.add(found, tried.event_type, Outcome.REPLAYED)
            return
        copy = failed_again(letter, error)
        if letter.said.attempt + 1 >= self._order.max_attempts or not _fits(copy):
            outcome = Outcome.PARKED
        else:
            outcome = Outcome.FAILED_AGAIN
            batch.publish(tenant.dlq_topic, copy)
        batch.add(found, tried.event_type, outcome, error.reason, any_element(error.path))

    def _send(self, producer: ReplayProducer, batch: Batch) -> None:
        # All at once: while the transaction is open, readers of the tenant's events wait.
        for topic, record in batch.records:
            producer.send(topic, record)
        tenant, order = self._tenant, self._order
        done = batch.replay(
            run_id=order.run_id,
            vendor=tenant.vendor,
            tenant_id=tenant.tenant_id,
            topic=tenant.dlq_topic,
            fixups=order.fixups.given,
        )
        producer.send(TOPIC, Record(tenant.dlq_topic.encode(), done.model_dump_json().encode(), []))

    def _commit(self, producer: ReplayProducer, progress: Progress, batch: Batch) -> None:
        producer.commit()
        self._report.add(batch.rows(), batch.events)
        progress(self._report)

    def _count(self, scan: Scan) -> None:
        self._report.read += scan.read
        self._report.left.update(scan.left)
        if self._refused:
            self._report.left[Left.REFUSED] += self._refused.total()
            self._report.refused.update(self._refused)


def _fits(record: Record) -> bool:
    """Whether Kafka would take it: a fresh dead letter has headers that the old one may not have had."""
    headers = sum(len(key) + len(value or b"") + 16 for key, value in record.headers)
    return headers + len(record.value or b"") + len(record.key or b"") + _FRAMING_BYTES <= MAX_RECORD_BYTES
