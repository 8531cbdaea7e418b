"""Expiry of landing files, of a folder and of an object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streaming.errors import ServiceUnavailableError
from streaming.lease import LeaseKeeper
from streaming.settings import Settings
from streaming.sink.compaction import Limits, clean_up, compact
from streaming.sink.landing import LandingZone
from streaming.sink.landing_lease import LEASE
from streaming.sink.manifest import newest_manifest
from streaming.sink.store import LocalStore
from streaming.state import open_state
from tests.s3 import S3Server, s3_server
from tests.warehouse.events import TOPIC, Event, at, everything, land, queued, table
from warehouse.compacted import note_compacted
from warehouse.engine import Warehouse
from warehouse.landing import list_files
from warehouse.landing_retention import expire_landing
from warehouse.load_events import load_events, load_events_window
from warehouse.windows import Window

CUT = at("00:00:00", day=5)
NEXT_DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


pytestmark = pytest.mark.parametrize("engine", ["duckdb"], indirect=True)


@pytest.fixture
def place() -> str:
    """Where the files are: a folder unless a test says otherwise."""
    return "folder"


@pytest.fixture
def warehouse(make_warehouse: Callable[..., Warehouse], place: str, request: pytest.FixtureRequest) -> Warehouse:
    return make_warehouse(landing=request.getfixturevalue("s3").new_folder() if place == "s3" else "")


@pytest.fixture
def settings(warehouse: Warehouse, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, sink={"landing": warehouse.landing, "compact_grace_hours": 1}, state={"lease_ttl_seconds": 1}
    )


def calls(day: int, offset: int, number: int = 6) -> list[Event]:
    return [
        Event(item.type, item.time + timedelta(days=day - 4), item.payload, offset=offset + step)
        for step, item in enumerate(queued(f"09:{10 + step}:00", f"c{day}-{step}") for step in range(number))
    ]


def put(warehouse: Warehouse, tmp_path: Path, *events: Event) -> str:
    """A raw file, as the sink writes it."""
    rows = pq.read_table(land(tmp_path / "made", *events), partitioning=None)
    spans = {f"{TOPIC}@one": {0: (events[0].offset, events[-1].offset)}}
    return LandingZone(warehouse.store, "k").write(rows.schema, [rows], spans, "0")


def compacted(warehouse: Warehouse, tmp_path: Path) -> None:
    limits = Limits(min_rows=5)
    steps = list(
        compact(warehouse.store, 1, NEXT_DAY.date(), limits=limits, scratch=tmp_path / "s", is_ours=lambda: True)
    )
    assert steps
    note_compacted(warehouse, steps, [])


def later(settings: Settings) -> Settings:
    """The same when the grace period is over."""
    return settings.model_copy(update={"sink": settings.sink.model_copy(update={"compact_grace_hours": 1e-6})})


def landed(warehouse: Warehouse) -> int | None:
    """Up to where the sink takes the topic for landed."""
    zone = LandingZone(warehouse.store, "k")
    zone.scan()
    return zone.landed(f"{TOPIC}@one", 0)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_compacted_files_go_by_the_day_of_their_events(
    warehouse: Warehouse, settings: Settings, tmp_path: Path
) -> None:
    for day in (3, 4, 5):
        put(warehouse, tmp_path, *calls(day, 10 * day))
    load_events(warehouse, run_id="r")
    compacted(warehouse, tmp_path)
    before, files = everything(warehouse), list_files(warehouse.store, set())
    assert len(files) == 3
    would = expire_landing(settings, warehouse, CUT, run_id="dry", dry_run=True)
    assert list_files(warehouse.store, set()) == files
    found = expire_landing(settings, warehouse, CUT, run_id="r")
    assert found == would
    assert (found.files, found.rows, found.first_day) == (2, 12, at("00:00:00", day=3).date())
    assert found.bytes > 0
    left = list_files(warehouse.store, set())
    assert left == [name for name in files if "date=1999-01-05" in name]
    # What the landing zone no longer holds stays, and readers that began before go on.
    assert load_events_window(warehouse, Window(at("00:00:00", day=3), CUT), run_id="r").rows == 0
    assert load_events(warehouse, run_id="r").files == 0
    assert everything(warehouse) == before
    if isinstance(warehouse.store, LocalStore):
        for name in files:  # long since written, just now expired
            os.utime(warehouse.landing_dir / name, (1e9, 1e9))
    clean_up(warehouse.store, timedelta(hours=1))
    assert all(warehouse.store.read(name) for name in files)
    expire_landing(later(settings), warehouse, CUT, run_id="next")
    assert [entry.name for entry in warehouse.store.entries("compacted/vendor=genesys")] == left
    assert warehouse.store.entries("raw") == []
    assert [row["name"] for row in table(warehouse, "landed_files")] == left
    assert landed(warehouse) == 55
    runs = {row["run_id"]: (row["status"], row["files"], row["rows"]) for row in table(warehouse, "retention_runs")}
    assert runs == {"r": ("finished", 2, 12), "next": ("finished", 0, 0)}


def test_raw_files_go_once_they_are_loaded_and_the_sink_knows_that_they_landed(
    warehouse: Warehouse, settings: Settings, tmp_path: Path
) -> None:
    put(warehouse, tmp_path, *calls(4, 40))
    load_events(warehouse, run_id="r")
    waiting = put(warehouse, tmp_path, *calls(5, 50))
    found = expire_landing(settings, warehouse, NEXT_DAY, run_id="r")
    assert (found.files, found.rows) == (1, 6)
    assert found.note == f"1 files are not loaded yet and stay: {waiting}"
    assert list_files(warehouse.store, set()) == [waiting]
    assert newest_manifest(warehouse.store).offsets == {"k": {f"{TOPIC}@one": {0: 45}}}
    expire_landing(later(settings), warehouse, NEXT_DAY, run_id="next")
    assert [entry.name for entry in warehouse.store.entries("raw")] == [waiting]
    load_events(warehouse, run_id="r")
    expire_landing(later(settings), warehouse, NEXT_DAY, run_id="last")
    expire_landing(later(settings), warehouse, NEXT_DAY, run_id="end")
    assert warehouse.store.entries("raw") == []
    assert table(warehouse, "landed_files") == []
    assert landed(warehouse) == 55
    # What comes after is compacted from then on.
    for offset in (60, 70):
        put(warehouse, tmp_path, *calls(6, offset))
    load_events(warehouse, run_id="r")
    compacted(warehouse, tmp_path)
    assert landed(warehouse) == 75
    assert len(list_files(warehouse.store, set())) == 1


def test_a_file_that_a_load_has_set_aside_stays_and_is_told(
    warehouse: Warehouse, settings: Settings, tmp_path: Path
) -> None:
    with warehouse.store.create("raw/dt=1999-01-03/0-1-broken.parquet") as file:
        file.write(b"PAR1 no Parquet")
    (quarantined,) = load_events(warehouse, run_id="r").quarantined
    found = expire_landing(settings, warehouse, NEXT_DAY, run_id="r")
    assert (found.files, found.note) == (0, f"1 files in quarantine stay: {quarantined}")
    assert warehouse.store.read(quarantined)


def test_nothing_happens_while_a_compaction_runs(
    warehouse: Warehouse, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(warehouse, tmp_path, *calls(4, 40))
    load_events(warehouse, run_id="r")
    monkeypatch.setattr("warehouse.landing_retention._PATIENCE_S", 0.3)
    state = open_state(settings.state_url)
    compaction = LeaseKeeper(state, [LEASE], ttl=1)
    compaction.start()
    assert compaction.wait_for_any(10)
    try:
        with pytest.raises(ServiceUnavailableError, match="compaction, retention or erasure"):
            expire_landing(settings, warehouse, NEXT_DAY, run_id="r")
    finally:
        compaction.close()
        state.dispose()
    assert newest_manifest(warehouse.store).covered == {}
    (row,) = table(warehouse, "retention_runs")
    assert (row["status"], row["finished_at"]) == ("running", None)
