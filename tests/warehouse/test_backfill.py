"""Backfills over a lost window: whole, interrupted, with failures, twice at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
import sqlalchemy as sa
from filelock import FileLock
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from streaming.errors import ConfigurationError
from tests.warehouse.events import assigned, at, everything, handled, land, queued, status, table
from warehouse import quality, tables
from warehouse.backfill import Backfill, ChunkResult, Outcome, chunk_length, failure_of, run_backfill
from warehouse.coverage import DATASETS
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError, WarehouseBusyError, WarehouseDownError
from warehouse.field_usage import count_field_usage
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.windows import Window

# What does not depend on the engine.
ON_ONE = pytest.mark.parametrize("engine", ["duckdb"])

NOW = at("00:00:00", day=20)
LOST = Window(at("00:00:00", day=5), at("00:00:00", day=7))
DAYS = Window(at("00:00:00", day=4), at("00:00:00", day=8))


def _load_all(warehouse: Warehouse, *datasets: str) -> None:
    """Four days by arrival: events, and of what is made of them all or the named."""
    for day in range(4, 8):
        time = at("09:00:00", day=day)
        call = [queued("09:00:00", f"c{day}"), assigned("09:00:30", f"c{day}"), handled("09:03:00", f"c{day}")]
        moved = [replace(event, time=event.time + timedelta(days=day - 4)) for event in call]
        land(warehouse.landing_dir, *moved, status(time, "ANNA", "IDLE"))
    load_events(warehouse, run_id="r")
    wanted = datasets or DATASETS
    if "conversations" in wanted:
        load_conversations(warehouse, run_id="r")
    if "wfm_intervals" in wanted:
        load_wfm_intervals_incremental(warehouse, end=DAYS.end, run_id="r")
    if "daily_analytics" in wanted:
        load_daily_analytics(warehouse, run_id="r")
    if "metadata_field_usage" in wanted:
        count_field_usage(warehouse, run_id="r")


def _all(warehouse: Warehouse) -> dict[str, list[Any]]:
    """What every dataset holds."""
    found: dict[str, list[Any]] = dict(everything(warehouse))
    with writer(warehouse) as connection:
        for name in ("daily_analytics", "metadata_field_usage", "event_type_days"):
            rows = connection.execute(sa.select(tables.metadata.tables[name])).all()
            found[name] = sorted(map(repr, rows))
    return found


def _lose(warehouse: Warehouse) -> None:
    """Somebody deletes some days of all tables, not knowing of the ledger."""
    with writer(warehouse) as connection, connection.begin():
        for name, column in (
            ("events", "timestamp"), ("conversations", "first_event_at"), ("queue_intervals", "interval_start"),
            ("agent_intervals", "interval_start"), ("daily_analytics", "day"), ("metadata_field_usage", "day"),
            ("event_type_days", "day"),
        ):  # fmt: skip
            statement = sa.text(f"DELETE FROM {name} WHERE {column} >= :start AND {column} < :end")
            connection.execute(statement, {"start": LOST.start, "end": LOST.end})


def _run(warehouse: Warehouse, **wanted: object) -> list[ChunkResult]:
    order = Backfill(**{"window": LOST, **wanted})  # type: ignore[arg-type]
    return list(run_backfill(warehouse, order, run_id="b", now=NOW))


def _told(results: list[ChunkResult]) -> list[tuple[str, int, str]]:
    return [(result.dataset, result.window.start.day, result.outcome) for result in results]


def test_lost_days_come_back_and_are_left_alone_afterwards(warehouse: Warehouse) -> None:
    _load_all(warehouse)
    before = _all(warehouse)
    _lose(warehouse)
    # The ledger knows that no event is left of these days, and nothing of what else was lost with them.
    assert _told(_run(warehouse, datasets=("events",))) == [("events", day, "loaded") for day in (5, 6)]
    results = _run(warehouse)
    assert _told(results) == [("events", day, "covered before") for day in (5, 6)] + [
        (dataset, day, "loaded") for dataset in DATASETS[1:] for day in (5, 6)
    ], "events came below what is made of them"
    assert _all(warehouse) == before
    ledger = table(warehouse, "load_runs")
    assert failure_of(results) is None
    assert {result.outcome for result in _run(warehouse)} == {Outcome.COVERED}
    assert table(warehouse, "load_runs") == ledger, "nothing was loaded"
    # Lost again: now loads by window cover these days, and the ledger does not know.
    _lose(warehouse)
    assert {result.outcome for result in _run(warehouse)} == {Outcome.COVERED}
    again = _run(warehouse, only_missing=False, chunk=timedelta(hours=36))
    assert [result.outcome for result in again] == ["loaded"] * 2 * len(DATASETS)
    assert _all(warehouse) == before


def test_a_forced_backfill_that_breaks_off_is_gone_on_with(warehouse: Warehouse) -> None:
    _load_all(warehouse)
    before = _all(warehouse)
    assert {result.outcome for result in _run(warehouse, only_missing=False)} == {Outcome.LOADED}
    _lose(warehouse)
    began = datetime.now(UTC)
    forced = Backfill(LOST, only_missing=False)
    assert len(list(islice(run_backfill(warehouse, forced, run_id="b", now=NOW), 3))) == 3  # then it is killed
    results = _run(warehouse, loaded_since=began)
    assert [result.outcome for result in results] == ["covered before"] * 3 + ["loaded"] * 7
    assert _all(warehouse) == before
    assert {result.outcome for result in _run(warehouse, loaded_since=began)} == {Outcome.COVERED}
    error = failure_of([replace(results[0], outcome=Outcome.NOT_TRIED)], began)
    assert f"again with only_missing and loaded_since={began.isoformat()}: events" in str(error)


def test_an_interrupted_backfill_goes_on_with_what_is_missing(warehouse: Warehouse) -> None:
    _load_all(warehouse, "events")
    before = table(warehouse, "events")
    _lose(warehouse)
    order = Backfill(LOST, ("events",))
    (first,) = islice(run_backfill(warehouse, order, run_id="b", now=NOW), 1)
    assert first.outcome is Outcome.LOADED
    assert [result.outcome for result in _run(warehouse, datasets=("events",))] == ["covered before", "loaded"]
    assert table(warehouse, "events") == before


@ON_ONE
def test_a_window_of_events_killed_between_batches_is_not_covered(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load_all(warehouse, "events")
    _lose(warehouse)
    check = quality.check

    def killed_in_the_second(connection: sa.Connection, dataset: str, **values: object) -> None:
        check(connection, dataset, **values)
        if connection.execute(sa.text("SELECT count(*) FROM load_runs WHERE run_id = 'b'")).scalar_one():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("warehouse.quality.check", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            load_events_window(warehouse, LOST, run_id="b", batch_rows=4)
    assert {result.outcome for result in _run(warehouse, datasets=("events",))} == {Outcome.LOADED}


@ON_ONE
def test_a_chunk_that_fails_harms_no_other_and_is_loaded_by_the_next_run(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load_all(warehouse, "wfm_intervals")
    before = _all(warehouse)
    check = quality.check

    def breach(connection: sa.Connection, dataset: str, **values: object) -> None:
        check(connection, dataset, **values)
        if dataset == "wfm_intervals" and values["low"] == LOST.start:
            msg = "2 breaches"
            raise QualityError(msg, rule="r")

    monkeypatch.setattr("warehouse.quality.check", breach)
    results = _run(warehouse, datasets=("wfm_intervals",), only_missing=False)
    assert _told(results) == [("wfm_intervals", 5, "failed"), ("wfm_intervals", 6, "loaded")]
    assert _all(warehouse) == before, "what was there stays"
    error = str(failure_of(results))
    assert "1 of 2 chunks" in error
    assert "wfm_intervals [1999-01-05T00:00:00Z, 1999-01-06T00:00:00Z): 2 breaches" in error
    monkeypatch.undo()
    results = _run(warehouse, datasets=("wfm_intervals",))
    assert _told(results) == [("wfm_intervals", 5, "loaded"), ("wfm_intervals", 6, "covered before")]


@ON_ONE
def test_a_warehouse_that_is_away_is_not_asked_for_ever(warehouse: Warehouse) -> None:
    asked: list[Window] = []

    def down(work: Callable[..., Any]) -> Callable[..., Any]:
        if work.__name__ == "_covered":
            return work

        def load(_warehouse: Warehouse, window: Window, _run_id: str) -> None:
            asked.append(window)
            msg = "away"
            raise WarehouseDownError(msg)

        return load

    order = Backfill(DAYS)
    results = list(run_backfill(warehouse, order, run_id="b", now=NOW, retrying=down))
    assert len(asked) == 3
    assert [result.outcome for result in results] == ["failed"] * 3 + ["not tried"] * (order.chunks - 3)
    assert "not tried" in str(failure_of(results))


@ON_ONE
def test_a_ledger_that_is_locked_for_a_moment_is_asked_again(warehouse: Warehouse) -> None:
    _load_all(warehouse, "events")
    busy = replace(warehouse, lock_seconds=0.01)
    assert busy.database
    lock = FileLock(busy.database.with_suffix(".lock"))
    lock.acquire()
    order = Backfill(LOST, ("events",))
    with pytest.raises(WarehouseBusyError):
        list(run_backfill(busy, order, run_id="b", now=NOW))
    again = retry(
        retry=retry_if_exception_type(WarehouseBusyError),
        stop=stop_after_attempt(2),
        before_sleep=lambda _state: lock.release(),
    )
    results = list(run_backfill(busy, order, run_id="b", now=NOW, retrying=again))
    assert {result.outcome for result in results} == {Outcome.COVERED}


@ON_ONE
def test_two_backfills_at_once_leave_what_one_leaves(warehouse: Warehouse) -> None:
    _load_all(warehouse, "wfm_intervals")
    before = _all(warehouse)
    _lose(warehouse)
    done: list[list[ChunkResult]] = []
    wanted = {"datasets": ("events", "wfm_intervals"), "only_missing": False, "chunk": timedelta(days=2)}
    threads = [threading.Thread(target=lambda: done.append(_run(warehouse, **wanted))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [{result.outcome for result in results} for results in done] == [{Outcome.LOADED}] * 2
    assert _all(warehouse) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Backfill(Window(at("00:07:00"), at("10:00:00"))), r"start is .*off the grid of 15 min"),
        (
            lambda: Backfill(Window(LOST.start, at("09:15:00", day=20))),
            r"into the future.*20T00:00:00\+00:00 or before",
        ),
        (lambda: Backfill(LOST, chunk=timedelta(0)), "chunk is 0:00:00: give a positive multiple of 15 min"),
        (lambda: Backfill(LOST, chunk=timedelta(minutes=20)), "multiple of 15 min"),
        (
            lambda: Backfill(Window(at("00:00:00").replace(year=1971), DAYS.end), chunk=timedelta(hours=1)),
            "more than 10000 chunks",
        ),
        (lambda: Backfill(Window(LOST.end, LOST.start)), "an end after the start"),
        (lambda: Backfill(LOST, only_missing=False, loaded_since=NOW), "leave only_missing on"),
        (lambda: Backfill(LOST, loaded_since=NOW.replace(tzinfo=None)), "loaded_since is .* without a time zone"),
        (lambda: Backfill(LOST, chunk=chunk_length("0d")), "chunk is '0d'"),
        (lambda: Backfill(LOST, chunk=chunk_length("-1d")), "chunk is '-1d'"),
        (lambda: Backfill(LOST, chunk=chunk_length("a day")), "for example 1d or 6h"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    make: Callable[[], Backfill], message: str, duckdb_warehouse: Warehouse
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run_backfill(duckdb_warehouse, make(), run_id="b", now=NOW)
    assert chunk_length(" 36h") == timedelta(hours=36)


@pytest.fixture
def duckdb_warehouse(tmp_path: object) -> Warehouse:
    """Never opened."""
    return Warehouse(url=f"duckdb:///{tmp_path}/none.duckdb", landing_dir=tmp_path)  # type: ignore[arg-type]
