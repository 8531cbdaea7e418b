"""The flow that exports interval files, and the one that draws, without a Prefect server."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

import flows.export_wfm as export_module
import flows.load_wfm_intervals as intervals_module
import flows.operations_pictures as pictures_module
from flows.export_wfm import export_wfm
from flows.load_wfm_intervals import load_wfm_intervals
from flows.operations_pictures import operations_pictures
from streaming.errors import ConfigurationError
from streaming.settings import load_settings
from tests.flows.shown import Shown
from tests.warehouse.events import at, land, queued
from warehouse.ledger import LoadResult
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.schema import open_warehouse

TENANT = """[[tenants]]
vendor = "genesys"
tenant_id = "bank-north"
[tenants.connection]
"""


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A warehouse of one day with a contact in each of two tenants."""
    config = tmp_path / "ccaas.toml"
    config.write_text(
        f'[export]\nfolder = "{tmp_path}/files"\nformats = ["csv"]\n[warehouse]\nread_copy_seconds = 1\n' + TENANT
    )
    monkeypatch.setenv("CCAAS_CONFIG", str(config))
    monkeypatch.setenv("CCAAS_DATA_DIR", str(tmp_path))
    shown = Shown()
    monkeypatch.setattr(export_module, "show_table", shown.table)
    for module in (export_module, pictures_module):
        monkeypatch.setattr(module, "scheduled_time", lambda: at("00:25:00", day=5))
    contact = queued("09:00:00", "c1")
    land(tmp_path / "landing", contact, type(contact)(contact.type, contact.time, contact.payload, tenant_id="other"))
    with open_warehouse(load_settings()) as warehouse:
        load_events(warehouse, run_id="r")
        load_wfm_intervals_incremental(warehouse, end=at("00:15:00", day=5), run_id="r")
    return shown


def test_what_is_new_is_exported_once_and_what_is_asked_for_again(shown: Shown, tmp_path: Path) -> None:
    row = {
        "vendor": "genesys",
        "day": "1999-01-04",
        "queue rows": 96,
        "agent rows": 0,
        "files": "SHA256SUMS, agent-intervals.csv, queue-intervals.csv",
    }
    with disable_run_logger():
        assert export_wfm.fn(tenant="bank-north") == 3  # one tenant only: the next run does not go on from there
        assert shown.tables["export-wfm"] == [{**row, "tenant": "bank-north"}]
        assert export_wfm.fn() == 3
        assert shown.tables["export-wfm"] == [
            {**row, "tenant": "other"},
            {**row, "tenant": "bank-north", "files": "unchanged"},
        ]
        assert export_wfm.fn(start=date(1999, 1, 4), end=date(1999, 1, 5), formats=["parquet"]) == 6
        with pytest.raises(ConfigurationError, match="both start and end"):
            export_wfm.fn(start=date(1999, 1, 4))
        with pytest.raises(ConfigurationError, match="no 'bank-nroth'; there are genesys/bank-north"):
            export_wfm.fn(tenant="bank-nroth")
    assert len([path for path in (tmp_path / "files").rglob("*-intervals.*") if path.is_file()]) == 8


def test_a_load_whose_pictures_fail_is_a_good_load(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[LoadResult] = []

    def refuse(*_: object) -> None:
        msg = "the server does not take it"
        raise RuntimeError(msg)

    for name, value in {
        "run_id": lambda: "r",
        "scheduled_time": lambda: at("00:25:00", day=5),
        "show_result": results.append,
        "show_picture": refuse,
    }.items():
        monkeypatch.setattr(intervals_module, name, value)
    with disable_run_logger():
        assert load_wfm_intervals.fn(start=at("00:00:00"), end=at("00:00:00", day=5)) == 2
    assert [(result.dataset, result.rows) for result in results] == [("wfm_intervals", 2)]


def test_pictures_are_shown(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: dict[str, bytes] = {}
    monkeypatch.setattr(pictures_module, "show_picture", lambda key, png, _: pictures.update({key: png}))
    with disable_run_logger():
        operations_pictures.fn(tenant="bank-north")
        with pytest.raises(ConfigurationError, match="no 'bank-nroth'"):
            operations_pictures.fn(tenant="bank-nroth")
    assert set(pictures) == {"contacts-by-weekday-and-hour", "late-arrivals"}
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
