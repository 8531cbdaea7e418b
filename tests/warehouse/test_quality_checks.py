"""Every expectation holds on right tables and fails on wrong ones, by Great Expectations itself; and the hourly flow.

One file, since importing Great Expectations costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger

import flows.quality_checks as module
from flows.quality_checks import FAILED, quality_checks
from schemas.canonical import EventType
from streaming.errors import CcaasError
from tests.conftest import Platform
from tests.flows.shown import Shown
from tests.warehouse.bus import Bus, insert
from tests.warehouse.events import (
    Event,
    abandoned,
    assigned,
    at,
    event,
    handled,
    land,
    numbered,
    queued,
    status,
    wrapup,
)
from warehouse import tables
from warehouse.checkpoint import Result, judge
from warehouse.engine import Warehouse, writer
from warehouse.expectations import EXPECTATIONS, key_of, measures_of
from warehouse.field_usage import count_field_usage
from warehouse.frames import Frame, frames
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.schema import migrate
from warehouse.windows import Window

WINDOW = Window(at("00:00:00", day=1), at("11:00:00", day=6))
HORIZON = at("11:00:00", day=6)


def a_day() -> list[Event]:
    """Every way out of a queue; one caller is still waiting at the window's end, one waited before its start."""
    before = queued("09:00:00", "early")
    return [
        replace(before, time=WINDOW.start - timedelta(hours=1)),
        assigned("09:00:00", "early"),
        event(EventType.STARTED, "09:00:00", "a", ani="+4930123456"),
        queued("09:00:05", "a"),
        assigned("09:00:10", "a"),
        handled("09:14:00", "a", talk_ms=1000, hold_ms=10),
        wrapup("09:16:00", "a", acw_ms=500),
        event(EventType.ENDED, "09:14:00", "a"),
        queued("09:10:00", "b"),
        abandoned("09:20:00", "b"),
        event(EventType.ENDED, "09:20:00", "b"),
        queued("09:30:00", "c"),
        event(EventType.FLOWED_OUT, "09:31:00", "c", queue="PS", media="VOICE"),
        event(EventType.ENDED, "09:31:00", "c"),
        event(EventType.ENDED, "09:00:00", "early"),
        replace(queued("10:50:00", "waiting"), time=at("10:50:00", day=6)),
        status("08:50:00", "ANNA", "IDLE"),
        status("12:00:00", "ANNA", "OFF_QUEUE"),
        replace(
            event(EventType.ENDED, "09:40:00", "r"), metadata={"ccaas.recovered": "reconciled", "genesys.note": "x"}
        ),
    ]


def load(warehouse: Warehouse) -> None:
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_daily_analytics(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=HORIZON, run_id="r")


FURTHER = """
INSERT INTO failed_events (
    vendor, tenant_id, transport, stage, reason, path, event_type, hour, events, replayed, failed_again, parked,
    attempt, first_seen, last_seen
) VALUES ('genesys', 'bank-north', 'sse', 'normalise', 'x', '', '', TIMESTAMPTZ '1999-01-04 09:00:00+00', 5, 1, 1, 1,
    1, TIMESTAMPTZ '1999-01-04 09:00:00+00', TIMESTAMPTZ '1999-01-04 09:10:00+00');
INSERT INTO dead_letter_replays (
    run_id, vendor, tenant_id, outcome, stage, reason, path, events, first_at, last_at
) VALUES ('r', 'genesys', 'bank-north', 'replayed', '', '', '', 1, TIMESTAMPTZ '1999-01-04 09:00:00+00',
    TIMESTAMPTZ '1999-01-04 09:00:00+00');
INSERT INTO promoted_fields (name, vendor, field, type, schema_version, promoted_at)
VALUES ('genesys_x', 'genesys', 'genesys.x', 'long', 2, TIMESTAMPTZ '1999-01-04 09:00:00+00');
INSERT INTO consumed_offsets (topic, "partition", next_offset) VALUES ('t', 0, 7);
INSERT INTO quality_results (
    run_id, checked_at, suite, table_name, expectation, severity, status, expected, observed, checked, unexpected
) VALUES ('r', TIMESTAMPTZ '1999-01-04 09:00:00+00', 's', 't', 'e', 'critical', 'passed', '', '', 1, 0)
"""

ONE_CELL = "WHERE interval_start = TIMESTAMPTZ '1999-01-04 09:00:00+00'"

