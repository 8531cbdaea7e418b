"""Events, and the conversations that they make."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, Table

from warehouse.tables.columns import (
    LOAD,
    TENANT,
    VENDOR,
    count,
    described,
    instant,
    key,
    metadata,
    ms,
    postgresql_index,
    postgresql_key,
    text,
)
from warehouse.tables.sources import (
    GENESYS_HANDLE_TIME,
    GENESYS_METRICS,
    GENESYS_OFFERED,
    GENESYS_WHEN_COUNTED,
    KAFKA,
    UUID5,
)


def _event_columns() -> list[Column[Any]]:
    return [
        key("event_id", "UUIDv5 of the occurrence; unique", source=UUID5),
        key("vendor", VENDOR),
        key("tenant_id", TENANT),
        key("event_type", "Canonical type, for example conversation.queued"),
        instant("timestamp", "The vendor's time; NULL if outside 1970 to 9999, then the event is in no interval"),
        ms("timestamp_ms", "The vendor's time as it came, epoch ms"),
        text("conversation_id", "Conversation; NULL for an agent's status"),
        text("parent_conversation_id", "Conversation from which this one came"),
        text("queue_id", "Queue (CXone: skill)"),
        text("agent_id", "Agent (Genesys: user)"),
        text("media_type", "VOICE, CHAT, ..."),
        text("direction", "INBOUND or OUTBOUND"),
        text("ani", "Caller's address"),
        text("dnis", "Address that was called"),
        text("outcome", "How the queue was left: ANSWERED, ABANDON, FLOW_OUT, UNKNOWN"),
        text("agent_status", "OFF_QUEUE, IDLE, INTERACTING, NOT_RESPONDING, COMMUNICATING"),
        text("end_reason", "Why the conversation ended, in the vendor's words"),
        text("wrapup_code", "Wrap-up code"),
        ms("wait_ms", "Wait in the queue, if the vendor says", nullable=True),
        ms("talk_ms", "Talk time of the agent's leg", nullable=True),
        ms("hold_ms", "Hold time of the agent's leg", nullable=True),
        ms("acw_ms", "Wrap-up time", nullable=True),
        ms("duration_ms", "Length of the conversation, if the vendor says", nullable=True),
        key("payload", "Canonical payload, JSON object of strings"),
        key("metadata", "Vendor fields without a place in the payload, JSON object of strings"),
        key("topic", "Kafka topic", source=KAFKA),
        Column("partition", Integer, nullable=False, doc="Kafka partition", info=described(source=KAFKA)),
        Column("offset", BigInteger, nullable=False, doc="Kafka offset", info=described(source=KAFKA)),
        instant("published_at", "Kafka's record time: when it was published", source=KAFKA),
        Column("load_id", BigInteger, nullable=False, doc=LOAD),
        Column(
            "event_key",
            BigInteger,
            doc="Number made of event_id, not unique: by it DuckDB, which has no index, finds ids; NULL on PostgreSQL",
            info=described(
                formula="last 12 characters of event_id as a hexadecimal number; of other texts 63 bits of the MD5"
            ),
        ),
    ]


events = Table(
    "events",
    metadata,
    *_event_columns(),
    postgresql_key("events_key", "event_id"),
    postgresql_index("events_conversation", "vendor", "tenant_id", "conversation_id"),
    postgresql_index("events_time", "timestamp_ms"),
    postgresql_index("events_agent", "vendor", "tenant_id", "agent_id", "event_type", "timestamp_ms"),
    postgresql_index("events_load", "load_id"),
    info={"row": "one canonical event, once"},
)

# Every event that reconciliation published. It is in `events` as well, unless a webhook of the same occurrence came:
# which one gives way is decided from all of them, so that the order of arrival plays no part (warehouse/twins.py).
reconciled_events = Table(
    "reconciled_events",
    metadata,
    *_event_columns(),
    postgresql_key("reconciled_events_key", "event_id"),
    postgresql_index("reconciled_events_conversation", "vendor", "tenant_id", "conversation_id"),
    info={"row": "one event that reconciliation published, whether it is in events or gave way to its webhook"},
)

conversations = Table(
    "conversations",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("conversation_id", "Conversation"),
    text("parent_conversation_id", "Conversation from which this one came"),
    text("media_type", "Of conversation.started; if it does not say, the least of the others'"),
    text("direction", "Of conversation.started; if it does not say, the least of the others'"),
    text("ani", "Caller's address"),
    text("dnis", "Address that was called"),
    instant("started_at", "Time of conversation.started"),
    instant("ended_at", "Time of conversation.ended; NULL while open"),
    instant("first_event_at", "Earliest event", nullable=False),
    instant("last_event_at", "Latest event", nullable=False),
    ms(
        "duration_ms",
        "From start to end; NULL if one is missing or the end comes first",
        nullable=True,
        formula="ended_at - started_at",
    ),
    text("first_queue_id", "Queue that it entered first"),
    text("last_queue_id", "Queue that it entered last"),
    text("last_agent_id", "Agent of the latest event that names one"),
    text("outcome", "How the last queue was left: ANSWERED, ABANDON, FLOW_OUT, UNKNOWN; NULL if none was left"),
    text("end_reason", "Why it ended, in the vendor's words"),
    text("wrapup_code", "Latest wrap-up code"),
    count("offered", "Queue entries", formula="count of conversation.queued", source=GENESYS_OFFERED),
    count("answered", "Answers", formula="count of conversation.assigned", source=GENESYS_WHEN_COUNTED),
    count("abandoned", "Abandons", formula="count of conversation.abandoned", source=GENESYS_METRICS),
    count("flowed_out", "Flow-outs", formula="count of conversation.flowed_out", source=GENESYS_OFFERED),
    count(
        "legs",
        "Agents' legs that completed",
        formula="count of conversation.handled",
        source=GENESYS_WHEN_COUNTED,
    ),
    ms("wait_ms", "Sum of all waits: answered, abandoned, flowed out; an unknown wait counts 0"),
    ms("talk_ms", "Sum over legs", source=GENESYS_HANDLE_TIME),
    ms("hold_ms", "Sum over legs", source=GENESYS_HANDLE_TIME),
    ms("acw_ms", "Sum over legs", source=GENESYS_HANDLE_TIME),
    count("events", "Events of the conversation"),
    postgresql_key("conversations_key", "vendor", "tenant_id", "conversation_id"),
    postgresql_index("conversations_time", "first_event_at"),
    postgresql_index("conversations_start", "started_at"),
    postgresql_index("conversations_parent", "vendor", "tenant_id", "parent_conversation_id"),
    info={"row": "one conversation"},
)
