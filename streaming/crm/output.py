"""What a poll leaves on Kafka: state changes, dead letters and offsets, all or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streaming.clients import transactional, until_done
from streaming.consumer.member import Member
from streaming.consumer.work import Partition
from streaming.deadletter import Headers
from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError

log = structlog.get_logger()

TRANSACTION_TIMEOUT_S = 15
"""Kafka ends the transaction of a member that is silent for so long. No longer: until then the offsets of a killed
member's partitions are unknown to whoever gets them."""

# For all of a transaction, in which Kafka may be down; then the service is built anew.
_PATIENCE_S = 30.0
_CALL_S = 10.0
_MAX_QUEUED_RECORDS = 100_000
_MAX_QUEUED_KBYTES = 64 * 1024
_ABORT = "abort"
_FORBIDDEN = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
}


class Record(NamedTuple):
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class AbortedError(CcaasError):
    """The transaction was given up: nothing of it is there. The member reads again from where it began."""


class Output(Protocol):
    """Where a poll's outcome goes."""

    def write(self, records: Sequence[Record], offsets: Mapping[Partition, int]) -> None:
        """Write records, and commit the next offsets of what they were made of.

        Raises:
            AbortedError: nothing was written or committed; try again.
            ServiceUnavailableError: what was written and committed is not known; build the service anew.
            ConfigurationError: Kafka refuses for good.
        """

    def close(self) -> None:
        """Give up what is open."""


class TransactionalOutput:
    """One transaction a poll; its id is the member's slot, so a successor ends at once what a killed one left open.

    The broker takes offsets only of the group's member that has the slot, and records only of the id's last producer.

    Args:
        member: Whose offsets are committed.

    Raises:
        ServiceUnavailableError: Kafka does not answer.
        ConfigurationError: it refuses the transactional id.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._id = member.slot
        self._is_open = False
        self._producer = Producer(
            {
                **transactional(member.settings.kafka, self._id, self._id, TRANSACTION_TIMEOUT_S),
                "linger.ms": member.settings.producer.linger_ms,
                "batch.size": member.settings.producer.batch_size,
                "queue.buffering.max.messages": _MAX_QUEUED_RECORDS,
                "queue.buffering.max.kbytes": _MAX_QUEUED_KBYTES,
            }
        )
        self._until_done(self._producer.init_transactions, "begin", time.monotonic() + _PATIENCE_S)

    def write(self, records: Sequence[Record], offsets: Mapping[Partition, int]) -> None:
        """See :meth:`Output.write`; 1. begin, 2. records, 3. offsets, 4. commit."""
        positions = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        metadata = self._member.group_metadata()
        deadline = time.monotonic() + _PATIENCE_S
        self._until_done(lambda _seconds: self._producer.begin_transaction(), "begin a transaction", deadline)
        self._is_open = True
        for record in records:
            self._send(record, deadline)
        self._until_done(
            lambda seconds: self._producer.send_offsets_to_transaction(positions, metadata, seconds),
            "send offsets",
            deadline,
        )
        self._until_done(self._producer.commit_transaction, "commit", deadline)
        self._is_open = False

    def close(self) -> None:
        """Abort what is open, if Kafka answers; else the successor or the timeout does."""
        with contextlib.suppress(KafkaException):
            if self._is_open:
                self._producer.abort_transaction(_CALL_S)
            self._producer.purge(in_queue=True, in_flight=True)
            self._producer.poll(0)

    def _send(self, record: Record, deadline: float) -> None:
        while True:
            try:
                self._producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
            except BufferError:
                # Kafka takes what waits, or the deadline comes: memory stays bounded.
                if time.monotonic() > deadline:
                    raise self._fault(KafkaError(KafkaError._TIMED_OUT), "send") from None
                self._producer.poll(0.05)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._STATE:
                    # An earlier record failed: a commit tells why, and does nothing else.
                    self._until_done(self._producer.commit_transaction, "send", deadline)
                raise self._fault(error.args[0], "send") from None
            else:
                return

    def _until_done(self, step: Callable[[float], None], what: str, deadline: float) -> None:
        """Do a step, and again while Kafka's client says that it may be done again, until the monotonic deadline."""
        try:
            until_done(step, what, self._id, deadline, _CALL_S)
        except KafkaException as error:
            fault = error.args[0]
            if fault.txn_requires_abort() and what != _ABORT:
                self._abort(fault, what)
            raise self._fault(fault, what) from None

    def _abort(self, fault: KafkaError, what: str) -> None:
        """Give the transaction up.

        Raises:
            AbortedError: always, unless that fails too: then what :meth:`_until_done` says of the abort.
        """
        self._until_done(self._producer.abort_transaction, _ABORT, time.monotonic() + _PATIENCE_S)
        self._is_open = False
        if fault.code() in _FORBIDDEN:
            raise self._fault(fault, what)
        msg = f"{self._id}: could not {what}: {fault.str()}"
        raise AbortedError(msg)

    def _fault(self, error: KafkaError, what: str) -> CcaasError:
        if error.code() in _FORBIDDEN:
            msg = (
                f"{self._id}: Kafka refuses to {what}: {error.str()}; allow Write on the tenants' state and "
                "dead-letter topics, Read on the group, and Write and Describe on the transactional id"
            )
            return ConfigurationError(msg)
        # Fatal errors too, being fenced among them: the service built anew needs the slot's lease first.
        return ServiceUnavailableError(f"{self._id}: could not {what}: {error.str()}")
