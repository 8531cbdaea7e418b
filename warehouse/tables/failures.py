"""Dead letters, and what became of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table

from warehouse.tables.columns import TENANT, VENDOR, count, instant, key, metadata, postgresql_key, text
from warehouse.tables.sources import KAFKA_CONNECT_ERRORS

failed_events = Table(
    "failed_events",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("transport", "How the event came: sse, websocket, webhook, rest, kafka; unknown if somebody else wrote it"),
    key(
        "stage",
        "Step that failed, for example normalise; foreign if somebody else wrote the record",
        source=KAFKA_CONNECT_ERRORS,
    ),
    key("reason", "Stable word, for example missing_field"),
    key("path", "Path of the field in the vendor's message; empty if the message as a whole is meant"),
    key("event_type", "The vendor's own name of the event; empty if it can't be read"),
    instant("hour", "Hour of the failure, UTC", nullable=False),
    count("events", "Dead letters"),
    count("replayed", "Of these, those that a replay published"),
    count("failed_again", "... that failed again; they are dead letters anew, with a greater attempt"),
    count("parked", "... that are not tried again by themselves"),
    Column("attempt", Integer, nullable=False, doc="Greatest number of attempts"),
    instant("first_seen", "Earliest failure", nullable=False),
    instant("last_seen", "Latest failure", nullable=False),
    text("message", "What was wrong, of the sample"),
    text("sample", "Beginning of one of the originals; bytes that are no UTF-8 are replaced"),
    text("sample_topic", "Where the sample lies on Kafka"),
    Column("sample_partition", Integer, doc="Its partition"),
    Column("sample_offset", BigInteger, doc="Its offset"),
    postgresql_key(
        "failed_events_key", "vendor", "tenant_id", "transport", "stage", "reason", "path", "event_type", "hour"
    ),
    info={"row": "dead letters of one kind, tenant and hour"},
)

dead_letter_replays = Table(
    "dead_letter_replays",
    metadata,
    key("run_id", "The replay's run, for example of Prefect"),
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("outcome", "replayed, failed_again or parked"),
    key("stage", "Of the dead letters before the replay"),
    key("reason", "Of the dead letters before the replay"),
    key("path", "Of the dead letters before the replay"),
    count("events", "Dead letters"),
    instant("first_at", "Wall time of the first of them", nullable=False),
    instant("last_at", "Wall time of the last of them", nullable=False),
    text("fixups", "Fix-ups that were applied, JSON"),
    postgresql_key("dead_letter_replays_key", "run_id", "vendor", "tenant_id", "outcome", "stage", "reason", "path"),
    info={"row": "what one run made of one kind of dead letter"},
)
