"""What the checks of the tables found, and up to where the bus was compared with them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from warehouse.tables.columns import count, instant, key, metadata, postgresql_index, text

quality_results = Table(
    "quality_results",
    metadata,
    key("run_id", "The caller's id, for example of the Prefect run"),
    instant("checked_at", "The run's scheduled time", nullable=False),
    key("suite", "Which checks: quality-checks (every run) or freshness (only when it changed)"),
    key("table_name", "Table that was checked"),
    key("expectation", "Name of the check, as in docs/quality.md"),
    text("vendor", "Of a check of one tenant: its vendor"),
    text("tenant_id", "Of a check of one tenant: the tenant"),
    key("severity", "critical: the run fails; warning: it is only written down"),
    key("status", "passed, failed, or warning if it did not hold and is of that severity; of freshness: fresh or late"),
    key("expected", "What should hold"),
    key("observed", "What was found"),
    count("checked", "Rows of the frame that was looked at, for example queues"),
    count("unexpected", "Of these, those for which it does not hold"),
    text("sample", "Keys of some of them, JSON; no personal data"),
    instant("window_start", "Start of the span of event time that the run looked at"),
    instant("window_end", "Its end"),
    postgresql_index("quality_results_run", "suite", "run_id"),
    postgresql_index("quality_results_time", "checked_at"),
    info={"row": "what one check of one run found"},
)

checked_offsets = Table(
    "checked_offsets",
    metadata,
    Column("topic", Text, primary_key=True, doc="Topic of events"),
    Column("partition", Integer, primary_key=True, autoincrement=False, doc="Partition"),
    Column("next_offset", BigInteger, nullable=False, doc="Every record before it was found in the warehouse"),
    info={"row": "a partition of a topic whose records are compared with the warehouse"},
)
