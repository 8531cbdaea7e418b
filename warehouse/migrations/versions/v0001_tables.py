"""Tables and views of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None

QUEUE_METRICS = """
CREATE VIEW queue_interval_metrics AS
SELECT
    q.*,
    CAST(q.talk_ms + q.hold_ms + q.acw_ms AS DOUBLE PRECISION) / NULLIF(q.handled, 0) AS aht_ms,
    CAST(q.wait_answered_ms AS DOUBLE PRECISION) / NULLIF(q.answered, 0) AS asa_ms,
    CAST(q.abandoned AS DOUBLE PRECISION) / NULLIF(q.offered, 0) AS abandon_rate,
    CAST(q.answered_in_threshold AS DOUBLE PRECISION) / NULLIF(q.answered, 0) AS service_level
FROM queue_intervals q
"""

AGENT_METRICS = """
CREATE VIEW agent_interval_metrics AS
SELECT
    a.*,
    CAST(a.interacting_ms AS DOUBLE PRECISION)
    / NULLIF(a.interacting_ms + a.communicating_ms + a.idle_ms, 0) AS occupancy
FROM agent_intervals a
"""


def upgrade() -> None:
    """Create everything."""
    _create_tables()
    if op.get_bind().dialect.name == "postgresql":
        _create_indexes()
    op.execute(QUEUE_METRICS)
    op.execute(AGENT_METRICS)


def _create_tables() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True)),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("conversation_id", sa.Text),
        sa.Column("parent_conversation_id", sa.Text),
        sa.Column("queue_id", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("media_type", sa.Text),
        sa.Column("direction", sa.Text),
        sa.Column("ani", sa.Text),
        sa.Column("dnis", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("agent_status", sa.Text),
        sa.Column("end_reason", sa.Text),
        sa.Column("wrapup_code", sa.Text),
        sa.Column("wait_ms", sa.BigInteger),
        sa.Column("talk_ms", sa.BigInteger),
        sa.Column("hold_ms", sa.BigInteger),
        sa.Column("acw_ms", sa.BigInteger),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.Column("load_id", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "conversations",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("parent_conversation_id", sa.Text),
        sa.Column("media_type", sa.Text),
        sa.Column("direction", sa.Text),
        sa.Column("ani", sa.Text),
        sa.Column("dnis", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("first_event_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("first_queue_id", sa.Text),
        sa.Column("last_queue_id", sa.Text),
        sa.Column("last_agent_id", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("end_reason", sa.Text),
        sa.Column("wrapup_code", sa.Text),
        sa.Column("offered", sa.BigInteger, nullable=False),
        sa.Column("answered", sa.BigInteger, nullable=False),
        sa.Column("abandoned", sa.BigInteger, nullable=False),
        sa.Column("flowed_out", sa.BigInteger, nullable=False),
        sa.Column("legs", sa.BigInteger, nullable=False),
        sa.Column("wait_ms", sa.BigInteger, nullable=False),
        sa.Column("talk_ms", sa.BigInteger, nullable=False),
        sa.Column("hold_ms", sa.BigInteger, nullable=False),
        sa.Column("acw_ms", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "queue_intervals",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("queue_id", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("interval_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("interval_minutes", sa.Integer, nullable=False),
        sa.Column("offered", sa.BigInteger, nullable=False),
        sa.Column("answered", sa.BigInteger, nullable=False),
        sa.Column("abandoned", sa.BigInteger, nullable=False),
        sa.Column("flowed_out", sa.BigInteger, nullable=False),
        sa.Column("answered_in_threshold", sa.BigInteger, nullable=False),
        sa.Column("wait_answered_ms", sa.BigInteger, nullable=False),
        sa.Column("wait_abandoned_ms", sa.BigInteger, nullable=False),
        sa.Column("handled", sa.BigInteger, nullable=False),
        sa.Column("talk_ms", sa.BigInteger, nullable=False),
        sa.Column("hold_ms", sa.BigInteger, nullable=False),
        sa.Column("acw_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "agent_intervals",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("interval_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("interval_minutes", sa.Integer, nullable=False),
        sa.Column("interacting_ms", sa.BigInteger, nullable=False),
        sa.Column("communicating_ms", sa.BigInteger, nullable=False),
        sa.Column("idle_ms", sa.BigInteger, nullable=False),
        sa.Column("not_responding_ms", sa.BigInteger, nullable=False),
        sa.Column("off_queue_ms", sa.BigInteger, nullable=False),
        sa.Column("handled", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "load_runs",
        sa.Column("load_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True)),
        sa.Column("window_end", sa.DateTime(timezone=True)),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("through_load_id", sa.BigInteger),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "landed_files",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("rows", sa.BigInteger),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("load_id", sa.BigInteger),
    )


def _create_indexes() -> None:
    """DuckDB goes without: see :mod:`warehouse.tables`."""
    op.create_index("events_agent", "events", ["vendor", "tenant_id", "agent_id", "event_type", "timestamp_ms"])
    op.create_index("events_conversation", "events", ["vendor", "tenant_id", "conversation_id"])
    op.create_index("events_key", "events", ["event_id"], unique=True)
    op.create_index("events_load", "events", ["load_id"])
    op.create_index("events_time", "events", ["timestamp_ms"])
    op.create_index("conversations_key", "conversations", ["vendor", "tenant_id", "conversation_id"], unique=True)
    op.create_index("conversations_time", "conversations", ["first_event_at"])
    op.create_index(
        "queue_intervals_key",
        "queue_intervals",
        ["interval_start", "vendor", "tenant_id", "queue_id", "media_type"],
        unique=True,
    )
    op.create_index(
        "agent_intervals_key", "agent_intervals", ["interval_start", "vendor", "tenant_id", "agent_id"], unique=True
    )
