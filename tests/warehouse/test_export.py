"""Interval files for WFM tools."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from filelock import FileLock

from schemas.canonical import EventType
from streaming.errors import ConfigurationError
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
from warehouse.engine import Warehouse, publish_read_copy, writer
from warehouse.errors import ExportError, WindowError
from warehouse.export import ExportResult, Target, export_days, export_new
from warehouse.export_files import Format
from warehouse.export_state import STATE
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.windows import Window

BOTH: tuple[Format, ...] = ("csv", "parquet")
FOURTH = Path("vendor=genesys/tenant_id=bank-north/date=1999-01-04")


def load(warehouse: Warehouse, *events: Event, until: datetime) -> None:
    """What a platform does until an instant: land, load, build cells, publish the readers' copy."""
    if events:
        land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=until, run_id="r")
    publish_read_copy(warehouse, force=True)


def export(warehouse: Warehouse, folder: Path, due: datetime | None = None) -> ExportResult:
    return export_new(warehouse, Target(folder, BOTH), due=due or at("00:10:00", day=5))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {STATE, ".lock"}
    }


ONE_DAY = (
    status("08:50:00", "ANNA", "IDLE"),
    queued("09:14:50", "c1", queue='=HYPERLINK("x"),PS'),
    assigned("09:15:05", "c1", queue='=HYPERLINK("x"),PS', wait_ms=15_500),
    status("09:15:05", "ANNA", "INTERACTING"),
    handled("09:16:05", "c1", queue='=HYPERLINK("x"),PS', talk_ms=59_250, hold_ms=750),
    wrapup("09:16:10", "c1", queue='=HYPERLINK("x"),PS', acw_ms=5_000),
    status("09:16:10", "ANNA", "OFF_QUEUE"),
    queued("09:14:59", "c2", queue="NW"),
    abandoned("09:16:00", "c2", queue="NW", wait_ms=61_000),
)


