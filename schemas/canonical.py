"""The canonical event, its types and its identity."""

from __future__ import annotations

import os
import re
import uuid
from enum import StrEnum
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple, TypedDict

import orjson

from streaming.errors import ConfigurationError

SUBJECT = "com.enterprise.eventbus.CanonicalCcaaEvent"
"""Registry subject by RecordNameStrategy: the record's full name, one for all tenants."""

AVRO_DIR = Path(__file__).parent / "avro"
"""The project's versions of the schema."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "eventbus.enterprise.com").bytes

NATIVE_TYPE_KEY = "ccaas.native_type"
"""metadata key that keeps the vendor's own name of the event."""


RECOVERED_KEY = "ccaas.recovered"
"""metadata key of an event that did not come by the vendor's push: ``reconciled``, ``polled``, ``backfilled``,
``deferred``, ``replayed``."""

REST_NEAR_MS = 5_000
"""How far apart a pushed event and the same occurrence as REST tells it may lie: whole seconds, perhaps one off, and
some more. Reconciliation, confirmation and the warehouse's twins go by it alike."""


class CanonicalEvent(TypedDict):
    """One event, in the field order of the Avro schema; a dict at run time, so the encoder takes it as it is."""

    event_id: str
    vendor: str
    tenant_id: str
    timestamp: int  # epoch ms
    event_type: str
    payload: dict[str, str]
    metadata: dict[str, str]


class EventType(StrEnum):
    """Vendor-neutral event types."""

    STARTED = "conversation.started"
    QUEUED = "conversation.queued"
    ASSIGNED = "conversation.assigned"
    ABANDONED = "conversation.abandoned"
    FLOWED_OUT = "conversation.flowed_out"
    CONNECTED = "conversation.connected"
    HANDLED = "conversation.handled"
    WRAPUP = "conversation.wrapup"
    ENDED = "conversation.ended"
    STATUS_CHANGED = "agent.status_changed"


class Identity(NamedTuple):
    """What makes an occurrence of a type unique within vendor and tenant."""

    keys: tuple[str, ...]  # payload keys; an absent one counts as empty
    timed: bool  # whether the vendor's time, cut to the second, is part of it


IDENTITY: dict[EventType, Identity] = {
    EventType.STARTED: Identity(("conversation_id",), timed=False),
    EventType.QUEUED: Identity(("conversation_id", "queue_id"), timed=True),
    EventType.ASSIGNED: Identity(("conversation_id", "queue_id", "agent_id"), timed=True),
    EventType.ABANDONED: Identity(("conversation_id", "queue_id"), timed=True),
    EventType.FLOWED_OUT: Identity(("conversation_id", "queue_id"), timed=True),
    EventType.CONNECTED: Identity(("conversation_id", "queue_id", "agent_id"), timed=True),
    EventType.HANDLED: Identity(("conversation_id", "queue_id", "agent_id"), timed=True),
    EventType.WRAPUP: Identity(("conversation_id", "queue_id", "agent_id"), timed=True),
    EventType.ENDED: Identity(("conversation_id",), timed=False),
    EventType.STATUS_CHANGED: Identity(("agent_id", "agent_status"), timed=True),
}

PAYLOAD_KEYS = frozenset(
    {
        "acw_ms", "agent_id", "agent_status", "ani", "conversation_id", "direction", "dnis", "duration_ms",
        "end_reason", "hold_ms", "media_type", "outcome", "parent_conversation_id", "queue_id", "talk_ms", "wait_ms",
        "wrapup_code",
    }
)  # fmt: skip
"""The payload vocabulary; field maps may name no other key. docs/events.md explains each."""


def event_id(vendor: str, tenant_id: str, event_type: EventType, timestamp: int, payload: dict[str, str]) -> str:
    """UUIDv5 (RFC 9562 §5.5) of the occurrence.

    Args:
        vendor: Vendor's name.
        tenant_id: Tenant within the vendor.
        event_type: Canonical type; it decides which payload keys and whether the time count.
        timestamp: The vendor's time, epoch ms.
        payload: Canonical payload.
    """
    keys, timed = IDENTITY[event_type]
    # JSON keeps the parts apart whatever characters an id holds.
    name = orjson.dumps([vendor, tenant_id, event_type, timestamp // 1000 if timed else None, *map(payload.get, keys)])
    # uuid.uuid5 does the same in twice the time: this runs once an event.
    digest = bytearray(sha1(_NAMESPACE + name, usedforsecurity=False).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x50
    digest[8] = (digest[8] & 0x3F) | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


CORE_FIELDS: dict[str, object] = {
    **dict.fromkeys(("event_id", "vendor", "tenant_id", "event_type"), "string"),
    "timestamp": "long",
    **{name: {"type": "map", "values": "string"} for name in ("payload", "metadata")},
}
"""Fields that every version of the schema has, and their Avro types. What comes later is optional."""


_VERSION_FILE = re.compile(r"CanonicalCcaaEvent\.v([1-9][0-9]*)\.avsc")


def schema_versions(folder: Path = AVRO_DIR) -> dict[int, str]:
    """Every version of the Avro schema in a folder, by number, ascending, as JSON text.

    Raises:
        ConfigurationError: there is none, or one can't be read.
    """
    try:
        names = [found for file in folder.iterdir() if (found := _VERSION_FILE.fullmatch(file.name))]
        names.sort(key=lambda found: int(found[1]))
        versions = {int(found[1]): (folder / found[0]).read_text(encoding="utf-8") for found in names}
    except (OSError, UnicodeError) as error:
        msg = f"{folder}: {error}; mend it or registry.schema_dir"
        raise ConfigurationError(msg) from None
    if not versions:
        msg = f"{folder} has no CanonicalCcaaEvent.v1.avsc: mend registry.schema_dir"
        raise ConfigurationError(msg)
    return versions


def latest_schema(folder: Path = AVRO_DIR) -> str:
    """The newest Avro schema of a folder as JSON text.

    Raises:
        ConfigurationError: see :func:`schema_versions`.
    """
    versions = schema_versions(folder)
    return versions[max(versions)]


def write_version(folder: Path, number: int, schema: str) -> Path:
    """Add a version to a folder, atomically; one that is there with the same content stays as it is.

    Raises:
        ConfigurationError: the number is taken by another schema.
        OSError: the folder can't be written.
    """
    file = folder / f"CanonicalCcaaEvent.v{number}.avsc"
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        with temporary.open("x", encoding="utf-8") as writing:
            writing.write(schema)
            writing.flush()
            os.fsync(writing.fileno())
        # A link, since a rename would replace what another process wrote meanwhile.
        file.hardlink_to(temporary)
    except FileExistsError:
        if orjson.loads(file.read_bytes()) != orjson.loads(schema):
            msg = f"{file} holds another schema than version {number} of the registry: see to it which one is right"
            raise ConfigurationError(msg) from None
    finally:
        temporary.unlink(missing_ok=True)
    return file
