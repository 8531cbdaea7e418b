"""The flow that expires what is old, without a Prefect server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

import flows.retention as module
from flows.retention import retention
from streaming.settings import load_settings
from tests.flows.shown import Shown
from tests.warehouse.events import at, everything, land, numbered, queued
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.schema import open_warehouse


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setenv("CCAAS_CONFIG", str(tmp_path / "ccaas.toml"))
    monkeypatch.setenv("CCAAS_DATA_DIR", str(tmp_path))
    (tmp_path / "ccaas.toml").write_text("[state]\nlease_ttl_seconds = 1\n")
    shown = Shown()
    monkeypatch.setattr(module, "show_table", shown.table)
    monkeypatch.setattr(module, "scheduled_time", lambda: at("03:40:00", day=4) + timedelta(days=30))
    monkeypatch.setattr(module, "run_id", lambda: "run")
    return shown


def test_a_dry_run_shows_what_a_run_then_deletes(shown: Shown, tmp_path: Path) -> None:
    with disable_run_logger():
        assert retention.fn(dry_run=False) == {}, "without days everything stays"
    land(tmp_path / "landing", *numbered([queued(f"09:{number}:00", f"c{number}") for number in range(10, 40)]))
    with open_warehouse(load_settings()) as warehouse:
        load_events(warehouse, run_id="r")
        load_conversations(warehouse, run_id="r")
        load_wfm_intervals_incremental(warehouse, end=at("00:00:00", day=5), run_id="r")
    (tmp_path / "ccaas.toml").write_text(
        "[state]\nlease_ttl_seconds = 1\n[retention]\nevents_days = 29\nintervals_days = 30\nlanding_days = 29\n"
    )
    before = everything(warehouse)
    with disable_run_logger():
        counted = retention.fn()
        assert everything(warehouse) == before
        # Written today and of 1999: the landing file is raw, so the day of writing counts.
        assert counted == {"events": 30, "intervals": 0, "landing": 0}
        assert [row["would go"] for row in shown.tables["retention"]] == [30, 0, 0]
        assert retention.fn(dry_run=False) == counted
        assert [row["deleted rows"] for row in shown.tables["retention"]] == [30, 0, 0]
        assert shown.tables["retention"][0]["from"] == "1999-01-04"
        assert everything(warehouse) == before | {"events": []}
        assert retention.fn(dry_run=False)["events"] == 0
