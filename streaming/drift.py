"""Notices what is new in vendors' events on their way to Kafka: a field without a place, a kind of failure.

The event path only asks whether it has seen this before; what is new waits in a bounded queue for a thread that writes
it to the state database every few seconds, from where people are told (:mod:`streaming.announce`).
"""

from __future__ import annotations

import threading
import time
from collections import deque

import orjson
import sqlalchemy as sa
import structlog
from prometheus_client import Counter

from schemas.canonical import NATIVE_TYPE_KEY, CanonicalEvent
from streaming.deadletter import KIND_HEADERS, Headers, described
from streaming.drift_store import WHAT_CHARS, DriftKind, DriftStore, Finding
from streaming.errors import CcaasError
from streaming.reprocess.kinds import native_type
from streaming.settings import Tenant
from streaming.state import open_state

log = structlog.get_logger()

dropped = Counter("ccaas_drift_findings_dropped", "Findings that found the queue full; noticed again when they recur")

HOUR_S = 3600

_MAX_WAITING = 2_000
# Of a tenant's fields, and of kinds of failure; at the bound all are forgotten, and what is noted twice has one row.
_MAX_KNOWN = 5_000
_WRITE_EVERY_S = 2.0
_SAY_EVERY_S = 60.0
_END_S = 5.0
_OURS = "ccaas."

_FailureKey = tuple[str | bytes | None, ...]


class DriftWatch:
    """Sees what one producer sends. Call it from one thread; it has another of its own.

    With the state database down the queue keeps what it can and the thread tries again. What does not fit is dropped,
    counted, and noticed again when it recurs.

    Args:
        state_url: SQLAlchemy URL of the state database.
    """

    def __init__(self, state_url: str) -> None:
        self._state_url = state_url
        self._fields: dict[tuple[str, str], set[str]] = {}
        self._failures: dict[_FailureKey, int] = {}
        self._waiting: deque[Finding] = deque()
        self._said_full = -_SAY_EVERY_S
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: sa.Engine | None = None

    def see_event(self, tenant: Tenant, event: CanonicalEvent) -> None:
        """Hot path: has the tenant sent these fields before?"""
        known = self._fields.get((tenant.vendor, tenant.tenant_id))
        if known is None or not event["metadata"].keys() <= known:
            self._note_fields(tenant, event)

    def _note_fields(self, tenant: Tenant, event: CanonicalEvent) -> None:
        known = self._fields.setdefault((tenant.vendor, tenant.tenant_id), set())
        metadata = event["metadata"]
        sample = ""
        for key in metadata.keys() - known:
            if len(known) >= _MAX_KNOWN:
                known.clear()
            if not key.startswith(_OURS):
                sample = sample or _json({"native_type": metadata.get(NATIVE_TYPE_KEY, "")})
                if not self._put(tenant, DriftKind.UNMAPPED_FIELD, key, 0, sample):
                    continue
            known.add(key)

    def see_dead_letter(self, tenant: Tenant, value: bytes | None, headers: Headers) -> None:
        """Has something failed like this within this hour?"""
        hour = int(time.time()) // HOUR_S
        key = (tenant.dlq_topic, *[text for name, text in headers if name in KIND_HEADERS])
        if self._failures.get(key) == hour:
            return
        letter = described(headers, 0)
        what = " ".join(word for word in (letter.stage, letter.reason, letter.path) if word)
        sample = {
            "native_type": native_type(tenant.vendor, value),
            "message": letter.message,
            "transport": letter.transport,
        }
        if self._put(tenant, DriftKind.FAILURE, what, hour * HOUR_S * 1000, _json(sample)):
            if len(self._failures) >= _MAX_KNOWN:
                self._failures.clear()
            self._failures[key] = hour

    def close(self) -> None:
        """Write what waits, if the database lets it within 5 s."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _put(self, tenant: Tenant, kind: DriftKind, what: str, hour_ms: int, sample: str) -> bool:
        if len(self._waiting) >= _MAX_WAITING:
            dropped.inc()
            if time.monotonic() - self._said_full >= _SAY_EVERY_S:
                self._said_full = time.monotonic()
                log.warning("too much that is new in vendors' events; it is noticed later", waiting=_MAX_WAITING)
            return False
        what = what.replace("\x00", "")[:WHAT_CHARS]
        now_ms = time.time_ns() // 1_000_000
        self._waiting.append(Finding(tenant.vendor, tenant.tenant_id, kind, what, hour_ms, sample, now_ms))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
            self._thread.start()
        return True

    def _run(self) -> None:
        try:
            while not self._stop.wait(_WRITE_EVERY_S):
                self._write()
            self._write()
        finally:
            if self._engine is not None:
                self._engine.dispose()

    def _write(self) -> None:
        """Store what waits; it leaves the queue once it is stored."""
        batch = [self._waiting[number] for number in range(len(self._waiting))]
        if not batch:
            return
        try:
            if self._engine is None:
                self._engine = open_state(self._state_url)
            refused = DriftStore(self._engine).note(batch)
        except (sa.exc.SQLAlchemyError, CcaasError) as error:
            log.warning("what is new in vendors' events is noted later", error=type(error).__name__, waiting=len(batch))
            return
        for _ in batch:
            self._waiting.popleft()
        for finding in refused:
            if finding.kind is DriftKind.UNMAPPED_FIELD:
                self._fields[finding.vendor, finding.tenant_id].discard(finding.what)


def _json(sample: dict[str, str]) -> str:
    return orjson.dumps(sample).decode()
