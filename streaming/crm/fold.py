"""The state of a conversation or an agent: a fold over events that gives the same whatever their order.

Each event says a new value of some fields. Of each field the newest value stays, by (timestamp, step, event_id): the
vendor's time; where several events are of one millisecond, which is usual with times of whole seconds, the step in a
contact's life; then the id. A total order, so events may come in any order, twice, and over any number of members.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import orjson

from schemas.canonical import CanonicalEvent, EventType
from streaming.errors import BadEventError


class Entity(NamedTuple):
    """Whose state it is."""

    vendor: str
    tenant_id: str
    kind: str
    """``conversation`` or ``agent``."""
    id: str


class Version(NamedTuple):
    """How new a value is."""

    timestamp: int
    """The vendor's time, epoch ms."""
    step: int
    """Of the event's type in a contact's life."""
    event_id: str


class Versioned(NamedTuple):
    """A field's value; the version comes first, so the greater one is the newer."""

    version: Version
    value: str


State = dict[str, Versioned]
"""Fields by name."""


class _Sets(NamedTuple):
    """What an event of a type says.

    Attributes:
        status: The entity's status from now on.
        time: Field that takes the event's time.
        fields: Payload keys that are fields of the same name.
    """

    status: str = ""
    time: str = ""
    fields: tuple[str, ...] = ()


_CONTACT = ("media_type", "direction", "ani", "dnis", "parent_conversation_id")
_QUEUE = (*_CONTACT, "queue_id")
_LEFT = (*_QUEUE, "outcome", "wait_ms")
_LEG = (*_QUEUE, "agent_id")

# In the order of a contact's life: a type's place is its step. What follows a conversation's end leaves its status.
_SETS: dict[str, _Sets] = {
    EventType.STARTED: _Sets("started", "started_at", _CONTACT),
    EventType.QUEUED: _Sets("queued", "queued_at", _QUEUE),
    EventType.FLOWED_OUT: _Sets("flowed_out", "flowed_out_at", _LEFT),
    EventType.ABANDONED: _Sets("abandoned", "abandoned_at", _LEFT),
    EventType.ASSIGNED: _Sets("assigned", "assigned_at", (*_LEFT, "agent_id")),
    EventType.CONNECTED: _Sets("connected", "connected_at", _LEG),
    EventType.HANDLED: _Sets("", "handled_at", (*_LEG, "talk_ms", "hold_ms")),
    EventType.WRAPUP: _Sets("", "wrapup_at", (*_LEG, "acw_ms", "wrapup_code")),
    EventType.ENDED: _Sets("ended", "ended_at", (*_CONTACT, "end_reason", "duration_ms", "wait_ms")),
    EventType.STATUS_CHANGED: _Sets("", "status_since", ()),
}
_STEPS = {event_type: step for step, event_type in enumerate(_SETS)}
_AGENT = "agent."


class Change(NamedTuple):
    """What one event changes: its contribution to the fold."""

    entity: Entity
    version: Version
    event_type: str
    fields: dict[str, str]
    """New values. Texts, as in the payload; times are epoch ms in decimal."""

    @classmethod
    def of(cls, event: CanonicalEvent) -> Self:
        """The event's change; of a type that is not known, none of any field.

        Raises:
            BadEventError: it does not say whose state it is.
        """
        event_type, payload = event["event_type"], event["payload"]
        kind = "agent" if event_type.startswith(_AGENT) else "conversation"
        id_ = payload.get(f"{kind}_id")
        if not id_:
            path = f"payload.{kind}_id"
            msg = f"{path}: missing in an event of type {event_type[:100]}"
            raise BadEventError(msg, reason="missing_field", path=path)
        sets = _SETS.get(event_type, _Sets())
        fields = {name: payload[name] for name in sets.fields if name in payload}
        if kind == "agent" and "agent_status" in payload:
            fields["status"] = payload["agent_status"]
        if sets.status:
            fields["status"] = sets.status
        if sets.time:
            fields[sets.time] = str(event["timestamp"])
        version = Version(event["timestamp"], _STEPS.get(event_type, 0), event["event_id"])
        return cls(Entity(event["vendor"], event["tenant_id"], kind, id_), version, event_type, fields)

    @property
    def key(self) -> bytes:
        """Of its record: one for each event, so compaction drops repetitions only."""
        return f"{self.entity.id}|{self.version.event_id}".encode()

    def document(self) -> bytes:
        """As JSON: what the CRM is told, and the record's value."""
        vendor, tenant_id, kind, id_ = self.entity
        return orjson.dumps(
            {
                "event_id": self.version.event_id,
                "vendor": vendor,
                "tenant_id": tenant_id,
                f"{kind}_id": id_,
                "event_type": self.event_type,
                "timestamp": self.version.timestamp,
                "version": tuple(self.version),
                "fields": self.fields,
            }
        )

    @classmethod
    def read(cls, document: bytes) -> Self:
        """The change that :meth:`document` wrote.

        Raises:
            ValueError: it is none.
        """
        try:
            said: dict[str, Any] = orjson.loads(document)
            kind = "agent" if "agent_id" in said else "conversation"
            return cls(
                Entity(said["vendor"], said["tenant_id"], kind, said[f"{kind}_id"]),
                Version(*said["version"]),
                said["event_type"],
                said["fields"],
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"no state change: {type(error).__name__}"
            raise ValueError(msg) from None


def apply(state: State, change: Change) -> None:
    """Fold a change into its entity's state, in place."""
    for name, value in change.fields.items():
        said = Versioned(change.version, value)
        if name not in state or state[name] < said:
            state[name] = said


def fold(changes: Iterable[Change]) -> dict[Entity, State]:
    """The states that changes lead to, in whatever order they come; none of an entity of which no field is known."""
    states: dict[Entity, State] = {}
    for change in changes:
        if change.fields:
            apply(states.setdefault(change.entity, {}), change)
    return states