# What is broken at once, by SQL behind the loads' back, and which expectations then don't hold.
ROUNDS: list[dict[str, set[str]]] = [
    {
        f"UPDATE queue_intervals SET offered = offered + 1 {ONE_CELL}": {
            "queue_intervals: offered as in events",
            "daily_analytics: queue counts as in the intervals",
            "queue_intervals: offered = answered + abandoned + flowed out + still waiting",
        },
        f"UPDATE agent_intervals SET interval_start = interval_start + INTERVAL '1 minute' {ONE_CELL}": {
            "agent_intervals: on the grid"
        },
        "UPDATE conversations SET events = 99 WHERE conversation_id = 'a'": {"conversations: events as counted"},
        "UPDATE failed_events SET replayed = 99": {"failed_events: outcomes at most the dead letters"},
        "UPDATE promoted_fields SET type = 'text'": {"promoted_fields: known types"},
        "UPDATE dead_letter_replays SET outcome = 'lost'": {"dead_letter_replays: known outcomes"},
        "UPDATE consumed_offsets SET next_offset = -1": {"consumed_offsets: offsets not negative"},
        "UPDATE quality_results SET status = 'fine'": {"quality_results: known statuses"},
        "UPDATE event_type_days SET events = events + 1 WHERE event_type = 'agent.status_changed'": {
            "event_type_days: events as counted"
        },
        "UPDATE landed_files SET status = 'quarantined'": {"landed_files: no file is set aside"},
        "UPDATE reconciled_events SET event_id = 'gone', timestamp_ms = timestamp_ms + 60000": {
            "reconciled_events: each is in events, itself or its twin"
        },
        "INSERT INTO load_runs (load_id, dataset, kind, status, rows, run_id, started_at, finished_at) "
        "SELECT 99, dataset, kind, 'failed', 0, run_id, started_at, finished_at FROM load_runs WHERE load_id = 2": {
            "load_runs: latest load of a dataset succeeded"
        },
    },
    {
        # More answers than there were callers: the queue would hold less than nobody.
        f"UPDATE queue_intervals SET answered = answered + 5 {ONE_CELL}": {
            "queue_intervals: answered as in events",
            "daily_analytics: queue counts as in the intervals",
            "queue_intervals: offered = answered + abandoned + flowed out + still waiting",
            "queue_intervals: still waiting not negative",
        },
        f"UPDATE agent_intervals SET idle_ms = idle_ms + 1 {ONE_CELL}": {"agent_intervals: time at most the interval"},
        "UPDATE conversations SET answered = answered + 1 WHERE conversation_id = 'a'": {
            "conversations: queue counts as in events"
        },
        "UPDATE failed_events SET last_seen = first_seen - INTERVAL '1 second'": {"failed_events: first before last"},
        "UPDATE metadata_field_usage SET events = events + 1000": {"metadata_field_usage: on at most the day's events"},
        "UPDATE landed_files SET load_id = NULL": {"landed_files: loaded files name their load"},
        "UPDATE load_runs SET finished_at = started_at - INTERVAL '1 second' WHERE dataset = 'conversations'": {
            "load_runs: start before end"
        },
        "UPDATE events SET event_type = 'agent.odd' WHERE event_type = 'agent.status_changed'": {
            "events: known event types",
            "event_type_days: events as counted",
        },
    },
    {
        f"UPDATE queue_intervals SET interval_start = interval_start + INTERVAL '1 minute' {ONE_CELL}": {
            "queue_intervals: on the grid"
        },
        f"UPDATE agent_intervals SET interval_minutes = 60 {ONE_CELL}": {"agent_intervals: one length of interval"},
        "UPDATE conversations SET talk_ms = talk_ms + 1 WHERE conversation_id = 'a'": {
            "conversations: legs, talk and hold as in events"
        },
        "UPDATE events SET agent_id = NULL WHERE event_type = 'agent.status_changed'": {
            "events: status changes name an agent"
        },
        "UPDATE events SET conversation_id = NULL WHERE conversation_id = 'r'": {
            "events: conversation events name a conversation",
            "conversations: every row has events",
            "reconciled_events: each is in events, itself or its twin",
        },
    },
    {
        f"UPDATE queue_intervals SET interval_minutes = 60 {ONE_CELL}": {"queue_intervals: one length of interval"},
        f"UPDATE agent_intervals SET idle_ms = 0, handled = 0 {ONE_CELL}": {
            "agent_intervals: only cells with activity"
        },
        "DELETE FROM conversations WHERE conversation_id = 'c'": {"conversations: every conversation has a row"},
        "UPDATE conversations SET started_at = ended_at + INTERVAL '1 second' WHERE conversation_id = 'a'": {
            "conversations: ended after it started"
        },
        "UPDATE conversations SET ended_at = NULL WHERE conversation_id = 'b'": {
            "conversations: ended, or heard of within a day"
        },
        "UPDATE conversations SET ended_at = last_event_at WHERE conversation_id = 'waiting'": {
            "queue_intervals: left the queue before the end"
        },
        "UPDATE conversations SET conversation_id = 'nobody' WHERE conversation_id = 'r'": {
            "conversations: every row has events",
            "conversations: every conversation has a row",
        },
    },
    {
        f"UPDATE queue_intervals SET answered_in_threshold = answered + 1 {ONE_CELL}": {
            "queue_intervals: within threshold at most answered"
        },
        "UPDATE queue_intervals SET talk_ms = 7, abandoned = abandoned + 1 "
        "WHERE interval_start = TIMESTAMPTZ '1999-01-04 09:30:00+00'": {
            "queue_intervals: time only of what was counted",
            "queue_intervals: handle time as in events",
            "daily_analytics: legs as in the intervals",
            "daily_analytics: queue counts as in the intervals",
            "queue_intervals: abandoned as in events",
            "queue_intervals: offered = answered + abandoned + flowed out + still waiting",
        },
        "UPDATE agent_intervals SET handled = -1, idle_ms = 1000 "
        "WHERE interval_start = TIMESTAMPTZ '1999-01-04 10:00:00+00'": {
            "agent_intervals: counts and durations not negative"
        },
        "UPDATE conversations SET last_event_at = first_event_at - INTERVAL '1 second', wait_ms = -1 "
        "WHERE conversation_id = 'a'": {
            "conversations: last event not before the first",
            "conversations: counts and durations not negative",
        },
    },
    {
        # An entry that is lost, in the events as in all that is made of them.
        "DELETE FROM events WHERE conversation_id = 'c' AND event_type = 'conversation.queued'": set(),
        "UPDATE conversations SET events = events - 1, offered = 0, first_event_at = TIMESTAMPTZ "
        "'1999-01-04 09:31:00+00' WHERE conversation_id = 'c'": set(),
        "DELETE FROM event_type_days WHERE event_type IN ('conversation.queued', 'conversation.started')": set(),
        "DELETE FROM metadata_field_usage WHERE event_type IN ('conversation.queued', 'conversation.started')": {
            "queue_intervals: left only after an entry"
        },
        "UPDATE queue_intervals SET offered = 0 WHERE interval_start = TIMESTAMPTZ '1999-01-04 09:30:00+00'": set(),
        "UPDATE queue_intervals SET flowed_out = 1 WHERE interval_start = TIMESTAMPTZ '1999-01-04 09:00:00+00'": {
            "queue_intervals: flowed out as in events",
            "daily_analytics: legs as in the intervals",
            "daily_analytics: queue counts as in the intervals",
            "queue_intervals: offered = answered + abandoned + flowed out + still waiting",
        },
        "UPDATE queue_intervals SET handled = handled + 1 WHERE interval_start = TIMESTAMPTZ "
        "'1999-01-04 09:15:00+00'": {"queue_intervals: handled as in events"},
        "UPDATE events SET timestamp_ms = 4102444800000, published_at = TIMESTAMPTZ '1999-01-04 09:00:00+00' "
        "WHERE event_type = 'conversation.started'": {"events: dated between 1970 and tomorrow"},
    },
]  # fmt: skip


