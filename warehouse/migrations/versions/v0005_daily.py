"""Daily analytics of queues and agents, with views that add the rates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0005"
down_revision = "v0004"

DAILY_METRICS = """
CREATE VIEW daily_analytics_metrics AS
SELECT
    d.*,
    CAST(d.talk_ms + d.hold_ms + d.acw_ms AS DOUBLE PRECISION) / NULLIF(d.handled, 0) AS aht_ms,
    CAST(d.wait_answered_ms AS DOUBLE PRECISION) / NULLIF(d.answered, 0) AS asa_ms,
    CAST(d.abandoned AS DOUBLE PRECISION) / NULLIF(d.offered, 0) AS abandon_rate,
    CAST(d.answered_in_threshold AS DOUBLE PRECISION) / NULLIF(d.answered, 0) AS service_level,
    CAST(d.transferred AS DOUBLE PRECISION) / NULLIF(d.handled, 0) AS transfer_rate,
    CAST(d.repeat_callers AS DOUBLE PRECISION) / NULLIF(d.known_callers, 0) AS repeat_rate
FROM daily_analytics d
"""

QUEUE_DAYS = """
CREATE VIEW daily_queue_metrics AS
SELECT
    q.*,
    CAST(q.talk_ms + q.hold_ms + q.acw_ms AS DOUBLE PRECISION) / NULLIF(q.handled, 0) AS aht_ms,
    CAST(q.wait_answered_ms AS DOUBLE PRECISION) / NULLIF(q.answered, 0) AS asa_ms,
    CAST(q.abandoned AS DOUBLE PRECISION) / NULLIF(q.offered, 0) AS abandon_rate,
    CAST(q.answered_in_threshold AS DOUBLE PRECISION) / NULLIF(q.answered, 0) AS service_level,
    CAST(q.transferred AS DOUBLE PRECISION) / NULLIF(q.handled, 0) AS transfer_rate,
    CAST(q.repeat_callers AS DOUBLE PRECISION) / NULLIF(q.known_callers, 0) AS repeat_rate
FROM (
    SELECT
        d.vendor, d.tenant_id, d.day, d.queue_id, d.media_type,
        CAST(sum(d.conversations) AS BIGINT) AS conversations,
        CAST(sum(d.known_callers) AS BIGINT) AS known_callers,
        CAST(sum(d.repeat_callers) AS BIGINT) AS repeat_callers,
        CAST(sum(d.offered) AS BIGINT) AS offered,
        CAST(sum(d.answered) AS BIGINT) AS answered,
        CAST(sum(d.abandoned) AS BIGINT) AS abandoned,
        CAST(sum(d.flowed_out) AS BIGINT) AS flowed_out,
        CAST(sum(d.answered_in_threshold) AS BIGINT) AS answered_in_threshold,
        CAST(sum(d.wait_answered_ms) AS BIGINT) AS wait_answered_ms,
        CAST(sum(d.wait_abandoned_ms) AS BIGINT) AS wait_abandoned_ms,
        CAST(sum(d.handled) AS BIGINT) AS handled,
        CAST(sum(d.transferred) AS BIGINT) AS transferred,
        CAST(sum(d.talk_ms) AS BIGINT) AS talk_ms,
        CAST(sum(d.hold_ms) AS BIGINT) AS hold_ms,
        CAST(sum(d.acw_ms) AS BIGINT) AS acw_ms
    FROM daily_analytics d
    GROUP BY d.vendor, d.tenant_id, d.day, d.queue_id, d.media_type
) q
"""


def upgrade() -> None:
    """Create the table and the views."""
    op.create_table(
        "daily_analytics",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("queue_id", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("conversations", sa.BigInteger, nullable=False),
        sa.Column("known_callers", sa.BigInteger, nullable=False),
        sa.Column("repeat_callers", sa.BigInteger, nullable=False),
        sa.Column("offered", sa.BigInteger, nullable=False),
        sa.Column("answered", sa.BigInteger, nullable=False),
        sa.Column("abandoned", sa.BigInteger, nullable=False),
        sa.Column("flowed_out", sa.BigInteger, nullable=False),
        sa.Column("answered_in_threshold", sa.BigInteger, nullable=False),
        sa.Column("wait_answered_ms", sa.BigInteger, nullable=False),
        sa.Column("wait_abandoned_ms", sa.BigInteger, nullable=False),
        sa.Column("handled", sa.BigInteger, nullable=False),
        sa.Column("transferred", sa.BigInteger, nullable=False),
        sa.Column("talk_ms", sa.BigInteger, nullable=False),
        sa.Column("hold_ms", sa.BigInteger, nullable=False),
        sa.Column("acw_ms", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _create_indexes()
    op.execute(DAILY_METRICS)
    op.execute(QUEUE_DAYS)


def _create_indexes() -> None:
    """DuckDB goes without: see :mod:`warehouse.tables`."""
    op.create_index(
        "daily_analytics_key",
        "daily_analytics",
        ["day", "vendor", "tenant_id", "queue_id", "agent_id", "media_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index("conversations_start", "conversations", ["started_at"])
    op.create_index("conversations_parent", "conversations", ["vendor", "tenant_id", "parent_conversation_id"])
