"""What should have come by webhook: REST rows of one contact → the native events → canonical events with their ids.

The native events are made in the webhook's shape and go through the same field map, so there is no second mapping.
Where an instant comes from, all in whole seconds:

- start: state PreQueue, else ``contactStartDate``
- queue entry: each state InQueue; without one, if the contact waited, its wait before the answer or the end
- assignment: each state Active that is no return from hold; without one, if there is an agent, ``agentSeconds`` before
  the end
- a history that begins after the contact did, and not with a queue: nothing of its first leg is derived, since what its
  first Active is, an answer or a return from hold, can't be told
- end: state EndContact, else start + ``totalDurationSeconds``

What a state tells is exact to the second; the rest is derived, and as exact as the vendor's durations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
from schemas.normalise import MAX_TIMESTAMP_MS, normaliser
from streaming.errors import BadEventError
from streaming.instants import to_ms
from streaming.vendors.cxone.connection import VENDOR

Json = Any

RECONCILED = "reconciled"
"""Value of the metadata key that says how the event came."""

# Of states that began in the same second: cause before effect.
_RANK = {"PreQueue": 0, "InQueue": 1, "Active": 2}
# Webhook's name of a field ← names that REST uses for it, the first one given counts.
_HEAD = {
    "masterContactId": ("masterContactId",),
    "mediaType": ("mediaTypeName", "mediaType"),
    "isOutbound": ("isOutbound",),
    "fromAddr": ("fromAddress", "fromAddr"),
    "toAddr": ("toAddress", "toAddr"),
}
_SUMMARY = {
    "abandoned": ("abandoned",),
    "inQueueSeconds": ("inQueueSeconds",),
    "agentSeconds": ("agentSeconds",),
    "holdSeconds": ("holdSeconds",),
    "acwSeconds": ("acwSeconds", "ACWSeconds"),
    "totalDurationSeconds": ("totalDurationSeconds",),
    "endReason": ("endReason",),
}


class State(NamedTuple):
    """One state of a contact."""

    at_ms: int  # when it began, epoch ms
    name: str  # PreQueue, InQueue, Active, EndContact, …
    skill: str | None
    agent: str | None


class Native(NamedTuple):
    """One native event and the canonical events that it becomes."""

    kind: str
    events: list[CanonicalEvent]


def contact_id(row: Json) -> str:
    """The contact of a row of either list.

    Raises:
        BadEventError: the row is no object, or has no usable id.
    """
    found = normaliser(VENDOR).require_object(row).get("contactId")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        msg = "contactId: text or a number is needed"
        raise BadEventError(msg, reason="missing_field" if found is None else "wrong_type", path="contactId")
    return str(found)


def state_of(row: Json) -> State:
    """A row of ``contacts/state-history``.

    Raises:
        BadEventError: naming the field that is missing or wrong.
    """
    name = row.get("contactStateName")
    if not isinstance(name, str):
        msg = "contactStateName: text is needed"
        raise BadEventError(msg, reason="missing_field" if name is None else "wrong_type", path="contactStateName")
    return State(_instant(row, ("stateStartDate",)), name, _id(row, "skillId"), _id(row, "agentId"))


def started_ms(row: Json) -> int:
    """When a contact began, epoch ms. Raises BadEventError as :func:`state_of`."""
    return _instant(row, ("contactStartDate", "contactStart"))


def lacks_head(row: dict[str, Json], states: Sequence[State], since_ms: int | None) -> bool:
    """Whether what happened first to a contact is not among its states, since they were asked for from later on.

    Args:
        row: Of ``contacts/completed``.
        states: The contact's, in any order.
        since_ms: From when states were asked for, epoch ms; None: from before every contact's start.

    Raises:
        BadEventError: the row does not say when the contact began.
    """
    if since_ms is None or started_ms(row) >= since_ms:
        return False
    return not states or min(states, key=_order).name not in {"PreQueue", "InQueue"}


def expected_events(
    row: dict[str, Json], states: Sequence[State], tenant_id: str, since_ms: int | None = None
) -> list[Native]:
    """Everything that the contact's webhooks should have brought, in the order of cause and effect.

    Args:
        row: Of ``contacts/completed``.
        states: The contact's, in any order; may be incomplete or empty.
        tenant_id: Whose contact it is.
        since_ms: As for :func:`lacks_head`; of a contact without its head only what is certain is given.

    Raises:
        BadEventError: the row lacks what an event can't do without.
    """
    vendor = normaliser(VENDOR)
    natives = []
    for document in _webhooks(row, states, is_partial=lacks_head(row, states, since_ms)):
        events = vendor.normalise_document(document, tenant_id)
        for event in events:
            event["metadata"][RECOVERED_KEY] = RECONCILED
        natives.append(Native(document["eventType"], events))
    return natives


def _order(state: State) -> tuple[int, int]:
    return state.at_ms, _RANK.get(state.name, len(_RANK))


def _webhooks(row: dict[str, Json], states: Sequence[State], *, is_partial: bool) -> Iterator[dict[str, Json]]:
    """The contact's webhook bodies."""
    states = sorted(states, key=_order)
    known = {name: [state for state in states if state.name == name] for name in ("PreQueue", "InQueue", "EndContact")}
    skill, agent = _id(row, "skillId"), _id(row, "agentId")
    summary = dict(_renamed(row, _SUMMARY))
    wait_ms, talk_ms = _ms(summary, "inQueueSeconds"), _ms(summary, "agentSeconds")
    start_ms = known["PreQueue"][0].at_ms if known["PreQueue"] else started_ms(row)
    if known["EndContact"]:
        end_ms = known["EndContact"][-1].at_ms
    elif "totalDurationSeconds" in summary:
        end_ms = started_ms(row) + _ms(summary, "totalDurationSeconds")
    else:
        msg = "totalDurationSeconds: missing, and no state says when the contact ended"
        raise BadEventError(msg, reason="missing_field", path="totalDurationSeconds")

    assignments = legs(states, is_partial=is_partial)
    if not assignments and agent is not None and not is_partial:
        assignments = [State(end_ms - talk_ms, "Active", skill, agent)]
    entries = known["InQueue"]
    # Without any state, an agent who was not called out answered from a queue, though perhaps within its first second.
    is_derivable = not entries and not is_partial
    if is_derivable and (wait_ms or (not states and agent is not None and row.get("isOutbound") is not True)):
        left_ms = assignments[0].at_ms if assignments else end_ms
        entries = [State(left_ms - wait_ms, "InQueue", skill, None)]
    if summary.get("abandoned") is True and entries and not wait_ms:
        # A wait that the vendor rounds to nothing; its states still tell it.
        summary["inQueueSeconds"] = max(end_ms - entries[-1].at_ms, 0) // 1000
    if skill is None and entries:
        skill = entries[-1].skill

    head = {"contactId": contact_id(row), **dict(_renamed(row, _HEAD))}
    yield {"eventType": "CALL_STARTED", "timestamp": start_ms, **head}
    for entry in entries:
        yield {"eventType": "QUEUE_ENTERED", "timestamp": entry.at_ms, **head, **_place(entry.skill or skill, None)}
    for taken in assignments:
        place = _place(taken.skill or skill, taken.agent or agent)
        yield {"eventType": "AGENT_ASSIGNED", "timestamp": taken.at_ms, **head, **place}
    place = _place(skill, agent) if entries or assignments or (is_partial and agent is not None) else {}
    yield {"eventType": "CALL_ENDED", "timestamp": end_ms, **head, **place, **summary}


