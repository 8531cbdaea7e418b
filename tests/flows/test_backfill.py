"""The flow around a backfill: parameters, artifacts and the error at the end, without a Prefect server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.logging import disable_run_logger

import flows._load as shared
import flows.backfill as module
import flows.coverage as shown_by
from flows.backfill import backfill
from streaming.settings import load_settings
from tests.warehouse.events import assigned, at, handled, land, queued
from warehouse import quality
from warehouse.backfill import BackfillFailedError
from warehouse.engine import Warehouse
from warehouse.errors import QualityError, WarehouseBusyError, WindowError
from warehouse.windows import Window


def test_a_window_is_loaded_and_shown_also_if_a_chunk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "ccaas.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n')
    monkeypatch.setenv("CCAAS_CONFIG", str(config))
    tables: dict[str, list[dict[str, Any]]] = {}
    pictures: dict[str, bytes] = {}
    done: list[float] = []
    monkeypatch.setattr(module, "run_id", lambda: "run")
    monkeypatch.setattr(module, "scheduled_time", lambda: at("12:00:00", day=5))
    monkeypatch.setattr(module, "show_table", tables.__setitem__)
    monkeypatch.setattr(shown_by, "show_table", tables.__setitem__)
    monkeypatch.setattr(shown_by, "scheduled_time", lambda: at("12:00:00", day=5))
    monkeypatch.setattr(shown_by, "show_picture", lambda key, png, _: pictures.update({key: png}))
    monkeypatch.setattr(shared, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(shared, "update_progress_artifact", lambda _, progress: done.append(progress))
    warehouse = Warehouse.from_settings(load_settings())
    call = [queued("09:00:00", "c1"), assigned("09:00:30", "c1"), handled("09:03:00", "c1", talk_ms=150_000)]
    land(warehouse.landing_dir, *call)
    start, end = at("00:00:00"), at("12:00:00", day=5)

    with disable_run_logger():
        with pytest.raises(WindowError, match="into the future"):
            backfill.fn(start, end + timedelta(hours=1))
        assert not warehouse.database or not tables, "nothing was loaded"
        rows = backfill.fn(start, end)
    assert (rows["events"], rows["conversations"]) == (3, 1)
    assert rows["wfm_intervals"]
    assert rows["daily_analytics"]
    assert rows["metadata_field_usage"]
    assert done[-1] == 100
    assert [(row["dataset"], row["loaded"]) for row in tables["backfill"]][:2] == [("events", 2), ("conversations", 2)]
    assert {(row["state"], row["from"], row["to"]) for row in tables["coverage-days"]} == {
        ("loaded", "1999-01-04 00:00Z", "1999-01-05 12:00Z")
    }
    assert pictures["coverage"].startswith(b"\x89PNG")

    def breach(_connection: object, dataset: str, **_: object) -> None:
        if dataset == "conversations":
            msg = "1 breach"
            raise QualityError(msg, rule="r")

    monkeypatch.setattr(quality, "check", breach)
    message = r"2 of 2 chunks.*only_missing and loaded_since=2.*conversations .*: 1 breach"
    with disable_run_logger(), pytest.raises(BackfillFailedError, match=message):
        backfill.fn(start, end, "conversations", only_missing=False)
    assert ("conversations", "failed") in {(row["dataset"], row["state"]) for row in tables["coverage-days"]}
    assert shown_by.coverage.fn(days=2) == {"loaded": 4, "partly": 0, "failed": 1, "missing": 5}

    # The ledger can't be read any more after the first dataset: what was done before is shown, and the error raised.
    def busy(_warehouse: Warehouse, _order: object, dataset: str) -> set[Window]:
        if dataset == "events":
            return set()
        msg = "busy"
        raise WarehouseBusyError(msg)

    monkeypatch.setattr("warehouse.backfill._covered", busy)
    monkeypatch.setattr(module, "retry_while_down", lambda work: work)
    with disable_run_logger(), pytest.raises(WarehouseBusyError):
        backfill.fn(start, end)
    assert [(row["dataset"], row["chunks"]) for row in tables["backfill"]] == [("events", 2)]
