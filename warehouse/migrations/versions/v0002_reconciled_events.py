"""Events that reconciliation published, kept beside ``events``: which of them give way to a webhook can change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "reconciled_events",
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
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("reconciled_events_key", "reconciled_events", ["event_id"], unique=True)
        op.create_index(
            "reconciled_events_conversation", "reconciled_events", ["vendor", "tenant_id", "conversation_id"]
        )
