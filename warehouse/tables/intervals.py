"""Interval cells of queues and agents."""

from __future__ import annotations

from sqlalchemy import Column, Integer, Table

from warehouse.tables.columns import TENANT, VENDOR, count, instant, key, metadata, ms, postgresql_key
from warehouse.tables.metrics import queue_sums
from warehouse.tables.sources import GENESYS_STATUS, GENESYS_WHEN_COUNTED


def _time_in(name: str, status: str) -> Column[int]:
    return ms(
        name,
        f"Time in status {status} within the interval",
        formula="sum of each status' time until the agent's next one, cut at the interval's bounds",
        source=GENESYS_STATUS,
    )


queue_intervals = Table(
    "queue_intervals",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("queue_id", "Queue"),
    key("media_type", "VOICE, CHAT, ...; UNKNOWN if no event of the conversation says"),
    instant("interval_start", "Start of the interval, on the UTC grid", nullable=False),
    Column("interval_minutes", Integer, nullable=False, doc="Length of the interval", info={"unit": "min"}),
    *queue_sums(),
    postgresql_key("queue_intervals_key", "interval_start", "vendor", "tenant_id", "queue_id", "media_type"),
    info={"row": "one queue and media type of a tenant in one interval"},
)

agent_intervals = Table(
    "agent_intervals",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("agent_id", "Agent"),
    instant("interval_start", "Start of the interval, on the UTC grid", nullable=False),
    Column("interval_minutes", Integer, nullable=False, doc="Length of the interval", info={"unit": "min"}),
    _time_in("interacting_ms", "INTERACTING"),
    _time_in("communicating_ms", "COMMUNICATING"),
    _time_in("idle_ms", "IDLE"),
    _time_in("not_responding_ms", "NOT_RESPONDING"),
    _time_in("off_queue_ms", "OFF_QUEUE"),
    count(
        "handled",
        "Legs of the agent, by the end of their wrap-up, with or without a queue",
        formula="count of conversation.handled",
        source=GENESYS_WHEN_COUNTED,
    ),
    postgresql_key("agent_intervals_key", "interval_start", "vendor", "tenant_id", "agent_id"),
    info={"row": "one agent of a tenant in one interval"},
)
