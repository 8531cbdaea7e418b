"""The tables, once for DuckDB and PostgreSQL.

``doc`` says what a column holds, ``info`` its unit. Instants are UTC. PostgreSQL gets unique and other indexes. DuckDB
gets none on the large tables: measured on 8 million events, a unique index on ``event_id`` makes the deduplicating
insert six times slower and the file five times larger, and zone maps do the work of the indexes. There uniqueness rests
on the anti join under the write lock, and is checked by a rule inside every load.
"""

from __future__ import annotations

from warehouse.tables.columns import metadata
from warehouse.tables.daily import daily_analytics
from warehouse.tables.directory import agents, queues
from warehouse.tables.erasure import erasures, suppressed
from warehouse.tables.events import conversations, events, reconciled_events
from warehouse.tables.failures import dead_letter_replays, failed_events
from warehouse.tables.fields import event_type_days, metadata_field_usage, promoted_fields
from warehouse.tables.intervals import agent_intervals, queue_intervals
from warehouse.tables.loads import consumed_offsets, landed_files, load_runs
from warehouse.tables.quality import checked_offsets, quality_results
from warehouse.tables.retention import retention_runs

__all__ = [
    "agent_intervals",
    "agents",
    "checked_offsets",
    "consumed_offsets",
    "conversations",
    "daily_analytics",
    "dead_letter_replays",
    "erasures",
    "event_type_days",
    "events",
    "failed_events",
    "landed_files",
    "load_runs",
    "metadata",
    "metadata_field_usage",
    "promoted_fields",
    "quality_results",
    "queue_intervals",
    "queues",
    "reconciled_events",
    "retention_runs",
    "suppressed",
]
