"""What the CRM must know of every conversation and agent, computed from the raw events.

This is the yardstick for crm-sync, so it shares no code with it: it knows the vocabulary of events (docs/events.md) and
the rules of docs/crm.md, and sorts all events of an entity where crm-sync never sorts anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Entity = tuple[str, str, str, str]
"""Vendor, tenant, kind and id."""

_CONTACT = ["media_type", "direction", "ani", "dnis", "parent_conversation_id"]
_QUEUE = [*_CONTACT, "queue_id"]

# Event type → status that it gives, field of its time, payload keys that it says. Their order breaks ties of time.
_LIFE: dict[str, tuple[str, str, list[str]]] = {
    "conversation.started": ("started", "started_at", _CONTACT),
    "conversation.queued": ("queued", "queued_at", _QUEUE),
    "conversation.flowed_out": ("flowed_out", "flowed_out_at", [*_QUEUE, "outcome", "wait_ms"]),
    "conversation.abandoned": ("abandoned", "abandoned_at", [*_QUEUE, "outcome", "wait_ms"]),
    "conversation.assigned": ("assigned", "assigned_at", [*_QUEUE, "agent_id", "outcome", "wait_ms"]),
    "conversation.connected": ("connected", "connected_at", [*_QUEUE, "agent_id"]),
    "conversation.handled": ("", "handled_at", [*_QUEUE, "agent_id", "talk_ms", "hold_ms"]),
    "conversation.wrapup": ("", "wrapup_at", [*_QUEUE, "agent_id", "acw_ms", "wrapup_code"]),
    "conversation.ended": ("ended", "ended_at", [*_CONTACT, "end_reason", "duration_ms", "wait_ms"]),
    "agent.status_changed": ("", "status_since", []),
}
_PLACES = {event_type: place for place, event_type in enumerate(_LIFE)}


def offline_fold(events: Iterable[Mapping[str, Any]]) -> dict[Entity, dict[str, str]]:
    """Fields of every conversation and agent: what the newest event that says a field says.

    Args:
        events: In any order, repetitions included.
    """
    entities: dict[Entity, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        kind = "agent" if event["event_type"] == "agent.status_changed" else "conversation"
        entities[event["vendor"], event["tenant_id"], kind, event["payload"][f"{kind}_id"]].append(event)
    states = {}
    for entity, mine in entities.items():
        state: dict[str, str] = {}
        for event in sorted(mine, key=lambda said: (said["timestamp"], _PLACES[said["event_type"]], said["event_id"])):
            state.update(_said_by(event))
        states[entity] = state
    return states


def _said_by(event: Mapping[str, Any]) -> dict[str, str]:
    status, time_field, names = _LIFE[event["event_type"]]
    payload: Mapping[str, str] = event["payload"]
    said = {name: payload[name] for name in names if name in payload}
    said[time_field] = str(event["timestamp"])
    if status:
        said["status"] = status
    if event["event_type"] == "agent.status_changed":
        said["status"] = payload["agent_status"]
    return said
