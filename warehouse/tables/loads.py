"""What the loads did."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from warehouse.tables.columns import instant, key, metadata, text

load_runs = Table(
    "load_runs",
    metadata,
    Column("load_id", BigInteger, primary_key=True, autoincrement=False, doc="Number of the load, ascending"),
    key("dataset", "events, conversations, wfm_intervals, daily_analytics, metadata_field_usage or failed_events"),
    key("kind", "arrival: what came since the last load; window: everything within the window"),
    instant("window_start", "Start of the window; NULL for a load by arrival without one"),
    instant("window_end", "End of the window; of wfm_intervals by arrival: the horizon up to which cells are built"),
    key("status", "succeeded or failed"),
    Column("rows", BigInteger, nullable=False, doc="Rows written to the dataset", info={"unit": "1"}),
    Column("through_load_id", BigInteger, doc="By arrival: events of loads up to this one are taken account of"),
    key("run_id", "The caller's id, for example of the Prefect run"),
    text("error", "Of a failed load: what was wrong"),
    instant("started_at", "Wall time", nullable=False),
    instant("finished_at", "Wall time", nullable=False),
    info={"row": "one load"},
)

landed_files = Table(
    "landed_files",
    metadata,
    Column("name", Text, primary_key=True, doc="Path below the landing folder"),
    Column("rows", BigInteger, doc="Rows in the file; NULL if it could not be read"),
    key("status", "loaded, or quarantined if it could not be read"),
    text("error", "Why it was quarantined"),
    Column("load_id", BigInteger, doc="Load that took it; NULL if quarantined"),
    info={"row": "one landing file that was loaded or set aside"},
)

consumed_offsets = Table(
    "consumed_offsets",
    metadata,
    Column("topic", Text, primary_key=True, doc="Topic that a load reads from Kafka by itself"),
    Column("partition", Integer, primary_key=True, autoincrement=False, doc="Partition"),
    Column("next_offset", BigInteger, nullable=False, doc="Everything before it is in the warehouse"),
    info={"row": "a partition of a topic that a load reads from Kafka by itself"},
)
