"""Whether the vendor's REST API says that events set aside really happened.

The claims are the canonical events of the bodies; what REST says becomes canonical events in the same way as at
reconciliation. A claim is confirmed if REST has an event of the same type, contact, queue and agent at the same time
within the tolerance, and contradicts nothing of its payload. What REST does not tell can't be compared: the caller and
the numbers of a contact that is not over, and the vendor's fields outside the vocabulary.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import structlog

from schemas.canonical import CanonicalEvent
from schemas.normalise import normaliser
from streaming.errors import BadEventError
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.contacts import ContactsApi
from streaming.vendors.cxone.expected import State, contact_id, expected_events, state_of

log = structlog.get_logger()

_HOUR_MS = 3_600_000
_WINDOW_HOURS = 6
# A clock may be wrong; what lies further ahead of its arrival has not happened.
_AHEAD_MS = 24 * _HOUR_MS
# Asked for in one run, of up to 6 h each. What really happened lies within hours of its arrival, and the nearest come
# first, so forged times far away can't crowd it out: rows wait 72 h by default, which makes 13 windows.
MAX_WINDOWS = 40
# REST's instants are whole seconds.
_ROUNDING = timedelta(seconds=1)
_SAME = ("conversation_id", "queue_id", "agent_id")

# What a state tells of a contact that is not over. Its end has numbers, which only contacts/completed tells.
_KINDS = {"PreQueue": "CALL_STARTED", "InQueue": "QUEUE_ENTERED", "Active": "AGENT_ASSIGNED"}


class Hours(NamedTuple):
    """Whole hours of event time, half-open, epoch ms."""

    start_ms: int
    end_ms: int


class Question:
    """What is to be asked: gathered from the claims, so that REST is read once and not for every claim."""

    def __init__(self) -> None:
        self.contacts: set[str] = set()
        # Hour (epoch h): how far from it a claim of it arrived, ms.
        self._hours: dict[int, int] = {}

    def add(self, events: Collection[CanonicalEvent], received_us: int) -> None:
        """Note the claims of one body."""
        received_ms = received_us // 1000
        for event in events:
            contact = event["payload"].get("conversation_id")
            if contact is None or event["timestamp"] > received_ms + _AHEAD_MS:
                continue  # REST could not confirm it
            self.contacts.add(contact)
            hour, distance = event["timestamp"] // _HOUR_MS, abs(received_ms - event["timestamp"])
            self._hours[hour] = min(self._hours.get(hour, distance), distance)

    def windows(self) -> list[Hours]:
        """What to ask for: at most 6 hours a window, at most ``MAX_WINDOWS``, in order of time."""
        windows: dict[int, list[int]] = {}
        for hour in sorted(self._hours, key=self._hours.__getitem__):
            if len(windows) < MAX_WINDOWS or hour // _WINDOW_HOURS in windows:
                windows.setdefault(hour // _WINDOW_HOURS, []).append(hour)
        left_out = len(self._hours) - sum(map(len, windows.values()))
        if left_out:
            log.warning("events set aside lie in too many hours; not all are asked about", hours_left_out=left_out)
        return [Hours(min(hours) * _HOUR_MS, (max(hours) + 1) * _HOUR_MS) for _, hours in sorted(windows.items())]


class Truth:
    """What REST says about the contacts in question.

    Args:
        tolerance_ms: By how much times and durations may differ.
    """

    def __init__(self, tolerance_ms: int) -> None:
        self._tolerance_ms = tolerance_ms
        self._events: dict[tuple[str, str], list[CanonicalEvent]] = {}

    def add(self, event: CanonicalEvent) -> None:
        """Note an event that happened."""
        key = (event["event_type"], event["payload"]["conversation_id"])
        self._events.setdefault(key, []).append(event)

    def confirms(self, claim: CanonicalEvent) -> bool:
        """Whether a claimed event is among what happened."""
        key = (claim["event_type"], claim["payload"].get("conversation_id", ""))
        return any(self._agrees(claim, event) for event in self._events.get(key, ()))

    def _agrees(self, claim: CanonicalEvent, event: CanonicalEvent) -> bool:
        if abs(claim["timestamp"] - event["timestamp"]) > self._tolerance_ms:
            return False
        claimed, told = claim["payload"], event["payload"]
        if any(claimed.get(name) != told.get(name) for name in _SAME):
            return False
        return all(
            self._is_near(claimed[name], value) if name.endswith("_ms") else claimed[name] == value
            for name, value in told.items()
            if name in claimed
        )

    def _is_near(self, claimed: str, told: str) -> bool:
        return abs(int(claimed) - int(told)) <= self._tolerance_ms


async def ask(contacts: ContactsApi, question: Question, *, tenant_id: str, tolerance: timedelta) -> Truth:
    """What REST says happened in the hours and to the contacts in question. Two lists a window of up to 6 hours.

    Args:
        contacts: The tenant's REST lists.
        question: What to ask.
        tenant_id: Whose.
        tolerance: By how much times may differ.

    Raises:
        ConfigurationError: credentials are wrong, or the client lacks event:read.
        VendorRefusedError: the vendor finds fault with a query.
        ServiceUnavailableError: it does not answer, or not as documented.
    """
    truth, margin = Truth(tolerance // timedelta(milliseconds=1)), tolerance + _ROUNDING
    completed: dict[str, dict[str, Any]] = {}
    states: dict[str, set[State]] = {}
    for window in question.windows():
        bounds = (_instant(window.start_ms) - margin, _instant(window.end_ms) + margin)
        completed |= {contact: row async for contact, row in _asked_for(contacts.completed(*bounds), question)}
        async for contact, row in _asked_for(contacts.states(*bounds), question):
            try:
                states.setdefault(contact, set()).add(state_of(row))
            except BadEventError as error:
                _say(error)
    for contact in completed.keys() | states.keys():
        of_contact = sorted(states.get(contact, ()), key=lambda state: state.at_ms)
        for event in _happened(contact, completed.get(contact), of_contact, tenant_id):
            truth.add(event)
    return truth


async def _asked_for(pages: AsyncIterator[list[Any]], question: Question) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The rows of contacts in question; the vendor's others are not kept."""
    async for rows in pages:
        for row in rows:
            try:
                contact = contact_id(row)
            except BadEventError as error:
                _say(error)
                continue
            if contact in question.contacts:
                yield contact, row


def _happened(
    contact: str, completed: dict[str, Any] | None, states: list[State], tenant_id: str
) -> Iterator[CanonicalEvent]:
    """The canonical events of one contact, as its webhooks would have given them."""
    try:
        if completed is not None:
            for native in expected_events(completed, states, tenant_id):
                yield from native.events
            return
        for state in states:
            if kind := _KINDS.get(state.name):
                document = {"eventType": kind, "timestamp": state.at_ms, "contactId": contact}
                document |= {} if state.skill is None else {"skillId": state.skill}
                document |= {} if state.agent is None else {"agentId": state.agent}
                yield from normaliser(VENDOR).normalise_document(document, tenant_id)
    except BadEventError as error:
        _say(error)


def _say(error: BadEventError) -> None:
    log.warning("what REST says of a contact makes no event", reason=error.reason, path=error.path)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
