"""Peer of ``normalise``: the same canonical events, written down plainly with json, uuid, datetime and fastavro.

Handles just the types of ``bench/messages.py``, without any check of types: less work than ours.
"""

from __future__ import annotations

import io
import json
import struct
import uuid
from datetime import datetime
from typing import Any

import fastavro

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "eventbus.enterprise.com")
_GENESYS_FIELDS = {
    "conversationId": "conversation_id", "mediaType": "media_type", "direction": "direction", "ani": "ani",
    "dnis": "dnis", "queueId": "queue_id", "userId": "agent_id", "answeredUserId": "agent_id",
    "acdOutcome": "outcome", "connectedDurationMs": "wait_ms", "interactingDurationMs": "talk_ms",
    "heldDurationMs": "hold_ms", "disconnectType": "end_reason",
}  # fmt: skip
_GENESYS_TYPES = {
    "customer.start": "conversation.started", "acd.start": "conversation.queued", "acd.end": "conversation.assigned",
    "user.start": "conversation.connected", "user.end": "conversation.handled", "customer.end": "conversation.ended",
}  # fmt: skip
_CXONE_TYPES = {
    "CALL_STARTED": ("conversation.started",), "QUEUE_ENTERED": ("conversation.queued",),
    "AGENT_ASSIGNED": ("conversation.assigned",), "CALL_ENDED": ("conversation.handled", "conversation.ended"),
}  # fmt: skip
# What is no metadata: the fields that the event itself carries.
_CXONE_CONTACT = {"contactId", "masterContactId", "mediaType", "isOutbound", "fromAddr", "toAddr"}
_CXONE_USED = {
    "conversation.started": _CXONE_CONTACT,
    "conversation.queued": _CXONE_CONTACT | {"skillId"},
    "conversation.assigned": _CXONE_CONTACT | {"skillId", "agentId"},
    "conversation.handled": _CXONE_CONTACT | {"skillId", "agentId", "agentSeconds", "holdSeconds", "endReason"},
    "conversation.ended": _CXONE_CONTACT | {"inQueueSeconds", "totalDurationSeconds", "endReason"},
}
_IDENTITY = {
    "conversation.started": (("conversation_id",), False),
    "conversation.queued": (("conversation_id", "queue_id"), True),
    "conversation.assigned": (("conversation_id", "queue_id", "agent_id"), True),
    "conversation.connected": (("conversation_id", "queue_id", "agent_id"), True),
    "conversation.handled": (("conversation_id", "queue_id", "agent_id"), True),
    "conversation.ended": (("conversation_id",), False),
    "agent.status_changed": (("agent_id", "agent_status"), True),
}

Event = dict[str, Any]


def genesys(raw: bytes, tenant_id: str) -> list[Event]:
    """Canonical events of a Genesys message."""
    message = json.loads(raw)
    parts, body = message["topicName"].split("."), message["eventBody"]
    metadata = {"genesys.version": message["version"]}
    metadata["genesys.metadata.CorrelationId"] = message["metadata"]["CorrelationId"]
    if parts[1] == "users":
        status = body["routingStatus"]
        payload = {"agent_id": body["id"], "agent_status": status["status"]}
        metadata["ccaas.native_type"] = "v2.users.{id}.routingStatus"
        return [_event("genesys", tenant_id, "agent.status_changed", _epoch_ms(status["startTime"]), payload, metadata)]
    kind = ".".join(parts[5:])
    metadata["ccaas.native_type"] = f"v2.detail.events.conversation.{{id}}.{kind}"
    payload = {}
    for key, value in body.items():
        if key in _GENESYS_FIELDS:
            payload[_GENESYS_FIELDS[key]] = _text(value)
        elif key != "eventTime":
            metadata[f"genesys.{key}"] = _text(value)
    return [_event("genesys", tenant_id, _GENESYS_TYPES[kind], body["eventTime"], payload, metadata)]


def cxone(raw: bytes, tenant_id: str) -> list[Event]:
    """Canonical events of a webhook's body."""
    message = json.loads(raw)
    native = message["eventType"]
    events = []
    for event_type in _CXONE_TYPES[native]:
        used = _CXONE_USED[event_type]
        metadata = {"ccaas.native_type": native}
        for key, value in message.items():
            if key not in used and key not in ("eventType", "timestamp"):
                metadata[f"cxone.{key}"] = _text(value)
        payload = {
            "conversation_id": message["contactId"],
            "parent_conversation_id": message["masterContactId"],
            "media_type": {"Call": "VOICE"}.get(message["mediaType"], message["mediaType"]),
            "direction": "OUTBOUND" if message["isOutbound"] else "INBOUND",
            "ani": message["fromAddr"],
            "dnis": message["toAddr"],
        }
        if event_type not in ("conversation.started", "conversation.ended"):
            payload["queue_id"] = message["skillId"]
        if event_type == "conversation.assigned":
            payload |= {"agent_id": message["agentId"], "outcome": "ANSWERED"}
        if event_type == "conversation.handled":
            talk_s = message["agentSeconds"] - message["holdSeconds"]
            payload |= {"agent_id": message["agentId"], "talk_ms": str(talk_s * 1000)}
            payload |= {"hold_ms": str(message["holdSeconds"] * 1000), "end_reason": message["endReason"]}
        if event_type == "conversation.ended":
            payload |= {"wait_ms": str(message["inQueueSeconds"] * 1000), "end_reason": message["endReason"]}
            payload["duration_ms"] = str(message["totalDurationSeconds"] * 1000)
        events.append(_event("cxone", tenant_id, event_type, _epoch_ms(message["timestamp"]), payload, metadata))
    return events


class Encoder:
    """Confluent wire format by fastavro."""

    def __init__(self, schema: str, schema_id: int) -> None:
        self._schema = fastavro.parse_schema(json.loads(schema))
        self._id = schema_id

    def encode(self, event: Event) -> bytes:
        buffer = io.BytesIO()
        buffer.write(struct.pack(">bI", 0, self._id))
        fastavro.schemaless_writer(buffer, self._schema, event)
        return buffer.getvalue()


def _event(
    vendor: str, tenant_id: str, event_type: str, timestamp: int, payload: dict[str, str], metadata: dict[str, str]
) -> Event:
    keys, timed = _IDENTITY[event_type]
    second = timestamp // 1000 if timed else None
    name = [vendor, tenant_id, event_type, second, *(payload.get(key) for key in keys)]
    return {
        "event_id": str(uuid.uuid5(_NAMESPACE, json.dumps(name, separators=(",", ":"), ensure_ascii=False))),
        "vendor": vendor,
        "tenant_id": tenant_id,
        "timestamp": timestamp,
        "event_type": event_type,
        "payload": payload,
        "metadata": metadata,
    }


def _epoch_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
