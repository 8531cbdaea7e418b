"""What retention has deleted."""

from __future__ import annotations

from sqlalchemy import Table

from warehouse.tables.columns import count, instant, key, metadata, postgresql_key, text

retention_runs = Table(
    "retention_runs",
    metadata,
    key("run_id", "The caller's id, for example of the Prefect run"),
    key("dataset", "landing, events, conversations, intervals, daily, field_usage or failed_events"),
    instant("expired_before", "Midnight UTC: what is dated before it expires", nullable=False),
    key("status", "running (also of a run that was killed), finished, or waiting: nothing was deleted, see note"),
    count("rows", "Rows deleted; of landing the rows of the files"),
    count("files", "Files of the landing zone that no longer count"),
    count("bytes", "Their size, bytes"),
    text("note", "What was due and stayed, and why"),
    instant("started_at", "Wall time", nullable=False),
    instant("finished_at", "Wall time; NULL while it runs, and of a run that was killed"),
    postgresql_key("retention_runs_key", "run_id", "dataset"),
    info={"row": "what one run deleted of one dataset"},
)
