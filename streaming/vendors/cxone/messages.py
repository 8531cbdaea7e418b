"""From a webhook's body to canonical events: one JSON event, or an array of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from schemas.canonical import CanonicalEvent
from schemas.normalise import Normaliser
from streaming.errors import BadEventError

MAX_EVENTS = 10_000
"""Of one body. A body of 1 MiB holds fewer real events; an array of rubbish must not flood the producer."""


class Failure(NamedTuple):
    """A body that is no event, or holds elements that are none."""

    value: bytes
    error: BadEventError


class Outcome(NamedTuple):
    """What one body becomes; nothing of it is lost."""

    events: list[CanonicalEvent]
    failure: Failure | None


def normalise_body(normaliser: Normaliser, body: bytes, tenant_id: str) -> Outcome:
    """All canonical events of a webhook's body. Pure, never raises.

    A bad element of an array does not harm the others. The failure then holds the whole body, since an element has no
    bytes of its own, and the path of the first bad element: normalised again, the good ones get the same ids.

    Args:
        normaliser: The vendor's.
        body: As received.
        tenant_id: Whose webhook it was.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Outcome([], Failure(body, BadEventError(f"not JSON: {error}", reason="unparsable")))
    events, first = normalise_parsed(normaliser, document, tenant_id)
    return Outcome(events, Failure(body, first) if first else None)


def normalise_parsed(
    normaliser: Normaliser, document: Any, tenant_id: str
) -> tuple[list[CanonicalEvent], BadEventError | None]:
    """As :func:`normalise_body`, of a body that is JSON; gives the events, and why the first bad element is bad."""
    elements = document if isinstance(document, list) else [document]
    if len(elements) > MAX_EVENTS:
        msg = f"an array of {len(elements)} events, more than {MAX_EVENTS}"
        return [], BadEventError(msg, reason="too_large")
    if not elements:
        # The vendor got its 200 for it, so it must not vanish.
        return [], BadEventError("an array without events", reason="empty")
    events: list[CanonicalEvent] = []
    first: BadEventError | None = None
    for number, element in enumerate(elements):
        try:
            events += normaliser.normalise_document(normaliser.require_object(element), tenant_id)
        except BadEventError as error:
            first = first or (error if document is element else _within(error, number))
    return events, first


def _within(error: BadEventError, number: int) -> BadEventError:
    path = f"[{number}].{error.path}" if error.path else f"[{number}]"
    return BadEventError(f"[{number}]: {error}", reason=error.reason, path=path)
