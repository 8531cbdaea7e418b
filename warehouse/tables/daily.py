"""Days of queues and agents."""

from __future__ import annotations

from sqlalchemy import Column, Date, Index, Table

from warehouse.tables.columns import TENANT, VENDOR, count, key, metadata, text
from warehouse.tables.metrics import handle_times, queue_counts
from warehouse.tables.sources import GENESYS_METRICS, REPEAT_CALLS

_WITHOUT_AGENT = "in rows without an agent"

daily_analytics = Table(
    "daily_analytics",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    Column("day", Date, nullable=False, doc="Day of the vendor's time, UTC", info={"unit": "UTC day"}),
    text("queue_id", "Queue; NULL for conversations that entered none and for legs without one"),
    text(
        "agent_id",
        "Agent who answered or handled; NULL for what happens without one: starts, entries, abandons, flow-outs",
    ),
    key("media_type", "VOICE, CHAT, ...; UNKNOWN if no event of the conversation says"),
    count(
        "conversations",
        f"Conversations, by their start, at the queue that they entered first; {_WITHOUT_AGENT}",
        formula="count of conversations.started_at",
    ),
    count(
        "known_callers",
        "Of these, inbound ones whose caller is known (ani neither NULL nor withheld); of a transferred call the first",
        formula="conversations with direction INBOUND, a known ani and no other contact as master",
        source=REPEAT_CALLS,
    ),
    count(
        "repeat_callers",
        "Of these, those whose caller had another inbound conversation that started within the 24 h before",
        formula="known_callers with the same tenant and ani within [started_at - 24 h, started_at)",
        source=REPEAT_CALLS,
    ),
    *queue_counts(f"; {_WITHOUT_AGENT}"),
    count(
        "transferred",
        "Of these, those after which the conversation, or another contact of the same master contact, went on without "
        "the agent; a consultation that ends before the leg is none",
        formula="handled where a queue was entered at the leg's end or later, or left after it, or another agent's leg "
        "began and ended later",
        source=GENESYS_METRICS,
    ),
    *handle_times(),
    Index(
        "daily_analytics_key",
        *("day", "vendor", "tenant_id", "queue_id", "agent_id", "media_type"),
        unique=True,
        postgresql_nulls_not_distinct=True,
    ).ddl_if(dialect="postgresql"),
    info={"row": "one queue, agent and media type of a tenant on one UTC day"},
)
