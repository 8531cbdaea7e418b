"""crm-sync: what it does with the records of a poll."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog
from confluent_kafka import Message
from confluent_kafka.cimpl import NewTopic
from prometheus_client import Counter, Gauge

from streaming.consumer.member import Member
from streaming.consumer.work import Partition
from streaming.crm.acknowledged import Acknowledged
from streaming.crm.calls import Answers, Calls
from streaming.crm.client import Activity
from streaming.crm.output import AbortedError, Output, Record
from streaming.crm.poll import Prefix, Read, prefix, read
from streaming.errors import BadEventError, CcaasError, ConfigurationError
from streaming.publisher import fitting
from streaming.settings import KafkaSettings, Tenant
from streaming.topics import MAX_RECORD_BYTES, dead_letter_topic, ensure

log = structlog.get_logger()

committed_changes = Counter("ccaas_crm_state_changes", "State changes committed to the state topics")
rewinds = Counter("ccaas_crm_rewinds", "Polls of which something is to be read again", ["cause"])
remembered = Gauge("ccaas_crm_acknowledged_uncommitted", "Events that the CRM has and whose offsets are not committed")

STATE = "crm.state"
"""Kind of the topics of state changes."""

_FIRST_HOLD_S = 1.0
_LONGEST_HOLD_S = 30.0


class CrmWork:
    """Tells the CRM of every event and writes what it changes.

    Exactly once on Kafka, in this order, for each poll: 1. read, 2. CRM calls, until the deadline, 3. of each partition
    what is done, up to the first record that is not: state changes, dead letters and offsets in one transaction,
    4. the rest is read again after a pause, without telling the CRM again what it has acknowledged.

    Nothing is written before the calls end, so a slow CRM can't outlive a transaction. Transactions do not reach into
    the CRM: there the idempotency key makes a repeated call harmless.

    Args:
        member: The runtime's.
        calls: To the CRM; closed with the work.
        output: To Kafka; closed with the work.
    """

    def __init__(self, member: Member, calls: Calls, output: Output) -> None:
        self._member = member
        self._calls = calls
        self._output = output
        self._acknowledged = Acknowledged()
        self._failures: dict[Partition, int] = {}
        self._ensured: set[str] = set()

    def first_offsets(
        self,
        partitions: Sequence[Partition],
        committed: Mapping[Partition, int],  # noqa: ARG002 (the runtime's signature)
    ) -> Mapping[Partition, int]:
        """All begin where the group committed. New tenants' state topics are made.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
            ConfigurationError: it refuses a topic.
        """
        self._ensure(self._member.tenant_of(topic) for topic in {topic for topic, _ in partitions})
        return {}

    def take(self, messages: list[Message]) -> None:
        """One poll, in the class's order.

        Raises:
            ServiceUnavailableError: what is committed is not known.
            ConfigurationError: Kafka refuses for good.
        """
        poll = read(self._member, messages)
        answers, moved = self._tell(poll)
        done = prefix(poll)
        try:
            self._commit(done)
        except AbortedError as error:
            # Perhaps a topic went away, or partitions are no longer this member's: the next poll tells.
            log.warning("transaction given up; its records are read again", error=str(error))
            self._ensured.clear()
            self._rewind({partition: records[0].offset for partition, records in poll.items()}, "aborted", set())
            return
        for partition in moved | (poll.keys() - done.rest.keys()):
            self._failures.pop(partition, None)
        if done.rest:
            _say(answers.fault, done.rest)
            self._rewind(done.rest, "crm", moved, answers.wait)

    def tick(self) -> None:
        """Nothing waits between polls."""

    def settle(self, deadline: float) -> None:
        """Nothing to do: a poll is settled when :meth:`take` returns."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """What is in memory of them."""
        self._acknowledged.forget(partitions)
        for partition in partitions:
            self._failures.pop(partition, None)

    def close(self) -> None:
        """Abort what is open, let go of connections."""
        self._output.close()
        self._calls.close()

    def _tell(self, poll: Mapping[Partition, list[Read]]) -> tuple[Answers, set[Partition]]:
        """Make the calls that are due, mark what is done; with the partitions of which the CRM took something."""
        due: dict[str, Activity] = {}
        for partition, records in poll.items():
            for record in records:
                if (activity := record.activity) is None:
                    continue
                record.is_taken = self._acknowledged.has(partition, activity.event_id)
                if not record.is_taken:
                    # Of two copies in a poll the first counts, as it does in the CRM.
                    due.setdefault(activity.event_id, activity)
        answers = self._calls.make(due.values())
        moved: set[Partition] = set()
        for partition, records in poll.items():
            for record in records:
                if (activity := record.activity) is None:
                    continue
                if activity.event_id in answers.taken:
                    record.is_taken = True
                    moved.add(partition)
                    self._acknowledged.add(partition, record.offset, activity.event_id)
                elif activity.event_id in answers.refused:
                    record.error = answers.refused[activity.event_id]
        return answers, moved

    def _commit(self, done: Prefix) -> None:
        if not done.offsets:
            return
        changes: list[Record] = []
        letters: list[tuple[Tenant, Record]] = []
        for item in done.records:
            if item.error is not None:
                letters += _dead_letter(self._member, item.message, item.error)
            elif item.activity is not None and item.tenant is not None:
                changes.append(Record(item.tenant.topic(STATE), item.key, item.activity.body, []))
        self._ensure((item.tenant for item in done.records), (tenant for tenant, _ in letters))
        self._output.write([*changes, *(letter for _, letter in letters)], done.offsets)
        self._acknowledged.committed(done.offsets)
        remembered.set(len(self._acknowledged))
        committed_changes.inc(len(changes))
        for tenant, letter in letters:
            self._member.notice_dead_letter(tenant, letter.value, letter.headers)

    def _rewind(
        self, offsets: Mapping[Partition, int], cause: str, moved: Collection[Partition], at_least: float = 0.0
    ) -> None:
        """Read partitions again from these offsets, after a pause that grows with every failure in turn.

        Where something moved the CRM is slow, not down: then without a pause, unless the CRM asks for one.
        """
        rewinds.labels(cause).inc()
        for partition, offset in offsets.items():
            pause = at_least
            if partition not in moved:
                failures = self._failures[partition] = self._failures.get(partition, 0) + 1
                longest = min(_FIRST_HOLD_S * 2.0 ** (failures - 1), _LONGEST_HOLD_S)
                pause = max(pause, random.uniform(longest / 2, longest))
            self._member.seek(partition, offset)
            if pause:
                self._member.hold([partition], pause)

    def _ensure(self, changed: Iterable[Tenant | None], failed: Iterable[Tenant] = ()) -> None:
        """Make the topics of tenants' state changes and dead letters that this member has not seen since an abort."""
        kafka = self._member.settings.kafka
        wanted = {tenant.topic(STATE): (_state_topic, tenant) for tenant in changed if tenant is not None}
        wanted |= {tenant.dlq_topic: (dead_letter_topic, tenant) for tenant in failed}
        missing = wanted.keys() - self._ensured
        if missing:
            ensure(kafka, [make(kafka, tenant) for make, tenant in (wanted[name] for name in missing)])
            self._ensured |= missing


def _dead_letter(member: Member, message: Message, error: BadEventError) -> list[tuple[Tenant, Record]]:
    letter = member.dead_letter_record(message, error)
    if letter is None:
        return []
    tenant, key, value, headers = letter
    return [(tenant, Record(tenant.dlq_topic, *fitting(key, value, headers)))]


def _state_topic(settings: KafkaSettings, tenant: Tenant) -> NewTopic:
    return NewTopic(
        tenant.topic(STATE),
        num_partitions=tenant.partitions,
        replication_factor=settings.replication_factor,
        config={
            # A change has a key of its own: compaction drops repetitions, retention what is old.
            "cleanup.policy": "compact,delete",
            "retention.ms": str(tenant.retention_ms),
            "max.message.bytes": str(MAX_RECORD_BYTES),
        },
    )


def _say(fault: CcaasError | None, rest: Mapping[Partition, int]) -> None:
    """Tell people why events wait."""
    say = log.error if isinstance(fault, ConfigurationError) else log.warning if fault is not None else log.info
    say("events wait for the CRM", error=str(fault or "no answer yet"), partitions=len(rest), first=min(rest))
