"""Tells people what :mod:`streaming.drift` noticed: one message for what is alike at all tenants, few an hour."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
import structlog

from streaming.drift_store import MORE, DriftKind, DriftStore, Finding
from streaming.errors import ServiceUnavailableError
from streaming.instants import HOUR_MS
from streaming.lease import LeaseKeeper
from streaming.settings import Settings
from streaming.state import open_state

log = structlog.get_logger()

MESSAGES_PER_HOUR = 10
"""Of a vendor's failures, and of its fields. One more says that there are more kinds."""

_EVERY_S = 10.0
_EXPIRE_EVERY_S = 3600.0
_LEASE = "announcer"
# Nobody waits for a takeover: alerts may be late by so much when their teller dies.
_LEASE_TTL_S = 30.0
# At once; the rest waits for the next round.
_MAX_FINDINGS = 5_000
_END_S = 5.0
_MOST_NAMES = 10
_NAMESPACE = uuid.UUID("6c0f6d0e-4f2b-5d55-9a3f-0d2f0c6d7a11")


class Announcement(NamedTuple):
    """One message.

    Attributes:
        id: The same when it is told again, since nobody knows whether it was heard.
        vendor: Whose events changed.
        kind: ``failure``, ``unmapped_field``, or ``more``: further kinds that are told no more one by one.
        what: Of a failure stage, reason and path; of fields their metadata keys.
        tenants: All that are concerned.
        noticed_ms: When it was noticed first, epoch ms.
        sample: Of one such event: native type, message.
    """

    id: uuid.UUID
    vendor: str
    kind: str
    what: str
    tenants: tuple[str, ...]
    noticed_ms: int
    sample: dict[str, Any]


Tell = Callable[[Announcement], None]
"""Returns once the message was taken; raises if it may not have been."""


class Announcer:
    """Tells what was noticed, each message at least once.

    Of a vendor's failure or field one message an hour: tenants that follow within the hour are part of it, and fields
    that are noticed together are one message. Ten messages an hour of a vendor's failures, ten of its fields; then one
    that there are more kinds, and the rest of the hour is left to the table ``failed_events``. How much was told lies
    in the table, so a restart changes nothing.

    Args:
        engine: State database.
        tell: Sends a message.
    """

    def __init__(self, engine: sa.Engine, tell: Tell) -> None:
        self._store = DriftStore(engine)
        self._tell = tell
        self._expired_at = -_EXPIRE_EVERY_S

    def step(self) -> int:
        """Tell what waits; gives the number of messages.

        Raises:
            Exception: what ``tell`` raised; what was not told waits for the next step.
            sqlalchemy.exc.SQLAlchemyError: the state database does not answer.
        """
        now_ms = time.time_ns() // 1_000_000
        if time.monotonic() - self._expired_at >= _EXPIRE_EVERY_S:
            self._store.expire(now_ms)
            self._expired_at = time.monotonic()
        waiting: dict[tuple[str, str], dict[str, list[Finding]]] = {}
        for finding in self._store.untold(_MAX_FINDINGS):
            waiting.setdefault((finding.vendor, finding.kind), {}).setdefault(finding.what, []).append(finding)
        if not waiting:
            return 0
        told = self._store.told_since(now_ms - HOUR_MS)
        sent = 0
        for (vendor, kind), by_what in waiting.items():
            fresh: list[list[Finding]] = []
            for what, findings in by_what.items():
                if (at_ms := told.get((vendor, kind, what))) is not None:
                    self._store.mark_told(findings, at_ms)
                else:
                    fresh.append(findings)
            # A message's findings have one time, which no other's have: so messages are counted.
            times = {at_ms for (whose, which, _), at_ms in told.items() if (whose, which) == (vendor, kind)}
            sent += self._tell_fresh(kind, fresh, times, now_ms + sent)
        return sent

    def _tell_fresh(self, kind: str, fresh: list[list[Finding]], times: set[int], now_ms: int) -> int:
        """Tell what is new of a vendor and kind, within the bound of an hour; gives the number of messages.

        Args:
            kind: Of all of it.
            fresh: Findings by what they tell of.
            times: Of this hour's messages, epoch ms.
            now_ms: Time of the first message.
        """
        # Fields that come together are one change of the vendor; failures may have causes of their own.
        messages = [_together(fresh)] if fresh and kind == DriftKind.UNMAPPED_FIELD else fresh
        room = max(MESSAGES_PER_HOUR - len(times), 0)
        for number, findings in enumerate(messages[:room]):
            self._tell(_announcement(findings))
            self._store.mark_told(findings, now_ms + number)
        sent = min(room, len(messages))
        rest = _together(messages[room:])
        if rest and len(times) + sent == MESSAGES_PER_HOUR:
            self._tell(_announcement(rest, kind="more", what=MORE))
            self._store.mark_told(rest, now_ms + sent)
            sent += 1
        elif rest:
            self._store.mark_told(rest, max(times))
        return sent


def _announcement(findings: Sequence[Finding], kind: str = "", what: str = "") -> Announcement:
    first = findings[0]
    kind, what = kind or first.kind, what or _listed(dict.fromkeys(finding.what for finding in findings))
    name = orjson.dumps([first.vendor, kind, first.what, first.noticed_ms]).decode()
    return Announcement(
        id=uuid.uuid5(_NAMESPACE, name),
        vendor=first.vendor,
        kind=kind,
        what=what,
        tenants=tuple(sorted({finding.tenant_id for finding in findings})),
        noticed_ms=first.noticed_ms,
        sample=orjson.loads(first.sample),
    )


def _together(groups: Sequence[Sequence[Finding]]) -> list[Finding]:
    return [finding for group in groups for finding in group]


def _listed(names: Collection[str]) -> str:
    """Names for a message, a few of many."""
    shown = list(names)[:_MOST_NAMES]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


@contextmanager
def announcing(settings: Settings, tell: Tell) -> Iterator[None]:
    """Tell what is noticed, in a thread beside a service. Of all processes, one tells at a time."""
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(settings, tell, stop), name="announcer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_END_S)


def _run(settings: Settings, tell: Tell, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            engine = open_state(settings.state_url)
        except ServiceUnavailableError as error:
            log.warning("alerts wait for the state database", error=str(error))
            stop.wait(_EVERY_S)
            continue
        keeper = LeaseKeeper(engine, [_LEASE], ttl=_LEASE_TTL_S)
        keeper.start()
        try:
            _tell_while_leased(keeper, Announcer(engine, tell), stop)
        finally:
            keeper.close()
            engine.dispose()


def _tell_while_leased(keeper: LeaseKeeper, announcer: Announcer, stop: threading.Event) -> None:
    while not stop.wait(_EVERY_S):
        if keeper.epoch(_LEASE) is None:
            continue
        try:
            announcer.step()
        except Exception as error:  # noqa: BLE001 (whatever the messenger raised: a message waits, the service goes on)
            log.warning("alerts are told later", error=f"{type(error).__name__}: {error}")


def log_tell(announcement: Announcement) -> None:
    """Tell by a line in the log."""
    log.warning(
        "vendor changed",
        vendor=announcement.vendor,
        kind=announcement.kind,
        what=announcement.what,
        tenants=", ".join(shown_tenants(announcement)),
        sample=announcement.sample,
    )


def shown_tenants(announcement: Announcement, at_most: int = 20) -> list[str]:
    """Names of the tenants, the rest as a count."""
    shown = list(announcement.tenants[:at_most])
    rest = len(announcement.tenants) - len(shown)
    return [*shown, f"and {rest} more"] if rest else shown
