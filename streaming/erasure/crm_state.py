"""State changes on Kafka without a caller's personal data.

Each record is written again under its key, so that compaction drops the old one. Live figures (``ccaaus.wfm.…``) have
ids and times only and are left as they are.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streaming.clients import durable
from streaming.crm.fold import Change
from streaming.crm.work import STATE
from streaming.erasure.personal import ADDRESSES, WORDS, Owner, Suppressed, clean_fields
from streaming.errors import ServiceUnavailableError
from streaming.settings import KafkaSettings, topic_name
from streaming.topic_reader import Place, TopicReader

_CALLERS = (*ADDRESSES, *WORDS)
_PATIENCE_S = 60.0
_MAX_QUEUED_RECORDS = 10_000


class _Stale(NamedTuple):
    """A record that is to be replaced."""

    place: Place
    timestamp_ms: int
    key: bytes
    value: bytes


def clean_crm_state(kafka: KafkaSettings, owner: Owner, suppressed: Suppressed, *, dry_run: bool = False) -> int:
    """Replace the records of conversations on the list. Again changes nothing.

    Record times stay, so that nothing is kept for longer than before.

    Args:
        kafka: The cluster.
        owner: The tenant.
        suppressed: The list; with the conversations of the addresses on it.
        dry_run: Only count.

    Returns:
        Records that were replaced; 0 if crm-sync never had anything of the tenant.

    Raises:
        ServiceUnavailableError: Kafka does not answer; what was replaced stays so.
    """
    with TopicReader(kafka, "erase-customer") as reader:
        stale: dict[tuple[Place, bytes], _Stale] = {}
        spans = {place: reader.watermarks(place) for place in reader.partitions(topic_name(STATE, *owner))}
        for batch in reader.read(spans):
            for message in batch:
                place, key = Place(str(message.topic()), message.partition() or 0), message.key() or b""
                # Of a key the last record counts: an earlier run may have replaced it.
                if record := _stale(message, place, key, owner, suppressed):
                    stale[place, key] = record
                else:
                    stale.pop((place, key), None)
    if stale and not dry_run:
        _write(kafka, list(stale.values()))
    return len(stale)


def _stale(message: Message, place: Place, key: bytes, owner: Owner, suppressed: Suppressed) -> _Stale | None:
    try:
        change = Change.read(message.value() or b"")
    except ValueError:  # a tombstone, or somebody else's
        return None
    if change.entity.kind != "conversation":
        return None
    addresses = tuple(change.fields.get(name) for name in ADDRESSES)
    mode = suppressed.mode_of(owner, change.entity.id, addresses, change.version.timestamp)
    if not mode:
        return None
    own = {name: text for name, text in change.fields.items() if name not in _CALLERS}
    told = {name: text for name, text in change.fields.items() if name in _CALLERS}
    fields = own | clean_fields(owner, told, mode, suppressed.key)
    if fields == change.fields:
        return None
    return _Stale(place, message.timestamp()[1], key, change._replace(fields=fields).document())


def _write(kafka: KafkaSettings, records: list[_Stale]) -> None:
    failures: list[KafkaError] = []

    def note(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {**durable(kafka, "erase-customer"), "queue.buffering.max.messages": _MAX_QUEUED_RECORDS, "linger.ms": 5}
    )
    deadline = time.monotonic() + _PATIENCE_S
    for record in records:
        while True:
            try:
                producer.produce(
                    record.place.topic,
                    record.value,
                    record.key,
                    partition=record.place.partition,
                    timestamp=record.timestamp_ms,
                    on_delivery=note,
                )
                break
            except BufferError:
                if time.monotonic() > deadline:
                    break
                producer.poll(0.05)
            except KafkaException as error:
                failures.append(error.args[0])
                break
        producer.poll(0)
    left = producer.flush(max(deadline - time.monotonic(), 0.1))
    if failures or left:
        said = failures[0].str() if failures else f"{left} records were not acknowledged in {_PATIENCE_S:g} s"
        producer.purge(in_queue=True, in_flight=True)
        msg = f"{records[0].place.topic}: {said}; run again"
        raise ServiceUnavailableError(msg)
