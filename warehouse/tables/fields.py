"""Use of metadata fields, and what was promoted from them."""

from __future__ import annotations

from sqlalchemy import Column, Date, Integer, Table, Text

from warehouse.tables.columns import VENDOR, count, instant, key, metadata, postgresql_key

event_type_days = Table(
    "event_type_days",
    metadata,
    key("vendor", VENDOR),
    key("event_type", "Canonical type"),
    Column("day", Date, nullable=False, doc="Day of the vendor's time, UTC"),
    count("events", "Events of the type on that day"),
    count("other_fields", "Metadata fields of the type on that day beyond the bound of fields that are counted"),
    postgresql_key("event_type_days_key", "vendor", "event_type", "day"),
    info={"row": "one event type of a vendor on one UTC day"},
)

metadata_field_usage = Table(
    "metadata_field_usage",
    metadata,
    key("vendor", VENDOR),
    key("event_type", "Canonical type"),
    Column("day", Date, nullable=False, doc="Day of the vendor's time, UTC"),
    key("field", "Metadata key, <vendor>.<path>"),
    count("events", "Events with the field"),
    count("longs", "Of these, those whose value reads as a long"),
    count("doubles", "... as a double and not as a long"),
    count("booleans", "... as true or false"),
    count("strings", "... as other text, for example 007"),
    count("jsons", "... as a JSON object or array"),
    postgresql_key("metadata_field_usage_key", "vendor", "event_type", "day", "field"),
    info={"row": "one metadata field of an event type on one UTC day"},
)

promoted_fields = Table(
    "promoted_fields",
    metadata,
    Column("name", Text, primary_key=True, doc="Column of events, and field of the Avro schema"),
    key("vendor", VENDOR),
    key("field", "Metadata key that it comes from"),
    key("type", "long, double, boolean or string"),
    Column("schema_version", Integer, nullable=False, doc="Version of the schema that has it first"),
    instant("promoted_at", "Wall time", nullable=False),
    info={"row": "one promoted metadata field, a column of events"},
)
