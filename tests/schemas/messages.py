"""Native messages as the vendors send them, with one place to change a field."""

from __future__ import annotations

import json
from typing import Any

AT_MS = 1_795_430_000_123
AT_ISO = "2026-11-23T09:00:00.123Z"


def genesys(kind: str, **body: Any) -> dict[str, Any]:
    """A message of `v2.detail.events.conversation.{id}.<kind>`; a value of `...` removes the field."""
    fields = {
        "eventTime": AT_MS, "conversationId": "c-1", "participantId": "p-1", "sessionId": "s-1", "mediaType": "VOICE",
        "provider": "Edge", "direction": "INBOUND", "ani": "tel:+1", "dnis": "tel:+2",
    } | body  # fmt: skip
    return {
        "topicName": f"v2.detail.events.conversation.{fields['conversationId']}.{kind}",
        "version": "2",
        "eventBody": {key: value for key, value in fields.items() if value is not ...},
        "metadata": {"CorrelationId": "x"},
    }


def cxone(kind: str, **body: Any) -> dict[str, Any]:
    """A webhook event; a value of `...` removes the field."""
    fields = {
        "eventId": "e-1", "eventType": kind, "timestamp": AT_ISO, "contactId": "c-1", "masterContactId": "c-1",
        "skillId": "PS", "agentId": "MICHAL", "mediaType": "Call", "isOutbound": False, "fromAddr": "1", "toAddr": "2",
    } | body  # fmt: skip
    return {key: value for key, value in fields.items() if value is not ...}


def ended(**body: Any) -> dict[str, Any]:
    """A CALL_ENDED of an answered call."""
    defaults = {
        "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 100, "holdSeconds": 10, "acwSeconds": 0,
        "totalDurationSeconds": 130, "endReason": "Contact Hung Up",
    }  # fmt: skip
    return cxone("CALL_ENDED", **defaults | body)


def raw(message: Any) -> bytes:
    """The message's bytes."""
    return json.dumps(message).encode()
