"""Loads and compaction: whatever is loaded when, every event is there once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.canonical import RECOVERED_KEY
from streaming.sink.compaction import Limits, Step, clean_up, compact
from streaming.sink.landing import LandingZone
from streaming.sink.store import LocalStore
from tests.s3 import S3Server, s3_server
from tests.warehouse.events import Event, abandoned, assigned, at, everything, handled, land, numbered, queued, table
from warehouse.compacted import note_compacted
from warehouse.engine import Warehouse
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals
from warehouse.windows import Window

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()
DAY = Window(at("00:00:00"), at("00:00:00", day=5))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def calls() -> list[Event]:
    """Answered and abandoned ones, one of them known from REST as well."""
    events: list[Event] = []
    for number in range(12):
        minute = f"{10 + number // 2}:{10 + number}"
        events += [queued(f"{minute}:00", f"c{number}"), assigned(f"{minute}:20", f"c{number}", wait_ms=20_000)]
        events += [handled(f"{minute}:50", f"c{number}", talk_ms=30_000), abandoned(f"{minute}:55", f"x{number}")]
    twin = replace(events[0], time=events[0].time + timedelta(seconds=1), metadata={RECOVERED_KEY: "reconciled"})
    return numbered([*events, twin])


def compacted(warehouse: Warehouse, scratch: Path, epoch: int = 1) -> list[Step]:
    limits = Limits(min_rows=5)
    return list(compact(warehouse.store, epoch, TOMORROW, limits=limits, scratch=scratch, is_ours=lambda: True))


def land_parts(warehouse: Warehouse, events: list[Event], size: int = 7) -> None:
    for begin in range(0, len(events), size):
        land(warehouse.landing_dir, *events[begin : begin + size])


def load_all(warehouse: Warehouse) -> int:
    rows = load_events(warehouse, run_id="r").rows
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals(warehouse, DAY, run_id="r")
    return rows


@pytest.fixture
def expected(make_warehouse: Callable[..., Warehouse]) -> dict[str, list[dict[str, object]]]:
    plain = make_warehouse()
    land_parts(plain, calls())
    load_all(plain)
    return everything(plain)


def test_what_is_loaded_is_not_loaded_again(
    warehouse: Warehouse, tmp_path: Path, expected: dict[str, list[dict[str, object]]]
) -> None:
    land_parts(warehouse, calls())
    load_all(warehouse)
    steps = compacted(warehouse, tmp_path)
    note_compacted(warehouse, steps, [])
    note_compacted(warehouse, steps, [])
    again = load_events(warehouse, run_id="r")
    assert (again.rows, again.files, again.repeats) == (0, 0, 0)
    deleted = clean_up(warehouse.store, timedelta(seconds=-5))
    note_compacted(warehouse, [], deleted)
    assert {row["name"] for row in table(warehouse, "landed_files")} == {f.name for step in steps for f in step.files}
    assert load_all(warehouse) == 0
    assert everything(warehouse) == expected


def test_without_a_note_the_compacted_files_are_repeats(
    warehouse: Warehouse, tmp_path: Path, expected: dict[str, list[dict[str, object]]]
) -> None:
    land_parts(warehouse, calls())
    load_all(warehouse)
    compacted(warehouse, tmp_path)
    again = load_events(warehouse, run_id="r")
    assert again.rows == 0
    assert again.files > 0
    load_conversations(warehouse, run_id="r")
    assert everything(warehouse) == expected


def test_what_no_load_has_seen_comes_from_the_compacted_files(
    warehouse: Warehouse, tmp_path: Path, expected: dict[str, list[dict[str, object]]]
) -> None:
    events = calls()
    land_parts(warehouse, events[:20])
    load_events(warehouse, run_id="r")
    land_parts(warehouse, events[20:40])
    steps = compacted(warehouse, tmp_path)
    note_compacted(warehouse, steps, clean_up(warehouse.store, timedelta(seconds=-5)))
    land_parts(warehouse, events[40:])
    load_all(warehouse)
    assert everything(warehouse) == expected


def test_a_window_is_restored_from_compacted_and_raw_files(
    warehouse: Warehouse, tmp_path: Path, expected: dict[str, list[dict[str, object]]]
) -> None:
    events = calls()
    land_parts(warehouse, events[:30])
    compacted(warehouse, tmp_path)
    land_parts(warehouse, events[30:])
    load_events_window(warehouse, DAY, run_id="r")
    load_all(warehouse)
    assert everything(warehouse) == expected


def test_loads_and_compactions_in_any_order(
    make_warehouse: Callable[..., Warehouse], tmp_path: Path, expected: dict[str, list[dict[str, object]]]
) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        warehouse = make_warehouse()
        parts = [calls()[begin : begin + 7] for begin in range(0, len(calls()), 7)]
        for epoch, part in enumerate(parts, 1):
            land(warehouse.landing_dir, *part)
            steps: list[Step] = []
            for _ in range(3):
                match chance.randrange(4):
                    case 0:
                        load_events(warehouse, run_id="r")
                    case 1:
                        steps += compacted(warehouse, tmp_path, epoch)
                    case 2:
                        note_compacted(warehouse, steps, [])
                    case _:
                        note_compacted(warehouse, steps, clean_up(warehouse.store, timedelta(seconds=-5)))
        load_all(warehouse)
        assert everything(warehouse) == expected, seed


def test_a_compacted_file_that_breaks_is_set_aside_and_mended(warehouse: Warehouse, tmp_path: Path) -> None:
    land(warehouse.landing_dir, *numbered([queued("09:00:00", f"c{number}") for number in range(6)]))
    land(warehouse.landing_dir, *numbered([queued("10:00:00", f"d{number}", queue="Q") for number in range(6)]))
    (step,) = compacted(warehouse, tmp_path)
    name = step.files[0].name
    path = warehouse.landing_dir / name
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    result = load_events(warehouse, run_id="r")
    assert result.quarantined == (f"quarantine/{name}",)
    assert load_events(warehouse, run_id="r").quarantined == ()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert load_events(warehouse, run_id="r").rows == step.files[0].rows


def test_loads_from_an_object_store(
    make_warehouse: Callable[..., Warehouse],
    tmp_path: Path,
    s3: S3Server,
    expected: dict[str, list[dict[str, object]]],
) -> None:
    warehouse = make_warehouse(landing=s3.new_folder())
    local = tmp_path / "raw"
    events = calls()
    for begin in range(0, len(events), 7):
        table_ = pq.read_table(land(local, *events[begin : begin + 7]), partitioning=None)
        LandingZone(warehouse.store, "test").write(table_.schema, [table_], {}, "0")
    with warehouse.store.create("raw/dt=2026-01-01/0-1-broken.parquet") as file:
        file.write(b"PAR1 no Parquet")
    result = load_events(warehouse, run_id="r")
    assert result.quarantined == ("quarantine/dt=2026-01-01/0-1-broken.parquet",)
    steps = compacted(warehouse, tmp_path / "scratch")
    note_compacted(warehouse, steps, clean_up(warehouse.store, timedelta(seconds=-5)))
    load_all(warehouse)
    load_events_window(warehouse, DAY, run_id="r")
    load_conversations(warehouse, run_id="r")
    assert everything(warehouse) == expected
    assert not isinstance(warehouse.store, LocalStore)
