"""Use of metadata fields and what was promoted from them; dead letters, and what became of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0003"
down_revision = "v0002"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "event_type_days",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("other_fields", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "metadata_field_usage",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("field", sa.Text, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("longs", sa.BigInteger, nullable=False),
        sa.Column("doubles", sa.BigInteger, nullable=False),
        sa.Column("booleans", sa.BigInteger, nullable=False),
        sa.Column("strings", sa.BigInteger, nullable=False),
        sa.Column("jsons", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "promoted_fields",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("field", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "failed_events",
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("transport", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("replayed", sa.BigInteger, nullable=False),
        sa.Column("failed_again", sa.BigInteger, nullable=False),
        sa.Column("parked", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("sample", sa.Text),
        sa.Column("sample_topic", sa.Text),
        sa.Column("sample_partition", sa.Integer),
        sa.Column("sample_offset", sa.BigInteger),
    )
    op.create_table(
        "dead_letter_replays",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fixups", sa.Text),
    )
    op.create_table(
        "consumed_offsets",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _create_indexes()


def _create_indexes() -> None:
    """DuckDB goes without: see :mod:`warehouse.tables`."""
    op.create_index("event_type_days_key", "event_type_days", ["vendor", "event_type", "day"], unique=True)
    op.create_index(
        "metadata_field_usage_key", "metadata_field_usage", ["vendor", "event_type", "day", "field"], unique=True
    )
    op.create_index(
        "failed_events_key",
        "failed_events",
        ["vendor", "tenant_id", "transport", "stage", "reason", "path", "event_type", "hour"],
        unique=True,
    )
    op.create_index(
        "dead_letter_replays_key",
        "dead_letter_replays",
        ["run_id", "vendor", "tenant_id", "outcome", "stage", "reason", "path"],
        unique=True,
    )