def test_a_day_s_files(warehouse: Warehouse, tmp_path: Path) -> None:
    named = {"vendor": "genesys", "tenant_id": "bank-north", "is_active": True}
    named |= dict.fromkeys(("first_seen_at", "last_seen_at"), at("00:00:00"))
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.insert(tables.queues), {**named, "queue_id": "NW", "name": "@new"})
        connection.execute(sa.insert(tables.agents), {**named, "agent_id": "ANNA", "name": "Anna A."})
    load(warehouse, *ONE_DAY, until=at("09:30:00"))
    folder = tmp_path / "export"
    assert export(warehouse, folder).days == []  # the day is not over
    target = Target(folder, BOTH)
    (day,) = export_days(warehouse, target, date(1999, 1, 4), date(1999, 1, 5), due=at("23:00:00")).days
    # Two queues in each of the intervals that are known: 00:00 to 09:30.
    assert (day.queue_rows, day.agent_rows) == (2 * 38, 3)
    queues = (folder / FOURTH / "queue-intervals.csv").read_bytes().decode().split("\r\n")
    assert queues[0] == (
        "interval_start,interval_minutes,queue_id,queue_name,media_type,offered,answered,answered_in_threshold,abandoned,"
        "flowed_out,handled,handle_s,talk_s,hold_s,acw_s,wait_answered_s,wait_abandoned_s,aht_s,asa_s,service_level,"
        "abandon_rate"
    )
    formula = '"\'=HYPERLINK(""x""),PS"'
    assert queues[1] == f"1999-01-04T00:00:00Z,15,{formula},{formula},VOICE,0,0,0,0,0,0,0,0,0,0,0,0,,,,"
    assert queues[-5:] == [
        f"1999-01-04T09:00:00Z,15,{formula},{formula},VOICE,1,0,0,0,0,0,0,0,0,0,0,0,,,,0",
        "1999-01-04T09:00:00Z,15,NW,'@new,VOICE,1,0,0,0,0,0,0,0,0,0,0,0,,,,0",
        f"1999-01-04T09:15:00Z,15,{formula},{formula},VOICE,0,1,1,0,0,1,65,59.25,0.75,5,15.5,0,65,15.5,1,",
        "1999-01-04T09:15:00Z,15,NW,'@new,VOICE,0,0,0,1,0,0,0,0,0,0,0,61,,,,",
        "",
    ]
    assert (folder / FOURTH / "agent-intervals.csv").read_bytes().decode().split("\r\n") == [
        (
            "interval_start,interval_minutes,agent_id,agent_name,staffed_s,occupied_s,available_s,communicating_s,"
            "not_responding_s,off_queue_s,handled,occupancy"
        ),
        "1999-01-04T08:45:00Z,15,ANNA,Anna A.,600,0,600,0,0,0,0,0",
        "1999-01-04T09:00:00Z,15,ANNA,Anna A.,900,0,900,0,0,0,0,0",
        "1999-01-04T09:15:00Z,15,ANNA,Anna A.,70,65,5,0,0,830,1,0.928571",
        "",
    ]
    rows: list[dict[str, Any]] = pq.read_table(folder / FOURTH / "queue-intervals.parquet").to_pylist()
    assert (rows[-2]["queue_id"], rows[-2]["interval_start"]) == ('=HYPERLINK("x"),PS', at("09:15:00"))
    assert [value for value in rows[-2].values() if value is None] == [None]  # abandon_rate: nothing was offered
    sums = (folder / FOURTH / "SHA256SUMS").read_text()
    assert [line.split()[1] for line in sums.splitlines()] == [
        "agent-intervals.csv",
        "agent-intervals.parquet",
        "queue-intervals.csv",
        "queue-intervals.parquet",
    ]

    # Whole, it is exported once; exported again, nothing is replaced.
    load(warehouse, until=at("00:15:00", day=5))
    assert [(day.queue_rows, len(day.changed)) for day in export(warehouse, folder).days] == [(2 * 96, 3)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert export(warehouse, folder).days == []
    export_days(warehouse, target, date(1999, 1, 4), date(1999, 1, 5), due=at("23:00:00"))
    assert {path for path in folder.rglob("*.*") if path.stat().st_mtime_ns != before[path]} == {
        folder / name for name in (STATE, ".lock") if (folder / name).stat().st_mtime_ns != before[folder / name]
    }


def a_week(dice: random.Random, tenant_id: str) -> list[Event]:
    """Few contacts of one agent and few of its statuses, so that a day is touched by one event or by none."""

    def some_time() -> datetime:
        return at("00:00:00", day=dice.randint(3, 9)) + timedelta(minutes=dice.choice([1435, dice.randint(0, 1439)]))

    events: list[Event] = []
    for number in range(3):
        begin = some_time()
        end = begin + timedelta(seconds=dice.randint(0, 3000))
        shared: dict[str, Any] = {"conversation": f"c{number}", "queue": dice.choice("PN"), "media": "VOICE"}
        events.append(event(EventType.QUEUED, begin, **shared))
        events.append(event(EventType.HANDLED, end, agent="ANNA", talk_ms=dice.randint(0, 3_000_000), **shared))
        if dice.random() < 0.5:
            after = end + timedelta(days=dice.choice([0, 2]), seconds=300)
            events.append(event(EventType.WRAPUP, after, agent="ANNA", acw_ms=300_000, **shared))
    events += [status(some_time(), "ANNA", dice.choice(["IDLE", "OFF_QUEUE"])) for _ in range(dice.randint(1, 4))]
    return [replace(item, tenant_id=tenant_id) for item in events if item.time < at("00:00:00", day=10)]


def late_and_far() -> Iterator[tuple[list[Event], Event]]:
    """What was there, and a late event that changes the files of a day on which its conversation or agent has none."""
    # A first status: the agent's legs count from its beginning on.
    yield [handled("09:00:00", "c1", talk_ms=60_000)], status(at("12:00:00", day=8), "ANNA", "IDLE")
    # A status that ends another one: the cells of the day after are no more, but others are there.
    yield (
        [status("12:00:00", "ANNA", "IDLE"), event(EventType.QUEUED, at("09:00:00", day=5), "c1", queue="PS")],
        status("23:00:00", "ANNA", "OFF_QUEUE"),
    )
    # A webhook that comes after its reconciled twin, which was dated before midnight.
    at_midnight = event(EventType.QUEUED, at("23:59:58"), "c1", queue="PS")
    reconciled = replace(at_midnight, metadata={"ccaas.native_type": "t", "ccaas.recovered": "reconciled"})
    yield [reconciled, queued("09:00:00", "c2")], replace(at_midnight, time=at("00:00:01", day=5))


def test_after_late_events_the_files_are_as_if_they_had_come_in_time(
    make_warehouse: Callable[..., Warehouse], tmp_path: Path
) -> None:
    """A status lasts for a day here, so that cells may change far from the event that is late."""
    warehouse = make_warehouse(longest_status_hours=24)
    dice = random.Random(7)
    rounds: list[list[Event]] = [[], [], []]
    for number, (there, late_event) in enumerate(late_and_far()):
        rounds[0] += [replace(item, tenant_id=f"far{number}") for item in there]
        rounds[1].append(replace(late_event, tenant_id=f"far{number}"))
    for number in range(6):
        events = a_week(dice, f"t{number}")
        late = dice.sample(events, 2)  # the first and the second that are late
        rounds[0] += [item for item in events if item not in late]
        rounds[1].append(late[0])
        rounds[2].append(late[1])
    folder, complete = Target(tmp_path / "export", ["csv"]), Target(tmp_path / "complete", ["csv"])
    looked_at: list[int] = []
    for come in rounds:
        load(warehouse, *numbered(come), until=at("00:00:00", day=10))
        result = export_new(warehouse, folder, due=at("00:00:00", day=4))
        looked_at.append(len(result.days))
    export_days(warehouse, complete, date(1999, 1, 1), date(1999, 1, 10), due=at("00:00:00", day=10))
    assert files(folder.folder) == files(complete.folder)
    # Days that no event can have changed are not even looked at.
    assert 0 < max(looked_at[1:]) < looked_at[0] * 0.75


def test_a_load_by_window_is_exported_again(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    load(warehouse, *ONE_DAY, until=at("00:15:00", day=5))
    export(warehouse, folder)
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("UPDATE queue_intervals SET offered = 7 WHERE queue_id = 'NW'"))
    publish_read_copy(warehouse, force=True)
    assert export(warehouse, folder).days == []  # nothing in the ledger says that a day has changed
    load_wfm_intervals(warehouse, Window(at("12:00:00"), at("18:00:00")), run_id="r")
    publish_read_copy(warehouse, force=True)
    (day,) = export(warehouse, folder).days
    assert day.changed == ("SHA256SUMS", "queue-intervals.csv", "queue-intervals.parquet")


def test_a_full_disk_or_a_folder_that_is_none_leaves_what_was_there(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    load(warehouse, *ONE_DAY, until=at("00:00:00", day=5))
    export(warehouse, folder)
    before = files(folder)
    load(warehouse, queued("10:00:00", "late"), until=at("00:15:00", day=5))
    temporary = folder / FOURTH / ".tmp-queue-intervals.csv"
    temporary.symlink_to("/dev/full")
    with pytest.raises(
        ExportError, match=r"queue-intervals\S* can't be written: No space left on device.*export.folder"
    ):
        export(warehouse, folder)
    assert files(folder) == before
    # The room is there again: the next run does what that one has not done, beside what a killed one left.
    temporary.write_bytes(b"half")
    assert {name for day in export(warehouse, folder).days for name in day.changed} == {
        "queue-intervals.csv",
        "queue-intervals.parquet",
        "SHA256SUMS",
    }
    assert not temporary.exists()
    with pytest.raises(ExportError, match=r"export\.folder .* can't be used"):
        export(warehouse, folder / STATE)


def test_a_bad_day_of_a_tenant_does_not_keep_the_others_waiting(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    other = [replace(item, tenant_id="other") for item in ONE_DAY]
    bad = FOURTH.parts
    odd = sa.text(
        "UPDATE queue_intervals SET interval_minutes = :minutes WHERE tenant_id = 'bank-north' AND queue_id = 'NW'"
    )

    def grid(minutes: int) -> None:
        with writer(warehouse) as connection, connection.begin():
            connection.execute(odd, {"minutes": minutes})
        publish_read_copy(warehouse, force=True)

    load(warehouse, *numbered([*ONE_DAY, *other]), until=at("00:15:00", day=5))
    grid(60)
    for _ in range(2):  # the run after it tries again what it could not, and only that
        with pytest.raises(
            ConfigurationError, match=r"1 of \d .*: genesys/bank-north 1999-01-04: cells of 15 and of 60"
        ):
            export(warehouse, folder)
    assert {Path(name).parts[1] for name in files(folder)} == {"tenant_id=other"}
    grid(15)
    load(warehouse, until=at("00:00:00", day=9))
    due = at("00:10:00", day=9)  # days later: no first run's yesterday any more
    assert [day.of.folder.parts for day in export(warehouse, folder, due).days] == [bad]
    assert export(warehouse, folder, due).days == []


def test_days_behind_the_horizon_are_exported_as_far_as_a_window_built_them(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    target, days = Target(tmp_path / "export", ["csv"]), (date(1999, 1, 4), date(1999, 1, 8))
    sixth = event(EventType.QUEUED, at("09:00:00", day=6), "c6", queue="PS")
    load(warehouse, *ONE_DAY, sixth, until=at("09:30:00"))
    for window in (
        Window(at("00:00:00", day=4), at("06:00:00", day=6)),
        Window(at("06:00:00", day=6), at("12:00:00", day=6)),
        Window(at("13:00:00", day=6), at("14:00:00", day=6)),
    ):
        load_wfm_intervals(warehouse, window, run_id="r")
    publish_read_copy(warehouse, force=True)
    late, early = (
        {day.of.day.day: day.queue_rows for day in export_days(warehouse, target, *days, due=due).days}
        for due in (at("00:00:00", day=9), at("10:00:00", day=6))
    )
    assert late == {4: 2 * 96, 6: 48}
    assert early == {4: 2 * 96, 6: 40}


def test_two_at_once(make_warehouse: Callable[..., Warehouse], tmp_path: Path) -> None:
    warehouse = make_warehouse(lock_seconds=5)
    folder, alone = tmp_path / "export", tmp_path / "alone"
    load(warehouse, *ONE_DAY, until=at("00:00:00", day=5))
    results: list[ExportResult] = []
    both = [threading.Thread(target=lambda: results.append(export(warehouse, folder))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(sum(len(day.changed) for day in result.days) for result in results) == [0, 5]
    export(warehouse, alone)
    assert files(folder) == files(alone)
    impatient = make_warehouse(lock_seconds=0.1)
    with FileLock(folder / ".lock"), pytest.raises(ExportError, match="another export runs"):
        export(impatient, folder)


def test_what_can_not_be_exported(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    target = Target(folder, BOTH)
    publish_read_copy(warehouse, force=True)
    assert export(warehouse, folder) == ExportResult()
    with pytest.raises(WindowError, match="give an end after the start"):
        export_days(warehouse, target, date(1999, 1, 5), date(1999, 1, 5), due=at("00:00:00", day=5))
    load(warehouse, *ONE_DAY, until=at("00:00:00", day=5))
    with writer(warehouse) as connection, connection.begin():
        connection.execute(
            sa.text("UPDATE queue_intervals SET vendor = '../../x', interval_minutes = 60 WHERE queue_id = 'NW'")
        )
    publish_read_copy(warehouse, force=True)
    (folder / STATE).write_text('{"load_id": 900, "through": 900, "horizon": "1999-01-09T00:00:00+00:00"}')
    (day,) = export(warehouse, folder).days  # of another warehouse: begins anew. And no folder is named ../../x
    assert day.of.vendor == "genesys"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(("vendor", "x"))} == set()
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("UPDATE queue_intervals SET vendor = 'genesys' WHERE queue_id = 'NW'"))
    publish_read_copy(warehouse, force=True)
    with pytest.raises(ConfigurationError, match="cells of 15 and of 60 min on 1999-01-04: run load-wfm-intervals"):
        export_days(warehouse, target, date(1999, 1, 4), date(1999, 1, 5), due=at("00:00:00", day=5))
