"""Names of queues and agents, and the interval metrics with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0006"
down_revision = "v0005"

QUEUE_REPORT = """
CREATE VIEW queue_interval_report AS
SELECT m.*, coalesce(q.name, m.queue_id) AS queue_name, q.division
FROM queue_interval_metrics m
LEFT JOIN queues q ON q.vendor = m.vendor AND q.tenant_id = m.tenant_id AND q.queue_id = m.queue_id
"""

AGENT_REPORT = """
CREATE VIEW agent_interval_report AS
SELECT m.*, coalesce(a.name, m.agent_id) AS agent_name, a.team, a.division
FROM agent_interval_metrics m
LEFT JOIN agents a ON a.vendor = m.vendor AND a.tenant_id = m.tenant_id AND a.agent_id = m.agent_id
"""


def upgrade() -> None:
    """Create the tables and the views."""
    op.create_table(
        "queues",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("queue_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("media_type", sa.Text),
        sa.Column("division", sa.Text),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "agents",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("team", sa.Text),
        sa.Column("division", sa.Text),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("queues_key", "queues", ["vendor", "tenant_id", "queue_id"], unique=True)
        op.create_index("agents_key", "agents", ["vendor", "tenant_id", "agent_id"], unique=True)
    op.execute(QUEUE_REPORT)
    op.execute(AGENT_REPORT)
