"""A narrow key beside each event's id: DuckDB has no index, and to read all ids is most of what a small load takes.

PostgreSQL's index on the id does the same there; its column stays NULL, which takes no room.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0011"
down_revision = "v0010"

# What landing.sql makes of the ids of new events; the two never part.
_KEY: sa.ColumnClause[int] = sa.literal_column(
    "CAST(coalesce(TRY_CAST('0x' || right(event_id, 12) AS BIGINT), md5_number_lower(event_id) >> 1) AS BIGINT)",
    sa.BigInteger,
)


def upgrade() -> None:
    """Add the columns, and fill them on DuckDB."""
    connection = op.get_bind()
    for name in ("events", "reconciled_events"):
        op.add_column(name, sa.Column("event_key", sa.BigInteger))
        if connection.dialect.name == "duckdb":
            connection.execute(sa.update(sa.table(name, sa.column("event_key"))).values(event_key=_KEY))
