"""Expiry of tables: what stays is as it was, whatever is loaded afterwards."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from schemas.canonical import RECOVERED_KEY, EventType
from streaming.settings import RetentionSettings
from tests.warehouse.events import (
    Event,
    abandoned,
    assigned,
    at,
    event,
    everything,
    handled,
    land,
    numbered,
    queued,
    status,
    table,
    wrapup,
)
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError
from warehouse.field_usage import count_field_usage, count_field_usage_window
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.retention import cuts, expire_tables
from warehouse.statements import run as execute
from warehouse.windows import Window

CUT = at("00:00:00", day=5)
DUE = at("03:00:00", day=7)
ALL = Window(at("00:00:00", day=2), at("00:00:00", day=8))
TWO_DAYS = RetentionSettings(events_days=2)


def on(day: int, item: Event) -> Event:
    """An event of 4 January on another day."""
    return replace(item, time=item.time + timedelta(days=day - 4))


def events() -> list[Event]:
    """Four days of calls, with a caller who calls every morning; some last over midnight, on which the cut is."""
    found: list[Event] = []
    for day in (3, 4, 5, 6):
        for number in range(2):
            found += [
                on(day, queued(f"09:{10 + number}:00", f"{day}-{number}")),
                on(day, assigned(f"09:{10 + number}:15", f"{day}-{number}")),
                on(day, handled(f"09:{20 + number}:00", f"{day}-{number}", talk_ms=60_000)),
            ]
        found.append(on(day, abandoned("11:00:00", f"{day}-x")))
        found.append(on(day, event(EventType.STARTED, "08:00:00", f"{day}-x", ani="+1555", direction="INBOUND")))
        found += [on(day, status("09:00:00", "ANNA", "IDLE")), on(day, status("17:00:00", "ANNA", "OFF_QUEUE"))]
    # Carried over: idle all night since the 3rd, and one who has been off for longer than a status lasts.
    found += [on(3, status("22:00:00", "BERT", "IDLE")), on(5, status("10:00:00", "BERT", "OFF_QUEUE"))]
    found.append(on(3, status("07:00:00", "CLEO", "OFF_QUEUE")))
    # Queued before midnight and answered after it: the wait and the medium are known from before. A leg that ends
    # before midnight and whose wrap-up ends after it. One who hangs up after midnight, known by REST and by a webhook.
    found += [
        on(4, queued("23:59:30", "over", media="CHAT")),
        on(5, event(EventType.ASSIGNED, "00:00:10", "over", queue="PS", agent="CLEO")),
        on(4, queued("23:40:00", "leg")),
        on(4, assigned("23:41:00", "leg", agent="BERT")),
        on(4, handled("23:58:00", "leg", agent="BERT", talk_ms=5_000)),
        on(5, wrapup("00:02:00", "leg", agent="BERT", acw_ms=240_000)),
        on(4, queued("23:59:59", "rest")),
        on(5, abandoned("00:00:01", "rest")),
        replace(on(4, abandoned("23:59:58", "rest")), metadata={RECOVERED_KEY: "reconciled"}),
    ]
    return numbered(found)


def build(warehouse: Warehouse) -> None:
    """By arrival, to the end of the 7th."""
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=ALL.end, run_id="r")
    load_daily_analytics(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")


def derived(warehouse: Warehouse) -> dict[str, list[Any]]:
    """Every table that is built from events."""
    names = ("conversations", "queue_intervals", "agent_intervals", "daily_analytics", "metadata_field_usage")
    found: dict[str, list[Any]] = {}
    with writer(warehouse) as connection:
        for name in (*names, "event_type_days"):
            rows = connection.execute(sa.text(f"SELECT * FROM {name}")).mappings().all()
            found[name] = sorted((dict(row) for row in rows), key=repr)
    return found


def ids(warehouse: Warehouse, name: str = "events") -> set[str]:
    with writer(warehouse) as connection:
        return set(connection.execute(sa.text(f"SELECT event_id FROM {name}")).scalars())


def expire(warehouse: Warehouse, settings: RetentionSettings = TWO_DAYS, **options: object) -> dict[str, int]:
    options = {"run_id": "expiry", **options}
    return {
        found.dataset: found.rows
        for found in expire_tables(warehouse, cuts(settings, DUE), **options)  # type: ignore[arg-type]
    }


@pytest.fixture
def built(warehouse: Warehouse) -> Warehouse:
    land(warehouse.landing_dir, *events())
    build(warehouse)
    return warehouse


def test_what_stays_is_as_it_was_whatever_is_loaded_afterwards(built: Warehouse) -> None:
    """Cells are kept for longer than the events that they are made of."""
    before, kept = derived(built), {item.event_id for item in events() if item.time >= CUT}
    spanning = {item.event_id for item in events() if item.payload.get("conversation_id") in {"over", "leg", "rest"}}
    last = {
        on(4, status("17:00:00", "ANNA", "OFF_QUEUE")).event_id,
        on(3, status("22:00:00", "BERT", "IDLE")).event_id,
        on(3, status("07:00:00", "CLEO", "OFF_QUEUE")).event_id,
    }
    expected = expire(built, dry_run=True)
    assert derived(built) == before, "a dry run deletes nothing"
    assert table(built, "retention_runs") == []
    assert expire(built) == expected
    left = ids(built)
    assert left == (kept | spanning | last) & left
    assert kept | last <= left
    assert len(left | ids(built, "reconciled_events")) == len(kept | spanning | last)
    assert derived(built) == before
    # By window, by arrival, and again: what has expired comes back from nowhere and spoils nothing.
    load_events_window(built, ALL, run_id="r")
    load_conversations(built, ALL, run_id="r")
    load_wfm_intervals(built, ALL, run_id="r")
    load_wfm_intervals(built, Window(at("00:00:00", day=3), CUT), run_id="r")
    load_daily_analytics(built, ALL, run_id="r")
    count_field_usage_window(built, ALL, run_id="r")
    assert derived(built) == before
    assert ids(built) == left
    land(built.landing_dir, *events(), on(3, queued("09:11:00", "3-late")), on(4, queued("12:00:00", "4-late")))
    build(built)
    assert derived(built) == before
    assert ids(built) == left
    # Late events of a conversation that has expired, and of one that spans the cut.
    ended = on(5, event(EventType.ENDED, "00:20:00", "over", end_reason="CALLER"))
    land(built.landing_dir, on(5, wrapup("08:00:00", "3-0", acw_ms=1_000)), ended)
    build(built)
    after = derived(built)
    for name in ("queue_intervals", "agent_intervals", "daily_analytics"):
        assert after[name] == before[name]
    changed = [row for row in after["conversations"] if row not in before["conversations"]]
    assert [(row["conversation_id"], row["ended_at"], row["events"]) for row in changed] == [("over", ended.time, 3)]
    assert len(after["conversations"]) == len(before["conversations"])


def test_the_interval_can_be_changed_when_cells_are_kept_for_longer_than_events(built: Warehouse) -> None:
    before = {name: rows for name, rows in everything(built).items() if name.endswith("_intervals")}
    expire(built)
    hourly = replace(built, interval_minutes=60)
    late = on(6, queued("12:00:00", "6-late"))
    land(built.landing_dir, late)
    load_events(hourly, run_id="r")
    with pytest.raises(QualityError, match="one_grid"):  # what has events would be of two lengths
        load_wfm_intervals_incremental(hourly, end=ALL.end, run_id="r")
    load_wfm_intervals(hourly, ALL, run_id="r", known_until=ALL.end)
    load_wfm_intervals_incremental(hourly, end=ALL.end + timedelta(hours=1), run_id="r")
    after = everything(built)
    for name, rows in before.items():
        kept = [row for row in rows if row["interval_start"] < CUT]
        assert kept == [row for row in after[name] if row["interval_start"] < CUT] != []
        assert {row["interval_minutes"] for row in after[name] if row["interval_start"] >= CUT} == {60}
    assert sum(row["offered"] for row in after["queue_intervals"]) == 1 + sum(
        row["offered"] for row in before["queue_intervals"]
    )


@pytest.mark.parametrize("engine", ["duckdb"], indirect=True)
def test_events_wait_for_what_is_built_from_them(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, *events())
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    (found,) = expire_tables(warehouse, cuts(TWO_DAYS, DUE), run_id="expiry")
    assert (found.rows, found.note) == (0, "they stay: not yet built from all events dated before that: wfm_intervals")
    (row,) = table(warehouse, "retention_runs")
    assert (row["status"], row["rows"], row["note"]) == ("waiting", 0, found.note)
    load_wfm_intervals_incremental(warehouse, end=CUT - timedelta(hours=1), run_id="r")  # an hour is still to be built
    (found,) = expire_tables(warehouse, cuts(TWO_DAYS, DUE), run_id="lagging")
    assert (found.rows, found.note) == (0, "they stay: not yet built from all events dated before that: wfm_intervals")
    build(warehouse)  # there is no horizon either
    late = land(warehouse.landing_dir, on(3, queued("10:00:00", "not loaded")), on(6, queued("10:00:00", "new")))
    (found,) = expire_tables(warehouse, cuts(TWO_DAYS, DUE), run_id="not loaded")
    assert found.rows == 0
    assert late.name in found.note
    build(warehouse)
    fresh = on(6, queued("11:00:00", "newer"))
    land(warehouse.landing_dir, fresh)  # nothing in it is due
    assert len(everything(warehouse)["agent_intervals"]) > 0
    assert expire(warehouse, run_id="later")["events"] > 0


def test_what_is_built_from_events_waits_with_them(built: Warehouse) -> None:
    """Else a file that is loaded late would build a part of an expired day."""
    names = ("events", "conversations", "intervals", "daily", "field_usage")
    alike = RetentionSettings.model_construct(**{f"{name}_days": 2 for name in names})  # use for less than 90, too
    late = on(3, queued("10:00:00", "late"))
    land(built.landing_dir, late)
    before = derived(built)
    wanted = expire(built, alike, dry_run=True)
    assert wanted == dict.fromkeys(names, 0)
    found = expire_tables(built, cuts(alike, DUE), run_id="waits")
    assert {each.dataset for each in found if each.waits} == set(wanted)
    assert {each.note for each in found[1:]} == {"they stay: so do the events that they are built from"}
    assert {row["status"] for row in table(built, "retention_runs")} == {"waiting"}
    assert derived(built) == before
    build(built)
    assert [row["conversation_id"] for row in derived(built)["conversations"]].count("late") == 1
    assert all(expire(built, alike, run_id="goes").values())
    after = derived(built)
    assert min(row["last_event_at"] for row in after["conversations"]) >= CUT
    for name in ("queue_intervals", "agent_intervals"):
        assert min(row["interval_start"] for row in after[name]) >= CUT
    for name in ("daily_analytics", "event_type_days"):
        assert min(row["day"] for row in after[name]) >= CUT.date()
    build(built)
    assert derived(built) == after


def test_a_run_that_has_begun_goes_on_when_it_is_retried(built: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late file lands between the two attempts: to wait for it now would take the horizon back."""
    both = RetentionSettings(events_days=2, conversations_days=2, intervals_days=2)

    def killed(connection: sa.Connection, file: str, name: str, **values: object) -> int:
        if name == "intervals.delete_agents":
            raise KeyboardInterrupt
        return execute(connection, file, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr("warehouse.retention.execute", killed)
        with pytest.raises(KeyboardInterrupt):
            expire(built, both)
    land(built.landing_dir, on(3, queued("10:00:00", "late")))
    expire(built, both)
    rows = {row["dataset"]: (row["status"], row["note"]) for row in table(built, "retention_runs")}
    assert rows == dict.fromkeys(("events", "conversations", "intervals"), ("finished", None))
    build(built)
    load_events_window(built, ALL, run_id="r")
    assert min(row["last_event_at"] for row in derived(built)["conversations"]) >= CUT
    assert min(row["interval_start"] for row in derived(built)["queue_intervals"]) >= CUT


@pytest.mark.parametrize("engine", ["duckdb"], indirect=True)
def test_events_wait_for_a_file_whose_footer_does_not_tell_its_times(built: Warehouse) -> None:
    made = land(built.landing_dir, on(3, queued("10:00:00", "not loaded")))
    rows = pq.read_table(made, partitioning=None)
    for content, waits in ((rows.slice(0, 0), False), (rows, True)):
        pq.write_table(content, made, write_statistics=False)
        (found,) = expire_tables(built, cuts(TWO_DAYS, DUE), run_id=f"{waits}", dry_run=True)
        assert (made.name in found.note) == waits
        assert (found.rows == 0) == waits


@pytest.mark.parametrize("engine", ["duckdb"], indirect=True)
def test_a_run_that_is_killed_spoils_nothing_and_the_next_goes_on(
    built: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = derived(built)
    total = expire(built, dry_run=True)["events"]
    steps = iter(range(100))

    def killed(connection: sa.Connection, file: str, name: str, **values: object) -> int:
        if name == "events.delete" and next(steps) == 1:
            raise KeyboardInterrupt
        return execute(connection, file, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr("warehouse.retention.execute", killed)
        with pytest.raises(KeyboardInterrupt):
            expire(built, batch_rows=1)
    (row,) = table(built, "retention_runs")
    assert (row["status"], row["finished_at"]) == ("running", None)
    assert 0 < row["rows"] < total
    load_wfm_intervals(built, ALL, run_id="r")
    load_conversations(built, ALL, run_id="r")
    assert derived(built) == before
    assert expire(built, batch_rows=1)["events"] == total - row["rows"]
    (row,) = table(built, "retention_runs")
    assert (row["status"], row["rows"]) == ("finished", total)


def test_each_dataset_expires_by_its_own_day(built: Warehouse) -> None:
    settings = RetentionSettings.model_construct(conversations_days=2, intervals_days=1)  # these tables alone
    with writer(built) as connection, connection.begin():  # an impossible date: by the day of publishing
        odd = "UPDATE events SET timestamp = NULL, timestamp_ms = -5 WHERE event_id = :event_id"
        connection.execute(sa.text(odd), {"event_id": on(3, abandoned("11:00:00", "3-x")).event_id})
    before = everything(built)
    expected = expire(built, settings, dry_run=True)
    assert expire(built, settings) == expected
    after = everything(built)
    assert after["events"] == before["events"]
    assert after["conversations"] == [row for row in before["conversations"] if row["last_event_at"] >= CUT]
    for name in ("queue_intervals", "agent_intervals"):
        assert after[name] == [row for row in before[name] if row["interval_start"] >= at("00:00:00", day=6)]
    removed = sum(len(before[name]) - len(after[name]) for name in before)
    assert sum(expected.values()) == removed > 0
    later = RetentionSettings.model_construct(field_usage_days=120, failed_events_days=14, daily_days=30)
    late = cuts(later, datetime(1999, 5, 5, 3, tzinfo=UTC))
    assert late["field_usage"] == CUT
    assert {found.dataset for found in expire_tables(built, late, run_id="late")} == set(late)
    with writer(built) as connection:
        assert connection.execute(sa.text("SELECT min(day) FROM event_type_days")).scalar_one() == CUT.date()
        assert connection.execute(sa.text("SELECT count(*) FROM daily_analytics")).scalar_one() == 0
    expire(built)
    assert on(3, abandoned("11:00:00", "3-x")).event_id not in ids(built)
