"""The tables, once for DuckDB and PostgreSQL.

``doc`` says what a column holds, ``info`` its unit. Instants are UTC. PostgreSQL gets unique and other indexes. DuckDB
gets none on the large tables: measured on 8 million events, a unique index on ``event_id`` makes the deduplicating
insert six times slower and the file five times larger, and zone maps do the work of the indexes. There uniqueness rests
on the anti join under the write lock, and is checked by a rule inside every load.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, Index, Integer, MetaData, Table, Text

metadata = MetaData()


def _text(name: str, doc: str, *, nullable: bool = True) -> Column[str]:
    return Column(name, Text, nullable=nullable, doc=doc)


def _key(name: str, doc: str) -> Column[str]:
    return _text(name, doc, nullable=False)


def _instant(name: str, doc: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable, doc=doc, info={"unit": "UTC"})


def _ms(name: str, doc: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable, doc=doc, info={"unit": "ms"})


def _count(name: str, doc: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, doc=doc, info={"unit": "1"})


def _postgresql_key(name: str, *columns: str) -> Any:
    return Index(name, *columns, unique=True).ddl_if(dialect="postgresql")


def _postgresql_index(name: str, *columns: str) -> Any:
    return Index(name, *columns).ddl_if(dialect="postgresql")


VENDOR = "Vendor: genesys, cxone"
TENANT = "Tenant within the vendor"
LOAD = "Load that wrote the row (load_runs)"


def _event_columns() -> list[Column[Any]]:
    return [
        _key("event_id", "UUIDv5 of the occurrence; unique"),
        _key("vendor", VENDOR),
        _key("tenant_id", TENANT),
        _key("event_type", "Canonical type, for example conversation.queued"),
        _instant("timestamp", "The vendor's time; NULL if outside 1970 to 9999, then the event is in no interval"),
        _ms("timestamp_ms", "The vendor's time as it came, epoch ms"),
        _text("conversation_id", "Conversation; NULL for an agent's status"),
        _text("parent_conversation_id", "Conversation from which this one came"),
        _text("queue_id", "Queue (CXone: skill)"),
        _text("agent_id", "Agent (Genesys: user)"),
        _text("media_type", "VOICE, CHAT, ..."),
        _text("direction", "INBOUND or OUTBOUND"),
        _text("ani", "Caller's address"),
        _text("dnis", "Address that was called"),
        _text("outcome", "How the queue was left: ANSWERED, ABANDON, FLOW_OUT, UNKNOWN"),
        _text("agent_status", "OFF_QUEUE, IDLE, INTERACTING, NOT_RESPONDING, COMMUNICATING"),
        _text("end_reason", "Why the conversation ended, in the vendor's words"),
        _text("wrapup_code", "Wrap-up code"),
        _ms("wait_ms", "Wait in the queue, if the vendor says", nullable=True),
        _ms("talk_ms", "Talk time of the agent's leg", nullable=True),
        _ms("hold_ms", "Hold time of the agent's leg", nullable=True),
        _ms("acw_ms", "Wrap-up time", nullable=True),
        _ms("duration_ms", "Length of the conversation, if the vendor says", nullable=True),
        _key("payload", "Canonical payload, JSON object of strings"),
        _key("metadata", "Vendor fields without a place in the payload, JSON object of strings"),
        _key("topic", "Kafka topic"),
        Column("partition", Integer, nullable=False, doc="Kafka partition"),
        Column("offset", BigInteger, nullable=False, doc="Kafka offset"),
        _instant("published_at", "Kafka's record time: when it was published"),
        Column("load_id", BigInteger, nullable=False, doc=LOAD),
    ]


events = Table(
    "events",
    metadata,
    *_event_columns(),
    _postgresql_key("events_key", "event_id"),
    _postgresql_index("events_conversation", "vendor", "tenant_id", "conversation_id"),
    _postgresql_index("events_time", "timestamp_ms"),
    _postgresql_index("events_agent", "vendor", "tenant_id", "agent_id", "event_type", "timestamp_ms"),
    _postgresql_index("events_load", "load_id"),
)

# Every event that reconciliation published. It is in `events` as well, unless a webhook of the same occurrence came:
# which one gives way is decided from all of them, so that the order of arrival plays no part (warehouse/twins.py).
reconciled_events = Table(
    "reconciled_events",
    metadata,
    *_event_columns(),
    _postgresql_key("reconciled_events_key", "event_id"),
    _postgresql_index("reconciled_events_conversation", "vendor", "tenant_id", "conversation_id"),
)

conversations = Table(
    "conversations",
    metadata,
    _key("vendor", VENDOR),
    _key("tenant_id", TENANT),
    _key("conversation_id", "Conversation"),
    _text("parent_conversation_id", "Conversation from which this one came"),
    _text("media_type", "Of conversation.started; if it does not say, the least of the others'"),
    _text("direction", "Of conversation.started; if it does not say, the least of the others'"),
    _text("ani", "Caller's address"),
    _text("dnis", "Address that was called"),
    _instant("started_at", "Time of conversation.started"),
    _instant("ended_at", "Time of conversation.ended; NULL while open"),
    _instant("first_event_at", "Earliest event", nullable=False),
    _instant("last_event_at", "Latest event", nullable=False),
    _ms("duration_ms", "ended_at - started_at; NULL if one is missing or the end comes first", nullable=True),
    _text("first_queue_id", "Queue that it entered first"),
    _text("last_queue_id", "Queue that it entered last"),
    _text("last_agent_id", "Agent of the latest event that names one"),
    _text("outcome", "How the last queue was left: ANSWERED, ABANDON, FLOW_OUT, UNKNOWN; NULL if none was left"),
    _text("end_reason", "Why it ended, in the vendor's words"),
    _text("wrapup_code", "Latest wrap-up code"),
    _count("offered", "Queue entries"),
    _count("answered", "Answers"),
    _count("abandoned", "Abandons"),
    _count("flowed_out", "Flow-outs"),
    _count("legs", "Agents' legs that completed"),
    _ms("wait_ms", "Sum of all waits: answered, abandoned, flowed out"),
    _ms("talk_ms", "Sum over legs"),
    _ms("hold_ms", "Sum over legs"),
    _ms("acw_ms", "Sum over legs"),
    _count("events", "Events of the conversation"),
    _postgresql_key("conversations_key", "vendor", "tenant_id", "conversation_id"),
    _postgresql_index("conversations_time", "first_event_at"),
)

queue_intervals = Table(
    "queue_intervals",
    metadata,
    _key("vendor", VENDOR),
    _key("tenant_id", TENANT),
    _key("queue_id", "Queue"),
    _key("media_type", "VOICE, CHAT, ...; UNKNOWN if no event of the conversation says"),
    _instant("interval_start", "Start of the interval, on the UTC grid", nullable=False),
    Column("interval_minutes", Integer, nullable=False, doc="Length of the interval", info={"unit": "min"}),
    _count("offered", "Queue entries, by their time"),
    _count("answered", "Answers, by their time"),
    _count("abandoned", "Abandons, by their time"),
    _count("flowed_out", "Flow-outs and unknown endings in the queue, by their time"),
    _count("answered_in_threshold", "Answers after a known wait of at most the service level's seconds"),
    _ms("wait_answered_ms", "Wait of the answers; an unknown wait counts 0"),
    _ms("wait_abandoned_ms", "Wait of the abandons; an unknown wait counts 0"),
    _count("handled", "Agents' legs, by the end of their wrap-up"),
    _ms("talk_ms", "Talk time of the handled"),
    _ms("hold_ms", "Hold time of the handled"),
    _ms("acw_ms", "Wrap-up time of the handled"),
    _postgresql_key("queue_intervals_key", "interval_start", "vendor", "tenant_id", "queue_id", "media_type"),
)

agent_intervals = Table(
    "agent_intervals",
    metadata,
    _key("vendor", VENDOR),
    _key("tenant_id", TENANT),
    _key("agent_id", "Agent"),
    _instant("interval_start", "Start of the interval, on the UTC grid", nullable=False),
    Column("interval_minutes", Integer, nullable=False, doc="Length of the interval", info={"unit": "min"}),
    _ms("interacting_ms", "Time in status INTERACTING within the interval"),
    _ms("communicating_ms", "Time in status COMMUNICATING within the interval"),
    _ms("idle_ms", "Time in status IDLE within the interval"),
    _ms("not_responding_ms", "Time in status NOT_RESPONDING within the interval"),
    _ms("off_queue_ms", "Time in status OFF_QUEUE within the interval"),
    _count("handled", "Legs of the agent, by the end of their wrap-up, with or without a queue"),
    _postgresql_key("agent_intervals_key", "interval_start", "vendor", "tenant_id", "agent_id"),
)

load_runs = Table(
    "load_runs",
    metadata,
    Column("load_id", BigInteger, primary_key=True, autoincrement=False, doc="Number of the load, ascending"),
    _key("dataset", "events, conversations, wfm_intervals, metadata_field_usage or failed_events"),
    _key("kind", "arrival: what came since the last load; window: everything within the window"),
    _instant("window_start", "Start of the window; NULL for a load by arrival without one"),
    _instant("window_end", "End of the window; of wfm_intervals by arrival: the horizon up to which cells are built"),
    _key("status", "succeeded or failed"),
    Column("rows", BigInteger, nullable=False, doc="Rows written to the dataset", info={"unit": "1"}),
    Column("through_load_id", BigInteger, doc="By arrival: events of loads up to this one are taken account of"),
    _key("run_id", "The caller's id, for example of the Prefect run"),
    _text("error", "Of a failed load: what was wrong"),
    _instant("started_at", "Wall time", nullable=False),
    _instant("finished_at", "Wall time", nullable=False),
)

landed_files = Table(
    "landed_files",
    metadata,
    Column("name", Text, primary_key=True, doc="Path below the landing folder"),
    Column("rows", BigInteger, doc="Rows in the file; NULL if it could not be read"),
    _key("status", "loaded, or quarantined if it could not be read"),
    _text("error", "Why it was quarantined"),
    Column("load_id", BigInteger, doc="Load that took it; NULL if quarantined"),
)

event_type_days = Table(
    "event_type_days",
    metadata,
    _key("vendor", VENDOR),
    _key("event_type", "Canonical type"),
    Column("day", Date, nullable=False, doc="Day of the vendor's time, UTC"),
    _count("events", "Events of the type on that day"),
    _count("other_fields", "Metadata fields of the type on that day beyond the bound of fields that are counted"),
    _postgresql_key("event_type_days_key", "vendor", "event_type", "day"),
)

metadata_field_usage = Table(
    "metadata_field_usage",
    metadata,
    _key("vendor", VENDOR),
    _key("event_type", "Canonical type"),
    Column("day", Date, nullable=False, doc="Day of the vendor's time, UTC"),
    _key("field", "Metadata key, <vendor>.<path>"),
    _count("events", "Events with the field"),
    _count("longs", "Of these, those whose value reads as a long"),
    _count("doubles", "... as a double and not as a long"),
    _count("booleans", "... as true or false"),
    _count("strings", "... as other text, for example 007"),
    _count("jsons", "... as a JSON object or array"),
    _postgresql_key("metadata_field_usage_key", "vendor", "event_type", "day", "field"),
)

promoted_fields = Table(
    "promoted_fields",
    metadata,
    Column("name", Text, primary_key=True, doc="Column of events, and field of the Avro schema"),
    _key("vendor", VENDOR),
    _key("field", "Metadata key that it comes from"),
    _key("type", "long, double, boolean or string"),
    Column("schema_version", Integer, nullable=False, doc="Version of the schema that has it first"),
    _instant("promoted_at", "Wall time", nullable=False),
)

failed_events = Table(
    "failed_events",
    metadata,
    _key("vendor", VENDOR),
    _key("tenant_id", TENANT),
    _key("transport", "How the event came: sse, websocket, webhook, rest, kafka; unknown if somebody else wrote it"),
    _key("stage", "Step that failed, for example normalise; foreign if somebody else wrote the record"),
    _key("reason", "Stable word, for example missing_field"),
    _key("path", "Path of the field in the vendor's message; empty if the message as a whole is meant"),
    _key("event_type", "The vendor's own name of the event; empty if it can't be read"),
    _instant("hour", "Hour of the failure, UTC", nullable=False),
    _count("events", "Dead letters"),
    _count("replayed", "Of these, those that a replay published"),
    _count("failed_again", "... that failed again; they are dead letters anew, with a greater attempt"),
    _count("parked", "... that are not tried again by themselves"),
    Column("attempt", Integer, nullable=False, doc="Greatest number of attempts"),
    _instant("first_seen", "Earliest failure", nullable=False),
    _instant("last_seen", "Latest failure", nullable=False),
    _text("message", "What was wrong, of the sample"),
    _text("sample", "Beginning of one of the originals; bytes that are no UTF-8 are replaced"),
    _text("sample_topic", "Where the sample lies on Kafka"),
    Column("sample_partition", Integer, doc="Its partition"),
    Column("sample_offset", BigInteger, doc="Its offset"),
    _postgresql_key(
        "failed_events_key", "vendor", "tenant_id", "transport", "stage", "reason", "path", "event_type", "hour"
    ),
)

dead_letter_replays = Table(
    "dead_letter_replays",
    metadata,
    _key("run_id", "The replay's run, for example of Prefect"),
    _key("vendor", VENDOR),
    _key("tenant_id", TENANT),
    _key("outcome", "replayed, failed_again or parked"),
    _key("stage", "Of the dead letters before the replay"),
    _key("reason", "Of the dead letters before the replay"),
    _key("path", "Of the dead letters before the replay"),
    _count("events", "Dead letters"),
    _instant("first_at", "Wall time of the first of them", nullable=False),
    _instant("last_at", "Wall time of the last of them", nullable=False),
    _text("fixups", "Fix-ups that were applied, JSON"),
    _postgresql_key("dead_letter_replays_key", "run_id", "vendor", "tenant_id", "outcome", "stage", "reason", "path"),
)

consumed_offsets = Table(
    "consumed_offsets",
    metadata,
    Column("topic", Text, primary_key=True, doc="Topic that a load reads from Kafka by itself"),
    Column("partition", Integer, primary_key=True, autoincrement=False, doc="Partition"),
    Column("next_offset", BigInteger, nullable=False, doc="Everything before it is in the warehouse"),
)
