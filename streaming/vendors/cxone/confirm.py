"""Whether the vendor's REST API says that events set aside really happened.

The claims are the canonical events of the bodies; what REST says becomes canonical events in the same way as at
reconciliation. A claim is confirmed if REST has an event of the same type, contact, queue and agent at the same time
within the tolerance, and contradicts nothing of its payload. Each of REST's events stands for one event id: it
confirms further copies with that id, and no claim of another id, also if the bus has it already. What REST does not
tell can't be compared: the caller and the numbers of a contact that is not over, and the vendor's fields outside the
vocabulary.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
from schemas.normalise import normaliser
from streaming.errors import BadEventError
from streaming.instants import HOUR_MS, from_ms
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.contacts import ContactsApi
from streaming.vendors.cxone.expected import (
    RECONCILED,
    State,
    contact_id,
    expected_events,
    legs,
    started_ms,
    state_of,
)

log = structlog.get_logger()

_WINDOW_HOURS = 6
# A clock may be wrong; what lies further ahead of its arrival has not happened.
_AHEAD_MS = 24 * HOUR_MS
# Asked for in one run, of up to 6 h each. What really happened lies within hours of its arrival, and the nearest come
# first, so forged times far away can't crowd it out: rows wait 72 h by default, which makes 13 windows.
MAX_WINDOWS = 40
# REST's instants are whole seconds.
_ROUNDING = timedelta(seconds=1)
_SAME = ("conversation_id", "queue_id", "agent_id")

# What a state tells of a contact that is not over, besides the agents' legs. Its end has numbers, which only
# contacts/completed tells.
_KINDS = {"PreQueue": "CALL_STARTED", "InQueue": "QUEUE_ENTERED"}


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
            hour, distance = event["timestamp"] // HOUR_MS, abs(received_ms - event["timestamp"])
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
        return [Hours(min(hours) * HOUR_MS, (max(hours) + 1) * HOUR_MS) for _, hours in sorted(windows.items())]


@dataclass(eq=False, slots=True)
class _Occurrence:
    """An event that REST tells, and the ids under which it is known: none while nobody has used it."""

    event: CanonicalEvent
    ids: set[str] = field(default_factory=set)


class Truth:
    """What REST says about the contacts in question, and what of it is used already.

    Args:
        tolerance_ms: By how much times and durations may differ.
    """

    def __init__(self, tolerance_ms: int) -> None:
        self._tolerance_ms = tolerance_ms
        self._told: dict[tuple[str, str], list[_Occurrence]] = {}

    def add(self, event: CanonicalEvent) -> None:
        """Note an event that happened."""
        key = (event["event_type"], event["payload"]["conversation_id"])
        self._told.setdefault(key, []).append(_Occurrence(event))

    def use(self, events: Iterable[CanonicalEvent]) -> None:
        """Note what came another way, on the bus or in a spool; call it once, with everything."""
        ours = ((event, self._near(event)) for event in events)
        met = [(event, near) for event, near in ours if near]
        # A reconciled event has REST's own time, and may be the twin of a pushed one: it takes no second occurrence.
        met.sort(key=lambda item: item[0]["metadata"].get(RECOVERED_KEY) == RECONCILED)
        for event, near in met:
            identifier = event["event_id"]
            if any(identifier in occurrence.ids for occurrence in near):
                continue
            is_reconciled = event["metadata"].get(RECOVERED_KEY) == RECONCILED
            free = [] if is_reconciled else [occurrence for occurrence in near if not occurrence.ids]
            (free or near)[0].ids.add(identifier)

    def agrees(self, claims: Collection[CanonicalEvent]) -> bool:
        """Whether all of a body's events are among what happened, used or not."""
        return bool(claims) and all(self._agreeing(claim) for claim in claims)

    def confirms(self, claims: Collection[CanonicalEvent]) -> bool:
        """Whether all of a body's events are among what happened and not used by others; if so, they are used now."""
        taken: list[tuple[_Occurrence, str]] = []
        for claim in claims:
            identifier = claim["event_id"]
            fitting = self._agreeing(claim)
            if any(identifier in occurrence.ids for occurrence in fitting):
                continue
            free = next((occurrence for occurrence in fitting if not occurrence.ids), None)
            if free is None:
                for occurrence, used_as in taken:
                    occurrence.ids.remove(used_as)
                return False
            free.ids.add(identifier)
            taken.append((free, identifier))
        return bool(claims)

    def is_told(self, event: CanonicalEvent) -> bool:
        """Whether REST tells an occurrence that an event may be."""
        return bool(self._near(event))

    def _near(self, claim: CanonicalEvent) -> list[_Occurrence]:
        """Of the same type, contact, queue and agent, close enough in time; the nearest second first."""
        key = (claim["event_type"], claim["payload"].get("conversation_id", ""))
        second = claim["timestamp"] // 1000
        found = [
            occurrence
            for occurrence in self._told.get(key, ())
            if abs(claim["timestamp"] - occurrence.event["timestamp"]) <= self._tolerance_ms
            and all(claim["payload"].get(name) == occurrence.event["payload"].get(name) for name in _SAME)
        ]
        found.sort(key=lambda occurrence: abs(second - occurrence.event["timestamp"] // 1000))
        return found

    def _agreeing(self, claim: CanonicalEvent) -> list[_Occurrence]:
        return [occurrence for occurrence in self._near(claim) if self._contradicts_nothing(claim, occurrence.event)]

    def _contradicts_nothing(self, claim: CanonicalEvent, event: CanonicalEvent) -> bool:
        claimed, told = claim["payload"], event["payload"]
        return all(
            self._is_near(claimed[name], value) if name.endswith("_ms") else claimed[name] == value
            for name, value in told.items()
            if name in claimed
        )

    def _is_near(self, claimed: str, told: str) -> bool:
        return abs(int(claimed) - int(told)) <= self._tolerance_ms


async def ask(
    contacts: ContactsApi, question: Question, *, tenant_id: str, tolerance: timedelta, longest: timedelta
) -> Truth:
    """What REST says happened in the hours and to the contacts in question.

    Two lists a window of up to 6 hours, and the states before it if one of the contacts began earlier.

    Args:
        contacts: The tenant's REST lists.
        question: What to ask.
        tenant_id: Whose.
        tolerance: By how much times may differ.
        longest: How long a contact may run: its states are looked for so far back.

    Raises:
        ConfigurationError: credentials are wrong, or the client lacks event:read.
        VendorRefusedError: the vendor finds fault with a query.
        ServiceUnavailableError: it does not answer, or not as documented.
    """
    truth, margin = Truth(tolerance // timedelta(milliseconds=1)), tolerance + _ROUNDING
    completed: dict[str, dict[str, Any]] = {}
    states: dict[str, set[State]] = {}
    # From when the states of a contact that is over were asked for.
    since_ms: dict[str, int] = {}
    for window in question.windows():
        bounds = (from_ms(window.start_ms) - margin, from_ms(window.end_ms) + margin)
        rows = {contact: row async for contact, row in _asked_for(contacts.completed(*bounds), question)}
        completed |= rows
        since = bounds[0]
        here = await _states(contacts, *bounds, question)
        if any(not _has_head(rows.get(name), here.get(name, set()), bounds[0]) for name in rows.keys() | here.keys()):
            since -= longest
            earlier = await _states(contacts, since, bounds[0], question)
            for contact, found in earlier.items():
                states.setdefault(contact, set()).update(found)
        for contact, found in here.items():
            states.setdefault(contact, set()).update(found)
        since_ms |= dict.fromkeys(rows, int(since.timestamp() * 1000))
    for contact in completed.keys() | states.keys():
        known = (completed.get(contact), states.get(contact, set()), since_ms.get(contact))
        for event in _happened(contact, *known, tenant_id):
            truth.add(event)
    return truth


async def _states(contacts: ContactsApi, since: datetime, until: datetime, question: Question) -> dict[str, set[State]]:
    states: dict[str, set[State]] = {}
    async for contact, row in _asked_for(contacts.states(since, until), question):
        try:
            states.setdefault(contact, set()).add(state_of(row))
        except BadEventError as error:
            _say(error)
    return states


def _has_head(row: dict[str, Any] | None, states: set[State], since: datetime) -> bool:
    """Whether a contact's states are there from its start."""
    if row is None:
        return any(state.name == "PreQueue" for state in states)
    try:
        return started_ms(row) >= since.timestamp() * 1000
    except BadEventError:
        return True  # it makes no event anyhow


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
    contact: str, completed: dict[str, Any] | None, states: set[State], since_ms: int | None, tenant_id: str
) -> Iterator[CanonicalEvent]:
    """The canonical events of one contact, as its webhooks would have given them; what is not certain is left out."""
    try:
        if completed is not None:
            for native in expected_events(completed, list(states), tenant_id, since_ms):
                yield from native.events
            return
        is_partial = all(state.name != "PreQueue" for state in states)
        told = [(kind, state) for state in states if (kind := _KINDS.get(state.name))]
        told += [("AGENT_ASSIGNED", state) for state in legs(states, is_partial=is_partial)]
        for kind, state in told:
            document = {"eventType": kind, "timestamp": state.at_ms, "contactId": contact}
            document |= {} if state.skill is None else {"skillId": state.skill}
            document |= {} if state.agent is None else {"agentId": state.agent}
            yield from normaliser(VENDOR).normalise_document(document, tenant_id)
    except BadEventError as error:
        _say(error)


def _say(error: BadEventError) -> None:
    log.warning("what REST says of a contact makes no event", reason=error.reason, path=error.path)
