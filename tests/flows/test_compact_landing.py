"""The flow that compacts the landing zone, without a Prefect server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

import flows.compact_landing as module
from flows.compact_landing import compact_landing
from streaming.lease import LeaseKeeper
from streaming.settings import load_settings
from streaming.sink.manifest import newest_manifest
from streaming.sink.store import LocalStore
from streaming.state import open_state
from tests.flows.shown import Shown
from tests.warehouse.events import land, numbered, queued, table
from warehouse.engine import Warehouse
from warehouse.load_events import load_events
from warehouse.schema import open_warehouse


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    config = tmp_path / "ccaas.toml"
    config.write_text("[sink]\ncompact_min_rows = 5\ncompact_grace_hours = 0.000001\n[state]\nlease_ttl_seconds = 1\n")
    monkeypatch.setenv("CCAAS_CONFIG", str(config))
    monkeypatch.setenv("CCAAS_DATA_DIR", str(tmp_path))
    shown = Shown()
    monkeypatch.setattr(module, "show_table", shown.table)
    monkeypatch.setattr(module, "scheduled_time", lambda: datetime.now(UTC) + timedelta(days=1))
    return shown


def landed(folder: Path) -> LocalStore:
    events = numbered([queued(f"09:{number}:00", f"c{number}") for number in range(10, 40)])
    for begin in range(0, 30, 10):
        land(folder / "landing", *events[begin : begin + 10])
    return LocalStore(folder / "landing")


def test_a_run_compacts_and_the_loads_go_on(shown: Shown, tmp_path: Path) -> None:
    store = landed(tmp_path)
    warehouse = Warehouse(url=f"duckdb:///{tmp_path}/warehouse.duckdb", landing_dir=tmp_path / "landing")
    with open_warehouse(load_settings()):
        assert load_events(warehouse, run_id="r").rows == 30
    with disable_run_logger():
        assert compact_landing.fn() == 30
        assert shown.tables["compact-landing"] == [{"raw files": 3, "became files": 1, "rows": 30}]
        assert load_events(warehouse, run_id="r").files == 0
        assert compact_landing.fn() == 0
    (row,) = shown.tables["compact-landing"]
    assert row["raw files"] == "3 deleted, replaced earlier"
    assert store.entries("raw") == []
    assert [item["name"] for item in table(warehouse, "landed_files")] == [newest_manifest(store).files[0].name]


def test_a_day_is_left_until_it_is_over(shown: Shown, tmp_path: Path) -> None:
    landed(tmp_path)
    with disable_run_logger():
        assert compact_landing.fn(before=datetime.now(UTC).date()) == 0
    assert shown.tables["compact-landing"] == []


def test_a_second_run_leaves_it_to_the_first(shown: Shown, tmp_path: Path) -> None:
    store = landed(tmp_path)
    engine = open_state(load_settings().state_url)
    first = LeaseKeeper(engine, ["landing/compaction"], ttl=1)
    first.start()
    assert first.wait_for_any(10)
    try:
        with disable_run_logger():
            assert compact_landing.fn() == 0
    finally:
        first.close()
        engine.dispose()
    assert newest_manifest(store).files == ()
