"""What this platform's Kafka clients share: how producers are set up, and how a transaction's steps are repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException

from streaming.settings import KafkaSettings
from streaming.topics import MAX_RECORD_BYTES

log = structlog.get_logger()

_MAX_INT32 = 2_147_483_647


def log_error(error: KafkaError) -> None:
    """For ``error_cb``: librdkafka reconnects by itself; a person should still see that it must."""
    log.warning("Kafka client", error=error.str())


def durable(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    """Properties of a producer that never gives a record up; linger, batches and bounds are the caller's.

    Args:
        kafka: The cluster.
        client_id: Name in the broker's logs and metrics.
    """
    return {
        **_producer(kafka, client_id),
        "max.in.flight.requests.per.connection": 5,
        # Endless: a broker that is down is waited for, never given up.
        "retries": _MAX_INT32,
        "message.timeout.ms": 0,
    }


def transactional(kafka: KafkaSettings, client_id: str, transactional_id: str, timeout_s: float) -> dict[str, Any]:
    """Properties of a transactional producer; linger, batches and bounds are the caller's.

    Args:
        kafka: The cluster.
        client_id: Name in the broker's logs and metrics.
        transactional_id: Of two producers with one id Kafka lets the later one go on.
        timeout_s: Kafka ends the transaction of a producer that is silent for so long.
    """
    timeout_ms = int(timeout_s * 1000)
    return {
        **_producer(kafka, client_id),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": timeout_ms,
        # With transactions neither may be longer.
        "message.timeout.ms": timeout_ms,
        "socket.timeout.ms": timeout_ms,
        # What fails, fails the transaction.
        "delivery.report.only.error": True,
    }


def until_done(step: Callable[[float], None], what: str, transactional_id: str, deadline: float, call_s: float) -> None:
    """Do a step of a transaction, and again while Kafka's client says that it may be done again.

    Args:
        step: Gets the seconds that it may take.
        what: It does, for the log.
        transactional_id: For the log.
        deadline: Monotonic; after it nothing is repeated.
        call_s: How long one attempt may take, seconds.

    Raises:
        KafkaException: it may not be repeated, or the deadline is over.
    """
    while True:
        try:
            step(call_s)
        except KafkaException as failure:
            fault: KafkaError = failure.args[0]
            if fault.txn_requires_abort() or not fault.retriable() or time.monotonic() > deadline:
                raise
            log.warning("Kafka is slow", step=what, transactional_id=transactional_id, error=fault.str())
            # Not every answer that may be repeated took time.
            time.sleep(0.1)
        else:
            return


def _producer(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    return {
        **kafka.client_config(),
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "message.max.bytes": MAX_RECORD_BYTES,
        "error_cb": log_error,
    }
