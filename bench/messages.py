"""Native messages of both vendors, as they send them; own copies, so that a figure does not move with the tests."""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bench.signing import detached_signature

SECRET = "bench-hmac-secret"
BEARER = "bench-bearer-token"

_DAY = datetime(2026, 11, 23, 9, tzinfo=UTC)


def genesys(kind: str, conversation: str, at_ms: int, **body: Any) -> dict[str, Any]:
    """One message of ``v2.detail.events.conversation.{id}.<kind>``."""
    return {
        "topicName": f"v2.detail.events.conversation.{conversation}.{kind}",
        "version": "2",
        "eventBody": {
            "eventTime": at_ms,
            "conversationId": conversation,
            "participantId": f"p-{conversation}",
            "sessionId": f"s-{conversation}",
            "mediaType": "VOICE",
            "provider": "Edge",
            "direction": "INBOUND",
            "ani": "tel:+15550100",
            "dnis": "tel:+15550199",
            **body,
        },
        "metadata": {"CorrelationId": f"k-{conversation}"},
    }


def cxone(kind: str, contact: str, at: datetime, **body: Any) -> dict[str, Any]:
    """One event of a webhook."""
    return {
        "eventId": f"e-{contact}-{kind}",
        "eventType": kind,
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "contactId": contact,
        "masterContactId": contact,
        "mediaType": "Call",
        "isOutbound": False,
        "fromAddr": "+15550100",
        "toAddr": "+15550199",
        **body,
    }


def genesys_call(number: int) -> list[dict[str, Any]]:
    """An answered call and its agent's status: seven messages, seven canonical events."""
    call, at = f"AA0101-20261123-{number}", int(_DAY.timestamp() * 1000) + number * 1000
    agent, queue = f"AGENT{number % 40}", {"queueId": f"Q{number % 6}", "divisionId": "d-1"}
    leg = {"userId": agent, **queue}
    durations = {"interactingDurationMs": 120_000, "heldDurationMs": 0, "alertingDurationMs": 0}
    since = (_DAY + timedelta(seconds=number + 17)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    answered = {"acdOutcome": "ANSWERED", "answeredUserId": agent, "connectedDurationMs": 17_000, **queue}
    return [
        genesys("customer.start", call, at),
        genesys("acd.start", call, at, **queue),
        genesys("acd.end", call, at + 17_000, **answered),
        genesys("user.start", call, at + 17_000, **leg),
        {
            "topicName": f"v2.users.{agent}.routingStatus",
            "version": "2",
            "eventBody": {"id": agent, "routingStatus": {"status": "INTERACTING", "startTime": since}},
            "metadata": {"CorrelationId": f"k-{call}"},
        },
        genesys("user.end", call, at + 137_000, disconnectType="PEER", **leg, **durations),
        genesys("customer.end", call, at + 137_000, disconnectType="PEER"),
    ]


def cxone_call(number: int) -> list[dict[str, Any]]:
    """An answered call: four webhook events, five canonical events."""
    call, at = f"AA0201-20261123-{number}", _DAY + timedelta(seconds=number, milliseconds=123)
    skill, agent = {"skillId": f"S{number % 6}"}, {"agentId": f"AGENT{number % 40}"}
    summary = {
        "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 120, "holdSeconds": 0, "acwSeconds": 0,
        "totalDurationSeconds": 137, "endReason": "Contact Hung Up",
    }  # fmt: skip
    return [
        cxone("CALL_STARTED", call, at),
        cxone("QUEUE_ENTERED", call, at, **skill),
        cxone("AGENT_ASSIGNED", call, at + timedelta(seconds=17), **skill, **agent),
        cxone("CALL_ENDED", call, at + timedelta(seconds=137), **skill, **agent, **summary),
    ]


def webhook_request(tenant_id: str, message: dict[str, Any], key: RSAPrivateKey | None = None) -> bytes:
    """A whole HTTP request with a webhook's body, signed now: with RS256 if a key is given, else with HMAC."""
    body = orjson.dumps(message)
    if key is not None:
        signed = f"X-CXone-Signature: {detached_signature(key, body)}\r\n"
    else:
        timestamp = str(int(time.time()))
        digest = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        signed = f"X-CXone-Timestamp: {timestamp}\r\nX-CXone-Signature: sha256={digest}\r\n"
    head = (
        f"POST /cxone/webhook/{tenant_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {BEARER}\r\n{signed}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def cxone_tenant(tenant_id: str, vendor_url: str, jwks_url: str | None = None) -> str:
    """Settings of a CXone tenant, as TOML; the vendor answers token and agent-state requests at ``vendor_url``.

    Its webhooks are signed with RS256 if there is a ``jwks_url``, else with HMAC. No benchmark measures its rate limit.
    """
    scheme = (
        f'signature = "jws"\njwks_url = "{jwks_url}"\n'
        if jwks_url
        else f'signature = "hmac"\nhmac_secret = "{SECRET}"\n'
    )
    return (
        f'[[tenants]]\ntenant_id = "{tenant_id}"\nvendor = "cxone"\n[tenants.connection]\n'
        f'token_url = "{vendor_url}/token"\napi_url = "{vendor_url}"\nclient_id = "i"\nclient_secret = "s"\n'
        f'webhook_tokens = ["{BEARER}"]\nrequests_per_second = 1000000\n{scheme}'
    )


def genesys_tenant(tenant_id: str, vendor_url: str) -> str:
    """Settings of the Genesys tenant, as TOML."""
    return (
        f'[[tenants]]\ntenant_id = "{tenant_id}"\nvendor = "genesys"\n[tenants.connection]\n'
        f'token_url = "{vendor_url}/token"\napi_url = "{vendor_url}"\nstream_url = "{vendor_url}/stream"\n'
        'client_id = "i"\nclient_secret = "s"\n'
    )
