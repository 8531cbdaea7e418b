"""From a webhook's body to canonical events: one JSON event, or an array of them."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from schemas.canonical import CanonicalEvent
from schemas.normalise import Normaliser
from streaming.errors import BadEventError

MAX_EVENTS = 10_000
"""Of one body. A body of 1 MiB holds fewer real events; an array of rubbish must not flood the producer."""


class Failure(NamedTuple):
    """A message, or one element of an array, that is no event."""

    value: bytes
    error: BadEventError


class Outcome(NamedTuple):
    """What one body becomes; nothing of it is lost."""

    events: list[CanonicalEvent]
    failures: list[Failure]


def normalise_body(normaliser: Normaliser, body: bytes, tenant_id: str) -> Outcome:
    """All canonical events of a webhook's body. A bad element of an array does not harm the others. Pure, never raises.

    Args:
        normaliser: The vendor's.
        body: As received.
        tenant_id: Whose webhook it was.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Outcome([], [Failure(body, BadEventError(f"not JSON: {error}", reason="unparsable"))])
    if not isinstance(document, list):
        return _one(normaliser, document, body, tenant_id)
    if len(document) > MAX_EVENTS:
        too_many = BadEventError(f"an array of {len(document)} events, more than {MAX_EVENTS}", reason="too_large")
        return Outcome([], [Failure(body, too_many)])
    events: list[CanonicalEvent] = []
    failures: list[Failure] = []
    for element in document:
        outcome = _one(normaliser, element, None, tenant_id)
        events += outcome.events
        failures += outcome.failures
    return Outcome(events, failures)


def _one(normaliser: Normaliser, document: object, raw: bytes | None, tenant_id: str) -> Outcome:
    try:
        return Outcome(normaliser.normalise_document(normaliser.require_object(document), tenant_id), [])
    except BadEventError as error:
        # An element has no bytes of its own: its JSON stands for them.
        return Outcome([], [Failure(orjson.dumps(document) if raw is None else raw, error)])
