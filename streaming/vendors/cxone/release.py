"""Rows leave the deferred lane: published, or dead letters; each only when Kafka has everything of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
from schemas.normalise import normaliser
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.spool.deferred import DeferredReader, DeferredRow
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.messages import normalise_body

RECOVERED = "deferred"
"""Value of the metadata key that says how the event came."""

_TRANSPORT = "webhook"
_ACK_TIMEOUT_S = 60.0


class KafkaSilentError(ServiceUnavailableError):
    """Kafka acknowledges nothing: it makes no sense to go on with another tenant."""


class Exit:
    """The way out for one tenant's rows.

    Attributes:
        events: Canonical events that were published.

    Args:
        tenant: Whose.
        publisher: Used from this thread only.
    """

    def __init__(self, tenant: Tenant, publisher: Publisher) -> None:
        self.events = 0
        self._tenant = tenant
        self._publisher = publisher

    def publish(self, reader: DeferredReader, rows: Sequence[DeferredRow]) -> int:
        """Publish rows and wait for Kafka; what of a body is no event becomes a dead letter, as ever.

        Args:
            reader: Of the spool where they lie.
            rows: Proven ones.

        Returns:
            Their number.

        Raises:
            ServiceUnavailableError: Kafka refuses a record, or the spool can't be written; rows that are not done stay.
            KafkaSilentError: see there.
        """
        open_records = _OpenRecords()
        for row in rows:
            self._wait_for_room()
            self._publish(row, open_records)
        return self._release(reader, rows, open_records)

    def dead_letter(self, reader: DeferredReader, rows: Sequence[DeferredRow], why: str) -> int:
        """Make rows dead letters, bytes unchanged; else as :meth:`publish`.

        Args:
            reader: Of the spool where they lie.
            rows: Those that nobody vouches for.
            why: Goes into the message, after the doubt with which a row came.
        """
        open_records = _OpenRecords()
        for row in rows:
            self._wait_for_room()
            doubt = BadEventError(f"{row.reason}; {why}", reason="untrusted")
            self._dead_letter(row, doubt, "signature", open_records)
        return self._release(reader, rows, open_records)

    def _publish(self, row: DeferredRow, open_records: _OpenRecords) -> None:
        events, failure = normalise_body(normaliser(VENDOR), row.body, self._tenant.tenant_id)
        bad = failure.error if failure is not None else None
        records: list[tuple[CanonicalEvent, bytes]] = []
        for event in events:
            event["metadata"][RECOVERED_KEY] = RECOVERED
            try:
                records.append((event, self._publisher.encode(event)))
            except BadEventError as error:
                bad = bad or error
        for event, value in records:
            acknowledged = open_records.one_more(row)
            self._publisher.publish(
                self._tenant,
                event,
                value,
                received_us=row.received_us,
                transport=_TRANSPORT,
                acknowledged=acknowledged,
            )
        if bad is not None:
            self._dead_letter(row, bad, "normalise", open_records)
        self.events += len(records)

    def _dead_letter(self, row: DeferredRow, error: BadEventError, stage: str, open_records: _OpenRecords) -> None:
        headers = dead_letter_headers(error, stage=stage, transport=_TRANSPORT)
        acknowledged = open_records.one_more(row)
        self._publisher.dead_letter(self._tenant, key=None, value=row.body, headers=headers, acknowledged=acknowledged)

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + _ACK_TIMEOUT_S
        while not self._publisher.has_room():
            self._publisher.poll(0.05)
            if time.monotonic() > deadline:
                msg = f"Kafka acknowledged nothing for {_ACK_TIMEOUT_S:.0f} s; the rows stay"
                raise KafkaSilentError(msg)

    def _release(self, reader: DeferredReader, rows: Sequence[DeferredRow], open_records: _OpenRecords) -> int:
        """Wait for Kafka; rows of which it has everything leave the spool, whatever becomes of the others."""
        deadline = time.monotonic() + _ACK_TIMEOUT_S
        refusal = None
        while open_records.left and refusal is None and time.monotonic() < deadline:
            self._publisher.poll(0.05)
            refusal = self._publisher.take_refusal(self._tenant)
        done = [row for row in rows if row.seq not in open_records.left]
        reader.release(done)
        if refusal is not None:
            msg = f"Kafka refuses a record: {refusal.str()}; mend the topic or its permissions"
            raise ServiceUnavailableError(msg)
        if open_records.left:
            msg = f"Kafka has not acknowledged {len(open_records.left)} rows in {_ACK_TIMEOUT_S:.0f} s; they stay"
            raise KafkaSilentError(msg)
        return len(done)


class _OpenRecords:
    """Records of each row, by its number, that Kafka has not acknowledged yet."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}

    def one_more(self, row: DeferredRow) -> Callable[[], None]:
        """Count a record; gives what is to be called once Kafka has it."""
        self.left[row.seq] = self.left.get(row.seq, 0) + 1
        return functools.partial(self._one_less, row.seq)

    def _one_less(self, seq: int) -> None:
        self.left[seq] -= 1
        if not self.left[seq]:
            del self.left[seq]
