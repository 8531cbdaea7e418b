"""What is still to be done about failed events, as a view."""

from __future__ import annotations

from alembic import op

revision = "v0004"
down_revision = "v0003"

# `failed_again` has rows of its own: those dead letters failed anew, later.
STATUS = """
CREATE VIEW failed_event_status AS
SELECT
    o.*,
    CASE
        WHEN o.open >= o.events THEN 'open'
        WHEN o.open > 0 THEN 'partly'
        WHEN o.parked > 0 THEN 'parked'
        WHEN o.failed_again > 0 THEN 'failed again'
        ELSE 'replayed'
    END AS replay_status
FROM (
    SELECT f.*, greatest(f.events - f.replayed - f.failed_again - f.parked, 0) AS open
    FROM failed_events f
) o
"""


def upgrade() -> None:
    """Create the view."""
    op.execute(STATUS)
