from __future__ import annotations

import io
from collections import Counter
from datetime import timedelta

from matplotlib.image import imread

from tests.warehouse.events import abandoned, assigned, at, handled, land, queued
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.failures import draw_failures
from warehouse.heat_map import Cells, draw_heat_map
from warehouse.interval_panels import Bar, Panel, panels_png
from warehouse.late_arrivals import Arrivals, draw_arrivals
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.pictures import IntervalCounts, draw_counts, interval_counts, offered_answered_png, queue_summaries
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))


# What matplotlib would read as a formula, a wrong one.
ODD = r"$\frac$ _{"


def _load(warehouse: Warehouse) -> None:
    land(
        warehouse.landing_dir,
        queued("09:00:00", "c1"),
        assigned("09:00:30", "c1", wait_ms=30_000),
        handled("09:02:00", "c1", talk_ms=90_000),
        queued("09:20:00", "c2", queue="WEB"),
        abandoned("09:21:00", "c2", queue="WEB", wait_ms=60_000),
    )
    load_events(warehouse, run_id="r")
    load_wfm_intervals(warehouse, DAY, run_id="r")
    publish_read_copy(warehouse, force=True)


def test_counts_are_of_the_chosen_queues(warehouse: Warehouse) -> None:
    _load(warehouse)
    with reader(warehouse) as connection:
        assert interval_counts(connection, DAY) == [
            IntervalCounts(at("09:00:00"), 15, 1, 1, 0),
            IntervalCounts(at("09:15:00"), 15, 1, 0, 1),
        ]
        assert interval_counts(connection, DAY, tenant_id="bank-north", queue_id="PS") == [
            IntervalCounts(at("09:00:00"), 15, 1, 1, 0)
        ]
        assert interval_counts(connection, DAY, tenant_id="bank-south") == []


def test_the_picture_shows_the_counts(warehouse: Warehouse) -> None:
    _load(warehouse)
    with reader(warehouse) as connection:
        full = imread(io.BytesIO(offered_answered_png(connection, DAY)))
        nothing = imread(io.BytesIO(offered_answered_png(connection, DAY, tenant_id="nobody")))
    assert full.shape == nothing.shape == (598, 1430, 4)
    red = (full[..., 0] > 0.7) & (full[..., 1] < 0.4)  # the colour of abandons
    assert red[300:].sum() > 1000
    assert not ((nothing[..., 0] > 0.7) & (nothing[..., 1] < 0.4)).any()


def test_a_long_window_has_bars_of_days(warehouse: Warehouse) -> None:
    _load(warehouse)
    with reader(warehouse) as connection:
        counts = interval_counts(connection, DAY)
    weeks = Window(at("00:00:00"), at("00:00:00", day=31))
    day = [IntervalCounts(at("00:00:00"), 24 * 60, 2, 1, 1)]
    assert draw_counts(counts, weeks, "all") == draw_counts(day, weeks, "all") != draw_counts(counts, DAY, "all")


def test_ids_are_shown_as_they_are() -> None:
    counts = [IntervalCounts(at("00:00:00"), 15, 2, 1, 1)]
    panel = Panel(ODD, ODD, [Bar(at("09:00:00"), 0.5, little=False)])
    failures = {ODD: {at("09:00:00"): 1}}
    arrivals = Arrivals({ODD: Counter({100: 1})}, 0, 1, 1, 1)
    cells: Cells = [[1.0] * 24] * 7
    pictures = (
        draw_counts(counts, DAY, ODD),
        panels_png([panel], DAY, timedelta(hours=1), title=ODD, subtitle=ODD, little=ODD),
        draw_failures(failures, DAY),
        draw_arrivals(arrivals, DAY),
        draw_heat_map(cells, DAY, ODD),
    )
    assert all(png.startswith(b"\x89PNG") for png in pictures)


def test_sums_and_rates_of_each_queue(warehouse: Warehouse) -> None:
    _load(warehouse)
    with reader(warehouse) as connection:
        first, second = queue_summaries(connection, DAY)
        assert (first.queue_id, first.offered, first.answered, first.abandoned) == ("PS", 1, 1, 0)
        assert (first.service_level, first.asa_ms, first.aht_ms, first.abandon_rate) == (0, 30_000, 90_000, 0)
        assert (second.queue_id, second.offered, second.answered, second.abandoned) == ("WEB", 1, 0, 1)
        assert (second.service_level, second.asa_ms, second.aht_ms, second.abandon_rate) == (None, None, None, 1)
        assert queue_summaries(connection, Window(at("00:00:00"), at("01:00:00"))) == []
