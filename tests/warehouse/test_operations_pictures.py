"""Service level, occupancy, contacts by weekday and hour, delays: the numbers, and that the pictures show them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from schemas.canonical import EventType
from streaming.instants import to_ms
from tests.warehouse.events import Event, assigned, at, land, queued, status
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.heat_map import heat_map_png, last_weeks, number_text, weekday_hours
from warehouse.late_arrivals import Arrivals, arrivals, draw_arrivals, duration_text, late_arrivals_png
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.pictures import bucket_of
from warehouse.service_picture import occupancy_png, service_level_png
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))
NONE = Window(at("00:00:00", day=20), at("00:00:00", day=21))
BLUE, AMBER, RED = (0x1F, 0x5F, 0x8B), (0xE0, 0xA4, 0x58), (0xC8, 0x55, 0x3D)


@dataclass(frozen=True)
class Late(Event):
    """Published so long after its time."""

    delay_ms: int = 0

    def row(self) -> dict[str, Any]:
        return {**super().row(), "_published_at": to_ms(self.time) + self.delay_ms, "vendor": self.vendor}


def pixels(png: bytes, colour: tuple[int, int, int]) -> int:
    image = imread(io.BytesIO(png))
    return int((np.abs(image[120:, :, :3] * 255 - colour).max(axis=2) < 2).sum())


def height(png: bytes) -> int:
    return int(imread(io.BytesIO(png)).shape[0])


def test_service_level_and_occupancy(warehouse: Warehouse) -> None:
    # Nine queues: the busiest, with all answers in time, one that never is, and seven with one answer each.
    events = [assigned(f"09:{minute:02}:00", f"b{minute}", queue="BUSY", wait_ms=1_000) for minute in range(12)]
    events += [assigned(f"09:{minute:02}:30", f"s{minute}", queue="SLOW", wait_ms=90_000) for minute in range(10)]
    events += [assigned("12:00:00", f"q{number}", queue=f"Q{number}", wait_ms=0) for number in range(7)]
    events += [
        status("09:00:00", "ANNA", "INTERACTING"),
        status("09:30:00", "ANNA", "IDLE"),
        status("11:00:00", "ANNA", "OFF_QUEUE"),
    ]
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_wfm_intervals(warehouse, DAY, run_id="r")
    publish_read_copy(warehouse, force=True)

    with reader(warehouse) as connection:
        full, nothing = (
            service_level_png(connection, window, interval_minutes=15, threshold_seconds=20, goal=0.5)
            for window in (DAY, NONE)
        )
        occupied, unmanned = (occupancy_png(connection, window, interval_minutes=15) for window in (DAY, NONE))
    # All queues, six by themselves, the other three together; without any there is room for the sentence.
    assert height(full) - height(nothing) == pytest.approx(6 * 0.95 * 130, abs=1)
    assert pixels(full, BLUE) > 500  # over all, 12 of 22 are in time, and all of the busiest
    assert 0 < pixels(full, AMBER) < 500  # slivers of the slow one
    assert pixels(nothing, BLUE) == pixels(nothing, AMBER) == 0
    # Two intervals full, six slivers of an agent who waits.
    assert pixels(occupied, BLUE) > 5_000
    assert pixels(occupied, AMBER) == pixels(unmanned, BLUE) == 0


def test_bars_are_as_wide_as_the_window_asks_for() -> None:
    start = at("00:00:00")
    widths = [bucket_of(Window(start, start + timedelta(days=days)), 15) for days in (1, 2, 7, 31, 1000)]
    assert widths == [timedelta(minutes=15), timedelta(minutes=15), timedelta(hours=1), timedelta(1), timedelta(7)]


def test_contacts_by_weekday_and_hour(warehouse: Warehouse) -> None:
    # Monday the 4th: 3 at ten, Monday the 11th: 1. Sunday the 10th: 2 in its last minute. Nothing is known before.
    land(
        warehouse.landing_dir,
        *(queued("10:30:00", f"a{number}") for number in range(3)),
        Event(EventType.QUEUED, at("10:59:59", day=11), {"queue_id": "PS", "conversation_id": "b"}),
        *(
            Event(EventType.QUEUED, at("23:59:59", day=10), {"queue_id": "PS", "conversation_id": f"c{number}"})
            for number in range(2)
        ),
    )
    load_events(warehouse, run_id="r")
    weeks = last_weeks(at("15:00:00", day=14), 4)
    load_wfm_intervals(warehouse, weeks, run_id="r")
    publish_read_copy(warehouse, force=True)
    assert weeks == Window(datetime(1998, 12, 17, tzinfo=UTC), at("00:00:00", day=14))
    with reader(warehouse) as connection:
        cells = weekday_hours(connection, weeks)
        full, nothing = heat_map_png(connection, weeks), heat_map_png(connection, weeks, tenant_id="nobody")
        monday_only = weekday_hours(connection, DAY)
    found = {(day, hour): value for day, row in enumerate(cells) for hour, value in enumerate(row) if value}
    assert found == {(0, 10): 2.0, (6, 23): 2.0}
    assert cells[2][10] == 0  # a Wednesday without contacts counts
    assert monday_only[0][10] == 3
    assert monday_only[1][10] is None  # there is no Tuesday in the window
    assert pixels(full, (0x0B, 0x3C, 0x5D)) > 1_000  # the darkest
    assert pixels(nothing, (0x0B, 0x3C, 0x5D)) == 0
    assert [number_text(value) for value in (0, 0.4, 9.96, 63.2, 1234, 12_345)] == [
        "0",
        "0.4",
        "10",
        "63",
        "1.2k",
        "12k",
    ]


def test_how_late_events_arrive(warehouse: Warehouse) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    quick = [
        Late(EventType.QUEUED, at(f"09:0{number}:00"), {"conversation_id": f"c{number}", "queue_id": "PS"}, delay_ms=80)
        for number in range(7)
    ]
    early = Late(EventType.STARTED, at("09:10:00"), {"conversation_id": "e"}, delay_ms=-5)
    land(warehouse.landing_dir, *quick, early)
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=at("09:15:00"), run_id="r")
    late = Late(EventType.STARTED, at("09:11:00"), {"conversation_id": "l"}, vendor="cxone", delay_ms=7_200_000)
    in_time = Late(EventType.STARTED, at("09:16:00"), {"conversation_id": "i"}, delay_ms=1_500)
    land(warehouse.landing_dir, late, in_time)
    load_events(warehouse, run_id="r")
    load_events_window(warehouse, Window(at("09:00:00"), at("09:05:00")), run_id="r")  # five again: no arrivals
    publish_read_copy(warehouse, force=True)
    now = Window(began, datetime.now(UTC) + timedelta(seconds=1))
    with reader(warehouse) as connection:
        found = arrivals(connection, now)
        none = Window(began - timedelta(days=2), began)
        assert arrivals(connection, none) == Arrivals()
        full, nothing = late_arrivals_png(connection, now), late_arrivals_png(connection, none)
    assert found.counts == {"genesys": Counter({0: 1, 100: 2, 2_000: 1}), "cxone": Counter({21_600_000: 1})}
    assert found.behind == 1  # the late one; its interval was built
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (80, 7_200_000, 7_200_000)
    assert pixels(full, BLUE) > 5_000
    assert pixels(nothing, BLUE) == 0


def test_further_vendors_share_a_colour() -> None:
    counts = {f"vendor{number}": Counter[int | None]({100: 10 - number}) for number in range(7)}
    drawn = draw_arrivals(Arrivals(counts, 0, 1, 1, 1), DAY)
    assert pixels(drawn, RED) > 500  # the fifth colour, of the others
    assert [duration_text(ms) for ms in (-5, 45, 1_500, 180_000, 5_400_000, 129_600_000)] == [
        "-5 ms",
        "45 ms",
        "1.5 s",
        "3 min",
        "1.5 h",
        "1.5 d",
    ]
