"""What vendors call their queues and agents, and the interval metrics with those names."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, Column, Table

from warehouse.tables.columns import TENANT, VENDOR, instant, key, metadata, postgresql_key, text
from warehouse.tables.views import agent_interval_metrics, queue_interval_metrics, shown, view


def _seen() -> list[Column[Any]]:
    return [
        Column("is_active", Boolean, nullable=False, doc="Whether the vendor lists it, and as active"),
        instant("first_seen_at", "When it was first in the vendor's list; wall time", nullable=False),
        instant("last_seen_at", "When it was last in the vendor's list; wall time", nullable=False),
    ]


queues = Table(
    "queues",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("queue_id", "Queue (CXone: skill)"),
    text("name", "The vendor's name of it, the current one; NULL if it tells none"),
    text("media_type", "CXone: VOICE, CHAT, ...; Genesys: NULL, its queues take all media"),
    text("division", "Genesys: division; CXone: campaign"),
    *_seen(),
    postgresql_key("queues_key", "vendor", "tenant_id", "queue_id"),
    info={"row": "one queue of a tenant that the vendor ever listed"},
)

agents = Table(
    "agents",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("agent_id", "Agent (Genesys: user)"),
    text("name", "The vendor's name of them, the current one; NULL if it tells none"),
    text("team", "Genesys: department; CXone: team"),
    text("division", "Genesys: division; CXone: NULL"),
    *_seen(),
    postgresql_key("agents_key", "vendor", "tenant_id", "agent_id"),
    info={"row": "one agent of a tenant that the vendor ever listed"},
)

queue_interval_report = view(
    "queue_interval_report",
    "queue_interval_metrics with the queue's name",
    [
        *shown(queue_interval_metrics.c),
        text("queue_name", "Name of the queue; its id if none is known"),
        text("division", "Of the queue; NULL if none is known"),
    ],
)

agent_interval_report = view(
    "agent_interval_report",
    "agent_interval_metrics with the agent's name",
    [
        *shown(agent_interval_metrics.c),
        text("agent_name", "Name of the agent; their id if none is known"),
        text("team", "Of the agent; NULL if none is known"),
        text("division", "Of the agent; NULL if none is known"),
    ],
)