def _place(skill: str | None, agent: str | None) -> dict[str, Json]:
    return ({} if skill is None else {"skillId": skill}) | ({} if agent is None else {"agentId": agent})


def legs(states: Iterable[State], *, is_partial: bool = False) -> list[State]:
    """States Active that begin an agent's leg: another agent than before, or the contact was in a queue meanwhile.

    Args:
        states: A contact's, in any order.
        is_partial: Its first states are missing, so an agent who is active before any queue may have been so before.
    """
    found: list[State] = []
    queued = not is_partial
    agent: str | None = None
    is_first = True
    for state in sorted(states, key=_order):
        if state.name == "InQueue":
            queued = True
        elif state.name == "Active":
            if queued or (not is_first and state.agent != agent):
                found.append(state)
            queued, is_first, agent = False, False, state.agent
    return found


def _renamed(row: dict[str, Json], names: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Json]]:
    for name, candidates in names.items():
        value = next((row[candidate] for candidate in candidates if row.get(candidate) is not None), None)
        if value is not None:
            yield name, value


def _instant(row: dict[str, Json], names: tuple[str, ...]) -> int:
    path = next((name for name in names if row.get(name) is not None), names[0])
    value = row.get(path)
    if value is None:
        msg = f"{path}: missing, but the event can't do without it"
        raise BadEventError(msg, reason="missing_field", path=path)
    try:
        at_ms = to_ms(datetime.fromisoformat(value))  # TypeError without an offset
    except (ValueError, TypeError, OverflowError):
        msg = f"{path}: ISO 8601 with an offset is needed"
        raise BadEventError(msg, reason="wrong_type", path=path) from None
    if not 0 <= at_ms <= MAX_TIMESTAMP_MS:
        msg = f"{path}: lies outside 1970 to 9999"
        raise BadEventError(msg, reason="out_of_range", path=path)
    return at_ms


def _ms(summary: dict[str, Json], name: str) -> int:
    """A duration in ms; 0 if REST does not tell it."""
    value = summary.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIMESTAMP_MS // 1000:
        msg = f"{name}: seconds, 0 or more, are needed"
        raise BadEventError(msg, reason="wrong_type", path=name)
    return round(value * 1000)


def _id(row: dict[str, Json], name: str) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        msg = f"{name}: text or a number is needed"
        raise BadEventError(msg, reason="wrong_type", path=name)
    return str(value)