# Frames that every table has.
BASICS = (".key", ".ranges")


def names(results: list[Result], *statuses: str) -> set[str]:
    return {f"{result.expectation.table}: {result.expectation.name}" for result in results if result.status in statuses}


def test_each_expectation_holds_on_right_tables_and_fails_on_wrong_ones(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, *numbered(a_day()))
    load(warehouse)
    with writer(warehouse) as connection:
        with connection.begin():
            for statement in FURTHER.split(";\n"):
                connection.execute(sa.text(statement))
        right = {frame.name: frame for frame in frames(connection, warehouse, WINDOW, HORIZON)}
        connection.rollback()
        particular = [frame for name, frame in right.items() if not name.endswith(BASICS)]
        assert names(judge(particular), "failed", "warning") == set()
        for broken in ROUNDS:
            wrong = after(connection, warehouse, list(broken))
            found = judge(changed(wrong, right))
            assert names(found, "failed", "warning") == set().union(*broken.values())
        filled = [table for table in tables.metadata.sorted_tables if has_rows(connection, table)]
        doubled = [table for table in filled if key_of(table) and not table.primary_key.columns]
        wrong = after(connection, warehouse, [sql for table in doubled for sql in doubling(connection, table)])
        found = judge(frame for frame in changed(wrong, right) if frame.name.endswith(".key"))
        assert names(found, "failed") == {f"{table.name}: one row a key" for table in doubled}
        measured = {table.name: measures_of(table)[-1] for table in filled if measures_of(table)}
        wrong = after(connection, warehouse, [f"UPDATE {name} SET {column} = -1" for name, column in measured.items()])
        found = judge(frame for frame in changed(wrong, right) if frame.name.endswith(".ranges"))
        assert names(found, "failed") == {f"{name}: counts and durations not negative" for name in measured}
        assert {"events", "queue_intervals"} <= {table.name for table in doubled}
    proven = set().union(*(found for broken in ROUNDS for found in broken.values()))
    every = {f"{item.table}: {item.name}" for item in EXPECTATIONS if not item.frame.endswith(BASICS)}
    assert every - proven == {"events: every record of the bus is here"}


