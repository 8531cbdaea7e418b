"""Snapshots: a tenant's state and the offsets that belong to it, in one Kafka transaction.

A snapshot is several records of the state topic: its parts, then the head. Being one transaction, a reader of committed
records finds all of a snapshot or nothing of it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from prometheus_client import Counter

from streaming.batches import batched
from streaming.clients import transactional, until_done
from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings, Tenant
from streaming.topic_reader import Place, TopicReader
from streaming.topics import MAX_RECORD_BYTES
from streaming.wfm.fold import Fold
from streaming.wfm.topics import state_topic

log = structlog.get_logger()

written = Counter("ccaas_wfm_snapshots", "Snapshots of tenants' state that were committed")
failed = Counter("ccaas_wfm_snapshots_failed", "Transactions of snapshots that were given up; they are tried again")
oversized = Counter("ccaas_wfm_snapshot_pieces_left_out", "Conversations and agents too large for a snapshot")

_HEAD = b"head"
_PART_BYTES = 512 * 1024
_LARGEST_PIECE = MAX_RECORD_BYTES // 2
# Kafka ends the transaction of a member that is silent for so long; until then readers wait for what is behind it.
_TRANSACTION_TIMEOUT_S = 20.0
_CALL_S = 5.0
_PATIENCE_S = 10.0


class Snapshot(NamedTuple):
    """What a snapshot holds.

    Attributes:
        head: Of :meth:`Fold.head`.
        facts: Next offset of the facts topic.
        pieces: Of :meth:`Fold.dump`.
        parts: In how many records it is.
    """

    head: dict[str, Any]
    facts: int
    pieces: list[list[Any]]
    parts: int


class Kept(NamedTuple):
    """What is to be kept of a tenant.

    Attributes:
        tenant: Whose it is.
        fold: The state.
        facts: Next offset of the facts topic.
        parts: How many records the snapshot before has.
    """

    tenant: Tenant
    fold: Fold
    facts: int
    parts: int


def read_snapshots(reader: TopicReader, tenants: Sequence[Tenant]) -> dict[str, Snapshot]:
    """The newest committed snapshot of each tenant that has one, by state topic.

    Raises:
        ServiceUnavailableError: Kafka does not answer.
    """
    places = [Place(state_topic(tenant), 0) for tenant in tenants]
    records: dict[str, dict[bytes, bytes | None]] = {place.topic: {} for place in places}
    for batch in reader.read({place: reader.watermarks(place) for place in places}):
        for message in batch:
            records[str(message.topic())][message.key() or b""] = message.value()
    return {topic: found for topic, values in records.items() if (found := _put_together(topic, values))}


def _put_together(topic: str, values: dict[bytes, bytes | None]) -> Snapshot | None:
    head = values.get(_HEAD)
    if head is None:
        return None
    try:
        state = orjson.loads(head)
        parts = [orjson.loads(values[_part(number)] or b"") for number in range(state["parts"])]
        if any(part["id"] != state["id"] for part in parts):
            msg = "a part of another one"
            raise ValueError(msg)
        pieces = [piece for part in parts for piece in part["pieces"]]
        return Snapshot(state["fold"], state["facts"], pieces, state["parts"])
    except (ValueError, KeyError, TypeError) as error:
        # What follows on the facts topic is still there: figures begin with what it holds.
        log.error("the snapshot can't be used; live figures begin anew", topic=topic, error=repr(error))
        return None


class SnapshotWriter:
    """Writes snapshots under the slot's transactional id. Use it from one thread.

    Args:
        settings: The platform's.
        slot: Name of the member's slot: a later member of the slot ends an earlier one's transaction.
    """

    def __init__(self, settings: Settings, slot: str) -> None:
        self._slot = slot
        self._producer = Producer(
            {
                **transactional(settings.kafka, f"{slot}-state", slot, _TRANSACTION_TIMEOUT_S),
                "linger.ms": 5,
                # Larger than a record; a snapshot may be larger than the memory that there is for it.
                "queue.buffering.max.kbytes": 24 * 1024,
            }
        )

    def start(self) -> None:
        """End the transaction of an earlier member of the slot.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        self._until_done(self._producer.init_transactions, "begin")

    def write(self, kept: Sequence[Kept], group: Any) -> list[int] | None:
        """Keep tenants' states and commit their offsets, together.

        Args:
            kept: What is to be kept.
            group: The consumer's group metadata.

        Returns:
            In how many records each is now; None if the transaction was given up (the group is being rebalanced, Kafka
            is slow): the snapshots before still hold.

        Raises:
            ServiceUnavailableError: the producer can't go on, or another one has the slot.
        """
        counts: list[int] = []
        offsets: list[TopicPartition] = []
        try:
            self._until_done(lambda _: self._producer.begin_transaction(), "begin a transaction")
            for tenant, fold, facts, parts in kept:
                counts.append(self._write_one(state_topic(tenant), fold, facts, parts))
                offsets += [TopicPartition(tenant.events_topic, *covered) for covered in fold.covered.items()]
            self._until_done(
                lambda seconds: self._producer.send_offsets_to_transaction(offsets, group, seconds), "send offsets"
            )
            self._until_done(self._producer.commit_transaction, "commit")
        except _GivenUpError as failure:
            log.warning("snapshot given up, it is tried again", slot=self._slot, error=str(failure))
            failed.inc()
            self._until_done(self._producer.abort_transaction, "abort")
            return None
        written.inc(len(kept))
        return counts

    def _write_one(self, topic: str, fold: Fold, facts: int, parts: int) -> int:
        id_ = uuid.uuid4().hex
        count = 0
        for pieces in batched(_texts(fold.dump()), len, _PART_BYTES):
            value = b'{"id":"%s","pieces":[%s]}' % (id_.encode(), b",".join(pieces))
            self._produce(topic, _part(count), value)
            count += 1
        for number in range(count, parts):
            self._produce(topic, _part(number), None)
        head = {"id": id_, "parts": count, "facts": facts, "fold": fold.head()}
        self._produce(topic, _HEAD, orjson.dumps(head))
        return count

    def _produce(self, topic: str, key: bytes, value: bytes | None) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._producer.produce(topic, value, key)
            except BufferError:
                if time.monotonic() > deadline:
                    msg = "Kafka takes no more records"
                    raise _GivenUpError(msg) from None
                self._producer.poll(0.05)
            except KafkaException as error:
                raise _GivenUpError(error.args[0].str()) from None
            else:
                return

    def _until_done(self, step: Callable[[float], None], what: str) -> None:
        """Do a step, again as long as Kafka's client says that it may be done again.

        Raises:
            _GivenUpError: the transaction is to be aborted.
            ServiceUnavailableError: the producer can't go on.
        """
        try:
            until_done(step, what, self._slot, time.monotonic() + _PATIENCE_S, _CALL_S)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.txn_requires_abort():
                raise _GivenUpError(error.str()) from None
            msg = f"{self._slot}: the transaction of snapshots: {error.str()}"
            raise ServiceUnavailableError(msg) from None

    def close(self) -> None:
        """Let go of what is queued. A transaction that is open ends by itself or by the slot's next member."""
        self._producer.purge(in_queue=True, in_flight=True)
        self._producer.poll(0)


class _GivenUpError(Exception):
    """The transaction has to be aborted; a later one may succeed."""


def _texts(pieces: Iterator[list[Any]]) -> Iterator[bytes]:
    """Pieces as JSON, without those that no record can hold."""
    for piece in pieces:
        text = orjson.dumps(piece)
        if len(text) > _LARGEST_PIECE:  # it alone is lost at a restart, instead of every tenant's snapshot now
            log.error("too large for a snapshot, left out of it", kind=piece[0], bytes=len(text))
            oversized.inc()
        else:
            yield text


def _part(number: int) -> bytes:
    return b"part/%d" % number
