"""A narrow key beside each event's id: DuckDB has no index, and to read all ids is most of what a small load takes.

PostgreSQL's index on the id does the same there; its column stays NULL, which takes no room.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0011"
down_revision = "v0010"

# What landing.sql makes of the ids of new events; the two never part.
_FILL = {
    "events": (
        "UPDATE events SET event_key = CAST(coalesce("
        "TRY_CAST('0x' || right(event_id, 12) AS BIGINT), md5_number_lower(event_id) >> 1) AS BIGINT)"
    ),
    "reconciled_events": (
        "UPDATE reconciled_events SET event_key = CAST(coalesce("
        "TRY_CAST('0x' || right(event_id, 12) AS BIGINT), md5_number_lower(event_id) >> 1) AS BIGINT)"
    ),
}


def upgrade() -> None:
    """Add the columns, and fill them on DuckDB."""
    connection = op.get_bind()
    for table, fill in _FILL.items():
        op.add_column(table, sa.Column("event_key", sa.BigInteger))
        if connection.dialect.name == "duckdb":
            connection.execute(sa.text(fill))
