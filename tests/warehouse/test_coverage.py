"""What the ledger says is loaded, against a computation slot by slot."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from matplotlib.image import imread

from streaming.instants import EPOCH, to_ms
from tests.warehouse.events import at, land, queued
from warehouse import tables
from warehouse.coverage import DATASETS, DAY, Span, State, coverage, coverage_of_chunks
from warehouse.coverage_picture import coverage_png
from warehouse.engine import Warehouse, writer
from warehouse.field_usage import count_field_usage
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.windows import Window

SLOT = timedelta(hours=1)
# Off the days on both sides.
WINDOW = Window(at("21:00:00", day=4), at("05:00:00", day=9))

Row = dict[str, Any]


def test_it_agrees_with_a_computation_slot_by_slot(warehouse: Warehouse) -> None:
    seen: set[State] = set()
    for seed in range(8):
        runs, events = _ledger(random.Random(seed))
        with writer(warehouse) as connection, connection.begin():
            for table, rows in ((tables.load_runs, runs), (tables.events, events)):
                connection.execute(sa.delete(table))
                connection.execute(sa.insert(table), rows)
            days, chunks = coverage(connection, WINDOW), coverage_of_chunks(connection, WINDOW, timedelta(hours=7))
        assert [span.window for span in days[:6]] == [
            Window(max(start, WINDOW.start), min(start + DAY, WINDOW.end))
            for start in (at("00:00:00", day=day) for day in range(4, 10))
        ]
        assert [span.window for span in chunks if span.dataset == "events"] == list(WINDOW.chunks(timedelta(hours=7)))
        for span in (*days, *chunks):
            assert span.state is _expected(span, runs, events), (seed, span)
        seen |= {span.state for span in days}
    assert seen == set(State), "the ledgers are too tame to show anything"


def test_days_by_arrival_by_window_and_with_late_events(warehouse: Warehouse) -> None:
    week = Window(at("00:00:00", day=4), at("00:00:00", day=7))

    def states(dataset: str) -> list[str]:
        with writer(warehouse) as connection:
            return [span.state for span in coverage(connection, week) if span.dataset == dataset]

    assert {state for dataset in DATASETS for state in states(dataset)} == {"missing"}
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=at("12:00:00", day=5), run_id="r")
    for dataset in ("events", "conversations", "metadata_field_usage"):
        assert states(dataset) == ["loaded", "missing", "missing"], dataset
    assert states("wfm_intervals") == ["loaded", "partly", "missing"]

    land(warehouse.landing_dir, queued("10:00:00", "c2"))
    load_events(warehouse, run_id="r")
    assert states("events") == ["loaded", "missing", "missing"]
    assert states("conversations") == ["partly", "missing", "missing"], "the late event is in no conversation yet"
    assert states("wfm_intervals") == ["partly", "partly", "missing"]
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals(warehouse, Window(week.start, at("00:00:00", day=6)), run_id="r")
    load_events_window(warehouse, Window(at("00:00:00", day=5), week.end), run_id="r")
    assert states("conversations") == ["loaded", "missing", "missing"]
    assert states("wfm_intervals") == ["loaded", "loaded", "missing"]
    assert states("events") == ["loaded", "loaded", "loaded"], "a day without an event is loaded once somebody looked"


def test_days_without_events_that_conversations_have_not_taken_account_of_are_not_loaded(warehouse: Warehouse) -> None:
    day = Window(at("00:00:00", day=4), at("00:00:00", day=5))

    def states() -> dict[str, str]:
        with writer(warehouse) as connection:
            found = {span.dataset: str(span.state) for span in coverage(connection, day)}
        return {dataset: found[dataset] for dataset in ("conversations", "daily_analytics")}

    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    land(warehouse.landing_dir, queued("10:00:00", "c2"))
    load_events(warehouse, run_id="r")
    for window in (None, day):
        load_daily_analytics(warehouse, window, run_id="r")
        assert states() == {"conversations": "partly", "daily_analytics": "partly"}
    load_conversations(warehouse, day, run_id="r")
    assert states() == {"conversations": "loaded", "daily_analytics": "partly"}
    load_daily_analytics(warehouse, day, run_id="r")
    assert states() == {"conversations": "loaded", "daily_analytics": "loaded"}


def test_the_picture_shows_every_state() -> None:
    window = Window(at("00:00:00", day=4), at("00:00:00", day=8))
    states = list(State)
    spans = [Span(dataset, day, states[i % 4]) for dataset in DATASETS for i, day in enumerate(window.chunks(DAY))]
    image = imread(io.BytesIO(coverage_png(spans, window)))
    assert image.shape[1] == 1430
    colours = {tuple(pixel) for pixel in (image[..., :3] * 255).round().astype(int).reshape(-1, 3).tolist()}
    assert {(0x1F, 0x5F, 0x8B), (0xE0, 0xA4, 0x58), (0xC8, 0x55, 0x3D)} <= colours


def _ledger(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """A history of loads of 4 to 9 January, of events too: each of their days, or part of one, by one load."""
    runs: list[Row] = []
    events: list[Row] = []
    horizon = EPOCH
    for load_id in range(1, rng.randrange(4, 40)):
        dataset = rng.choice(DATASETS)
        kind = rng.choice(["arrival", "window"])
        status = "failed" if rng.random() < 0.3 else "succeeded"
        start = at("00:00:00", day=3) + rng.randrange(0, 130) * SLOT
        end: datetime | None = start + rng.randrange(1, 60) * SLOT
        if kind == "arrival":
            if dataset == "wfm_intervals":
                start, end = horizon, max(horizon, start)
                horizon = end if status == "succeeded" else horizon
            else:
                start = end = None  # type: ignore[assignment]
        # Of conversations: events up to this load; daily analytics may be behind it.
        through = max(0, load_id - rng.randrange(1, 4)) if kind == "arrival" and dataset != "events" else None
        runs.append(
            {
                "load_id": load_id,
                "dataset": dataset,
                "kind": kind,
                "window_start": start,
                "window_end": end,
                "status": status,
                "rows": 0,
                "through_load_id": through,
                "run_id": "r",
                "error": None,
                "started_at": EPOCH,
                "finished_at": EPOCH,
            }
        )
        if dataset == "events" and status == "succeeded":
            first = start or at("00:00:00", day=3) + rng.randrange(0, 140) * SLOT
            events += [_event(load_id, number, first + number * SLOT) for number in range(rng.randrange(1, 3))]
    return runs, events or [_event(1, 0, at("00:00:00", day=20))]


def _event(load_id: int, number: int, time: datetime) -> Row:
    row: Row = dict.fromkeys(tables.events.c.keys())
    texts = dict.fromkeys(("vendor", "tenant_id", "event_type", "payload", "metadata", "topic"), "x")
    where = {"event_id": f"{load_id}-{number}", "timestamp": time, "timestamp_ms": to_ms(time)}
    return row | texts | where | {"partition": 0, "offset": 0, "load_id": load_id}


def _expected(span: Span, runs: Sequence[Row], events: Sequence[Row]) -> State:
    slots = [slot.start for slot in span.window.chunks(SLOT)]
    told = [_of_slot(span.dataset, slot, runs, events) for slot in slots]
    if State.FAILED in told:
        return State.FAILED
    if set(told) == {State.MISSING}:
        return State.MISSING
    return State.LOADED if set(told) == {State.LOADED} else State.PARTLY


def _of_slot(dataset: str, slot: datetime, runs: Sequence[Row], events: Sequence[Row]) -> State:
    on_day = [event["load_id"] for event in events if event["timestamp"].date() == slot.date()]
    own = [run for run in runs if run["dataset"] == dataset]
    good = [run for run in own if run["status"] == "succeeded"]
    tries = _tries(dataset, slot, own, on_day)
    if not tries:
        return State.MISSING
    if not tries[max(tries)]:
        return State.FAILED
    arrivals = [run for run in good if run["kind"] == "arrival"]
    through = max((run["through_load_id"] or 0 for run in arrivals), default=0)
    if dataset == "wfm_intervals" and slot >= max((run["window_end"] for run in arrivals), default=EPOCH):
        through = 0
    is_fresh = dataset == "events" or max(on_day, default=0) < max(tries) or max(on_day) <= through
    if dataset == "daily_analytics":
        others = [run for run in runs if run["dataset"] == "conversations"]
        inside = _inside_conversations(slot, others, before=max(tries))
        is_fresh = max(on_day, default=0) <= max(inside, through)
        day = slot.replace(hour=0)
        below = [_tries("conversations", day + number * SLOT, others, on_day) for number in range(24)]
        is_fresh &= max((load for hour in below for load, is_good in hour.items() if is_good), default=0) < max(tries)
    return State.LOADED if is_fresh else State.PARTLY


def _inside_conversations(slot: datetime, runs: Sequence[Row], *, before: int) -> int:
    """The greatest load of events that conversations of the slot held when the load ``before`` read them."""
    inside = 0
    for run in runs:
        if run["load_id"] > before or run["status"] != "succeeded":
            continue
        if run["kind"] == "arrival":
            inside = max(inside, run["through_load_id"])
        elif run["window_start"] <= slot < run["window_end"]:
            inside = max(inside, run["load_id"] - 1)
    return inside


def _tries(dataset: str, slot: datetime, own: Sequence[Row], on_day: Sequence[int]) -> dict[int, bool]:
    """Loads of the dataset that were to cover the slot, and whether they did."""
    by_arrival = [run for run in own if run["kind"] == "arrival" and run["status"] == "succeeded"]
    tries: dict[int, bool] = {
        run["load_id"]: run["status"] == "succeeded"
        for run in own
        if run["window_start"] is not None and run["window_start"] <= slot < run["window_end"]
    }
    if dataset == "events":
        took = [run["load_id"] for run in by_arrival if run["load_id"] in on_day]
    elif dataset == "wfm_intervals" or not on_day:
        took = []
    else:
        took = [run["load_id"] for run in by_arrival if run["through_load_id"] >= min(on_day)]
    return tries | dict.fromkeys(took[:1], True)
