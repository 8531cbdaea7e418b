"""The producer of replays: one tenant's, all or nothing.

Everything of a batch (events, fresh dead letters, the record of what was done) is one transaction. A new run of the
same tenant fences an earlier one: its open transaction is ended, and it can commit nothing more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from streaming.clients import transactional, until_done
from streaming.errors import CcaasError, ConfigurationError, FencedError, ServiceUnavailableError
from streaming.reprocess.again import Record
from streaming.settings import Settings, Tenant

log = structlog.get_logger()

TRANSACTION_TIMEOUT_S = 60
"""Kafka ends the transaction of a run that is silent for so long. Until then other readers wait for what is behind."""

# For each step, in which Kafka may be down: then the batch is given up, and nothing of it is there.
_PATIENCE_S = 60.0
_CALL_S = 10.0
_MAX_QUEUED_RECORDS = 100_000
_MAX_QUEUED_KBYTES = 128 * 1024
_BATCH_BYTES = 256 * 1024
_FENCED = {
    KafkaError._FENCED,
    KafkaError._FATAL,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
}
_FORBIDDEN = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
}


class ReplayProducer:
    """Sends records in transactions. Use it from one thread, as a context: leaving it gives an open one up.

    Args:
        settings: Kafka and producer settings.
        tenant: Whose dead letters are replayed.

    Raises:
        FencedError: by any method: a later run has begun.
        ConfigurationError: by any method: Kafka refuses for good.
        ServiceUnavailableError: by any method: Kafka does not answer in a minute. What was begun is given up; if that
            was a commit, it may have been done, which the next run finds out.
    """

    def __init__(self, settings: Settings, tenant: Tenant) -> None:
        self._id = f"ccaas-dlq-reprocess/{tenant.vendor}/{tenant.tenant_id}"
        self._is_open = False
        self._producer = Producer(
            {
                **transactional(settings.kafka, "dlq-reprocess", self._id, TRANSACTION_TIMEOUT_S),
                "linger.ms": settings.producer.linger_ms,
                # Nobody waits for one record: larger than on the event path.
                "batch.size": max(settings.producer.batch_size, _BATCH_BYTES),
                "queue.buffering.max.messages": _MAX_QUEUED_RECORDS,
                "queue.buffering.max.kbytes": _MAX_QUEUED_KBYTES,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def start(self) -> None:
        """Fence an earlier run, and end its open transaction."""
        self._until_done(self._producer.init_transactions, "begin")

    def send(self, topic: str, record: Record) -> None:
        """Queue a record within the transaction, which begins with the first."""
        if not self._is_open:
            self._until_done(lambda _seconds: self._producer.begin_transaction(), "begin a transaction")
            self._is_open = True
        deadline = 0.0
        while True:
            try:
                self._producer.produce(topic, record.value, record.key, headers=list(record.headers))
            except BufferError:
                # Kafka takes what waits, or the deadline comes: memory stays bounded.
                deadline = deadline or time.monotonic() + _PATIENCE_S
                if time.monotonic() > deadline:
                    raise self._fault(KafkaError(KafkaError._TIMED_OUT), "send") from None
                self._producer.poll(0.05)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._STATE:
                    # An earlier record failed: a commit tells why, and does nothing else.
                    self.commit()
                raise self._fault(error.args[0], "send") from None
            else:
                return

    def commit(self) -> None:
        """Make all that was sent since the last commit visible, at once."""
        if self._is_open:
            self._until_done(self._producer.commit_transaction, "commit")
            self._is_open = False

    def _until_done(self, step: Callable[[float], None], what: str) -> None:
        """Do a step, and again as long as Kafka's client says that it may be done again."""
        try:
            until_done(step, what, self._id, time.monotonic() + _PATIENCE_S, _CALL_S)
        except KafkaException as error:
            raise self._fault(error.args[0], what) from None

    def _fault(self, error: KafkaError, what: str) -> CcaasError:
        if error.code() in _FENCED:
            msg = (
                f"{self._id}: another run of dlq-reprocess for this tenant began, and goes on; this one ends. Of what "
                f"it had not committed nothing is there ({error.str()})"
            )
            return FencedError(msg)
        if error.code() in _FORBIDDEN:
            msg = (
                f"{self._id}: Kafka refuses to {what}: {error.str()}; allow Write on the tenant's topics and on the "
                "topic of replays, and Write and Describe on the transactional id"
            )
            return ConfigurationError(msg)
        return ServiceUnavailableError(f"{self._id}: could not {what}: {error.str()}; nothing half done, run again")

    def _give_up(self) -> None:
        """Abort what is open, if Kafka answers; else the next run or the timeout does."""
        if self._is_open:
            with contextlib.suppress(KafkaException):
                self._producer.abort_transaction(_CALL_S)
        self._producer.purge(in_queue=True, in_flight=True)
        with contextlib.suppress(KafkaException):  # of a fenced producer it may be the first call that tells
            self._producer.poll(0)
