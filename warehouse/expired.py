"""What loads may no longer build, because retention has deleted the events that it would take.

Retention of ``events`` leaves a horizon, a midnight UTC. Cells, rows and counts from before it may be kept for longer
than the events: no load may delete them, since it could not build them again. And an event dated before it that arrives
late, or is read again from the landing zone, is passed over: else it would be there for a day, beside nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from streaming.instants import to_ms
from warehouse import scratch
from warehouse.statements import run as execute
from warehouse.statements import statements
from warehouse.windows import Window

log = structlog.get_logger()


def horizon(connection: sa.Connection, dataset: str = "events") -> datetime | None:
    """What is dated before this instant has expired; None if nothing ever has."""
    found: datetime | None = connection.execute(statements("retention")["horizon"], {"dataset": dataset}).scalar_one()
    return found


def pass_over_staged(connection: sa.Connection) -> int:
    """Delete from ``staged_events`` what has expired.

    Returns:
        How many rows.
    """
    since = horizon(connection)
    if since is None:
        return 0
    bound = {"horizon_ms": to_ms(since)}
    found = int(connection.execute(statements("retention")["expired_staged"], bound).scalar_one())
    if found:
        scratch.own_rows(connection)
        execute(connection, "retention", "pass_over_staged", **bound)
        log.info("events passed over: retention has expired their time", events=found, before=since.isoformat())
    return found


def not_expired(connection: sa.Connection, window: Window) -> Window | None:
    """The part of a window that can be built again, None if there is none."""
    since = horizon(connection)
    if since is None or since <= window.start:
        return window
    return Window(since, window.end) if since < window.end else None


def shield_conversations(connection: sa.Connection) -> None:
    """Take out of ``conversation_scope`` those whose row tells more than the events that are left."""
    if (since := horizon(connection)) is not None:
        execute(connection, "retention", "shield_conversations", horizon=since)


def shield_cells(connection: sa.Connection) -> None:
    """Take out of ``queue_scope`` and ``agent_windows`` what lies before the horizon, which is on every grid."""
    if (since := horizon(connection)) is not None:
        for statement in ("shield_queues", "shield_agents", "cut_agents"):
            execute(connection, "retention", statement, horizon_ms=to_ms(since))


def shield_days(connection: sa.Connection) -> None:
    """Take out of ``daily_scope`` what lies before the horizon of events, or of conversations and the day after.

    A repeated call is one of a caller who had called within the day before.
    """
    conversations = horizon(connection, "conversations")
    horizons = (horizon(connection), conversations and conversations + timedelta(days=1))
    if since := max((found for found in horizons if found), default=None):
        execute(connection, "retention", "shield_days", horizon_ms=to_ms(since))


def shield_usage(connection: sa.Connection) -> None:
    """Take out of ``usage_scope`` the days before the horizon."""
    if (since := horizon(connection)) is not None:
        execute(connection, "retention", "shield_usage", horizon=since)