def test_what_is_not_taken_account_of_yet_is_no_breach(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, *numbered(a_day()))
    load(warehouse)
    late = [
        queued("09:21:00", "b"),
        abandoned("09:25:00", "b"),
        handled("09:40:00", "a", queue="NE", talk_ms=5),
        event(EventType.ENDED, "09:40:02", "r"),  # the webhook of what was reconciled
        status("10:00:00", "ANNA", "INTERACTING"),
    ]
    land(warehouse.landing_dir, *[replace(item, offset=100 + number) for number, item in enumerate(late)])
    load_events(warehouse, run_id="r")
    with writer(warehouse) as connection:
        waiting = {frame.name: frame for frame in frames(connection, warehouse, WINDOW, HORIZON)}
    load(warehouse)
    with writer(warehouse) as connection:
        taken = {frame.name: frame for frame in frames(connection, warehouse, WINDOW, HORIZON)}
    found = judge([*changed(waiting.values(), taken), *taken.values()])
    assert names(found, "failed", "warning") == set()
    # The cells of 09:15 wait, those before are looked at; a queue with an event that waits is not added up.
    assert len(waiting["queue_intervals.balance"].rows) < len(taken["queue_intervals.balance"].rows)
    name = "queue_intervals.conservation"
    cells = waiting[name].columns.index("cells")
    assert 0 < sum(row[cells] for row in waiting[name].rows) < sum(row[cells] for row in taken[name].rows)


def changed(wrong: Iterable[Frame], right: Mapping[str, Frame]) -> Iterator[Frame]:
    """The frames that are no longer as they were."""
    return (frame for frame in wrong if frame != right[frame.name])


def after(connection: sa.Connection, warehouse: Warehouse, statements: list[str]) -> Iterator[Frame]:
    """The frames after statements that are then undone."""
    transaction = connection.begin()
    for statement in statements:
        connection.execute(sa.text(statement))
    yield from frames(connection, warehouse, WINDOW, HORIZON)
    transaction.rollback()


def has_rows(connection: sa.Connection, table: sa.Table) -> bool:
    with connection.begin():
        return bool(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def doubling(connection: sa.Connection, table: sa.Table) -> list[str]:
    """Every row twice; on PostgreSQL without the index that forbids it."""
    indexes = [str(index.name) for index in table.indexes if index.unique]
    dropped = [f"DROP INDEX {name}" for name in indexes if connection.dialect.name == "postgresql"]
    return [*dropped, f"INSERT INTO {table.name} SELECT * FROM {table.name}"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    made = Shown()
    monkeypatch.setattr(module, "show_table", made.table)
    monkeypatch.setattr(module, "emit_event", made.event)
    due = datetime.now(UTC) + timedelta(hours=1, minutes=10)
    monkeypatch.setattr(module, "scheduled_time", lambda: due)
    monkeypatch.setattr(module, "run_id", lambda: "run")
    with disable_run_logger():
        yield made


def test_the_flow_fails_with_what_is_missing_until_it_has_come(
    platform: Platform, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = Bus(platform)
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    warehouse = replace(Warehouse.from_settings(bus.settings), lock_seconds=20)
    migrate(warehouse)
    (offset,) = bus.publish("a")
    with pytest.raises(
        CcaasError, match=r"1 of \d+ checks do not hold: events, every record of the bus is here"
    ) as failed:
        quality_checks.fn()
    assert "docs/quality.md" in str(failed.value)
    (event,) = shown.events
    assert (event["event"], event["resource"]["ccaas.alert.key"]) == (FAILED, FAILED)
    first, *others = shown.tables["quality-checks"]
    assert (first["result"], first["not as expected"]) == ("failed", 1)
    assert f"{bus.topic}[0]" in str(first["among them"])
    assert {row["result"] for row in others} == {"passed"}
    with monkeypatch.context() as patch:
        patch.setenv("CCAAS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
        patch.setattr("streaming.topic_reader.TIMEOUT_S", 0.5)
        with pytest.raises(CcaasError, match=r"1 of .*every record of the bus is here .not compared: ccaaus\.events"):
            quality_checks.fn()
    assert {row["result"] for row in shown.tables["quality-checks"]} == {"passed"}
    insert(warehouse, tables.events, bus.row("a", offset))
    assert quality_checks.fn() == len(shown.tables["quality-checks"])
    assert len(shown.events) == 2
    # The same run again, as when it is retried: its results are there once.
    found = tables.quality_results.c
    with writer(warehouse) as connection:
        kept = connection.execute(sa.select(found.status, sa.func.count()).group_by(found.status)).all()
    assert [tuple(row) for row in kept] == [("passed", len(shown.tables["quality-checks"]))]
