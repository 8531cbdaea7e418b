from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from schemas.canonical import EventType
from tests.warehouse.events import (
    Event,
    abandoned,
    agent_cells,
    assigned,
    at,
    event,
    everything,
    handled,
    land,
    numbered,
    queue_cells,
    queued,
    status,
    table,
    wrapup,
)
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError, WindowError
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))


def load(warehouse: Warehouse, *events: Event, window: Window = DAY) -> None:
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_wfm_intervals(warehouse, window, run_id="r")


def test_each_metric_falls_where_it_completes(warehouse: Warehouse) -> None:
    load(
        warehouse,
        queued("09:14:50", "c1"),
        assigned("09:15:05", "c1", wait_ms=15_000),
        handled("09:31:00", "c1", talk_ms=900_000, hold_ms=55_000),
        queued("09:14:59", "c2"),
        abandoned("09:16:00", "c2", wait_ms=61_000),
        queued("09:14:59", "c3"),
        event(EventType.FLOWED_OUT, "09:15:00", "c3", queue="PS", wait_ms=1000),
        event(EventType.STARTED, "09:20:00", "c4", media="VOICE"),
        event(EventType.ENDED, "09:21:00", "c4", media="VOICE"),
    )

    assert queue_cells(warehouse) == {
        ("PS", "09:00"): {"offered": 3},
        ("PS", "09:15"): {
            "answered": 1,
            "answered_in_threshold": 1,
            "wait_answered_ms": 15_000,
            "abandoned": 1,
            "wait_abandoned_ms": 61_000,
            "flowed_out": 1,
        },
        ("PS", "09:30"): {"handled": 1, "talk_ms": 900_000, "hold_ms": 55_000},
    }


def test_a_leg_is_handled_where_its_wrapup_ends(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("08:00:00", "ANNA", "OFF_QUEUE"),
        handled("09:14:00", "c1", talk_ms=60_000),
        wrapup("09:16:00", "c1", acw_ms=120_000),
        handled("09:14:30", "c2", talk_ms=1_000),
        wrapup("09:14:30", "c2", agent="BERT", acw_ms=7),  # another agent's: no match
        wrapup("09:14:20", "c2", acw_ms=8),  # before the leg: no match
    )

    assert queue_cells(warehouse) == {
        ("PS", "09:00"): {"handled": 1, "talk_ms": 1_000},
        ("PS", "09:15"): {"handled": 1, "talk_ms": 60_000, "acw_ms": 120_000},
    }
    assert {key: cell["handled"] for key, cell in agent_cells(warehouse).items()} == {
        ("ANNA", "09:00"): 1,
        ("ANNA", "09:15"): 1,
    }


def test_two_legs_of_one_agent_take_the_nearest_wrapup_each(warehouse: Warehouse) -> None:
    load(
        warehouse,
        handled("09:00:00", "c1", talk_ms=1),
        wrapup("09:16:00", "c1", acw_ms=10),
        wrapup("09:17:00", "c1", acw_ms=99),  # a second one of the same leg
        handled("09:31:00", "c1", talk_ms=2),
        wrapup("09:31:00", "c1", acw_ms=20),
        handled("09:46:00", "c1", talk_ms=4),
    )

    assert queue_cells(warehouse) == {
        ("PS", "09:15"): {"handled": 1, "talk_ms": 1, "acw_ms": 10},
        ("PS", "09:30"): {"handled": 1, "talk_ms": 2, "acw_ms": 20},
        ("PS", "09:45"): {"handled": 1, "talk_ms": 4},
    }


def test_a_wait_that_the_vendor_leaves_out_is_derived(warehouse: Warehouse) -> None:
    load(
        warehouse,
        queued("08:59:00", "c1"),
        queued("09:00:00", "c1", queue="NW"),
        queued("09:00:30", "c1"),
        assigned("09:00:50", "c1"),  # the latest entry into PS: 20 s
        queued("08:50:00", "c2"),
        assigned("09:01:00", "c2"),  # entered in an earlier interval: 660 s
        assigned("09:02:00", "c3"),  # never entered: unknown
        queued("09:03:00", "c4"),
        assigned("09:03:10", "c4", wait_ms=-1),  # no measurement: derived, 10 s
        queued("09:04:10", "c5"),
        assigned("09:04:00", "c5"),  # entered after the answer (clocks differ): unknown
    )

    assert queue_cells(warehouse)["PS", "09:00"] == {
        "offered": 3,
        "answered": 5,
        "answered_in_threshold": 2,
        "wait_answered_ms": 20_000 + 660_000 + 10_000,
    }


@pytest.mark.parametrize(("seconds", "within"), [(20, 1), (19, 0)])
def test_the_service_level_is_a_setting(make_warehouse: Callable[..., Warehouse], seconds: int, within: int) -> None:
    warehouse = make_warehouse(service_level_seconds=seconds)
    load(warehouse, assigned("09:00:00", "c1", wait_ms=20_000))
    assert queue_cells(warehouse)["PS", "09:00"].get("answered_in_threshold", 0) == within


def test_a_missing_media_type_is_the_conversations_else_unknown(warehouse: Warehouse) -> None:
    load(
        warehouse,
        event(EventType.STARTED, "08:00:00", "c1", media="CHAT"),
        event(EventType.QUEUED, "09:00:00", "c1", queue="PS"),
        event(EventType.QUEUED, "09:00:00", "c2", queue="PS"),
        event(EventType.ENDED, "10:00:00", "c3", media="EMAIL"),
        event(EventType.QUEUED, "09:00:00", "c3", queue="PS"),
    )
    rows = table(warehouse, "queue_intervals")
    assert [(row["media_type"], row["offered"]) for row in rows] == [("CHAT", 1), ("EMAIL", 1), ("UNKNOWN", 1)]


def test_a_status_is_split_at_the_boundaries(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("08:00:00", "ANNA", "OFF_QUEUE"),
        status("09:10:00", "ANNA", "IDLE"),
        status("09:20:00", "ANNA", "INTERACTING"),
        status("09:46:00", "ANNA", "COMMUNICATING"),
        status("09:50:00", "ANNA", "NOT_RESPONDING"),
        status("09:52:30", "ANNA", "OFF_QUEUE"),
    )

    assert agent_cells(warehouse) == {
        ("ANNA", "09:00"): {"off_queue_ms": 600_000, "idle_ms": 300_000},
        ("ANNA", "09:15"): {"idle_ms": 300_000, "interacting_ms": 600_000},
        ("ANNA", "09:30"): {"interacting_ms": 900_000},
        ("ANNA", "09:45"): {
            "interacting_ms": 60_000,
            "communicating_ms": 240_000,
            "not_responding_ms": 150_000,
            "off_queue_ms": 450_000,
        },
    }


def test_an_open_status_runs_to_the_windows_end(warehouse: Warehouse) -> None:
    load(warehouse, status("09:10:00", "ANNA", "IDLE"), window=Window(at("09:00:00"), at("09:45:00")))
    assert agent_cells(warehouse) == {
        ("ANNA", "09:00"): {"idle_ms": 300_000},
        ("ANNA", "09:15"): {"idle_ms": 900_000},
        ("ANNA", "09:30"): {"idle_ms": 900_000},
    }


def test_agents_time_that_is_not_known_yet_is_in_no_cell(warehouse: Warehouse) -> None:
    land(
        warehouse.landing_dir,
        status("09:10:00", "ANNA", "IDLE"),
        status("09:20:00", "BERT", "OFF_QUEUE"),
        status("09:44:00", "BERT", "IDLE"),  # came while the load was on its way
        queued("09:44:00", "c1"),
    )
    load_events(warehouse, run_id="r")
    load_wfm_intervals(warehouse, DAY, run_id="r")
    assert ("ANNA", "23:45") in agent_cells(warehouse)

    load_wfm_intervals(warehouse, DAY, run_id="r", known_until=at("09:40:00"))

    assert agent_cells(warehouse) == {
        ("ANNA", "09:00"): {"idle_ms": 300_000},
        ("ANNA", "09:15"): {"idle_ms": 900_000},
        ("ANNA", "09:30"): {"idle_ms": 600_000},
    }
    assert queue_cells(warehouse) == {("PS", "09:30"): {"offered": 1}}
    load_wfm_intervals(warehouse, Window(at("09:00:00"), at("09:30:00")), run_id="r", known_until=at("12:00:00"))
    assert len(agent_cells(warehouse)) == 3  # behind the window's end nothing
    with pytest.raises(WindowError, match="known_until is 1999-01-04T10:00:00 without a time zone"):
        load_wfm_intervals(warehouse, DAY, run_id="r", known_until=datetime(1999, 1, 4, 10))  # noqa: DTZ001


def test_a_late_run_keeps_what_was_built_by_arrival_meanwhile(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, status("09:00:00", "ANNA", "IDLE"))
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=at("10:00:00"), run_id="r")
    before = agent_cells(warehouse)
    load_wfm_intervals(warehouse, DAY, run_id="r", known_until=at("09:20:00"))
    assert agent_cells(warehouse) == before


def test_a_status_with_a_wrong_old_date_makes_few_cells(warehouse: Warehouse) -> None:
    """Whether it comes with the first load, by a window or late."""
    end = datetime(2026, 1, 1, tzinfo=UTC)
    land(warehouse.landing_dir, status("09:00:00", "ANNA", "IDLE"))
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=end, run_id="r")
    cells = table(warehouse, "agent_intervals")
    assert [row["idle_ms"] for row in cells] == [900_000] * (168 * 4)
    assert cells[-1]["interval_start"] == at("08:45:00", day=11)
    land(warehouse.landing_dir, status("09:00:00", "BERT", "IDLE"), handled("07:00:00", "c1", agent="BERT"))
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=end, run_id="r")
    late = table(warehouse, "agent_intervals")
    assert [row["agent_id"] for row in late] == ["ANNA"] * 672 + ["BERT"] * 673
    load_wfm_intervals(warehouse, Window(at("00:00:00", day=11), end), run_id="r")
    assert table(warehouse, "agent_intervals") == late


@pytest.mark.parametrize("late", ["IDLE", "OFF_QUEUE"])
def test_a_late_status_changes_also_the_time_after_it_has_run_out(
    make_warehouse: Callable[..., Warehouse], late: str
) -> None:
    """Legs within hours of silence: their cells have time off queue exactly if the status before it was OFF_QUEUE."""
    first = status("08:00:00", "ANNA", "OFF_QUEUE" if late == "IDLE" else "IDLE")
    events = [
        first,
        handled("12:00:00", "c1"),
        handled("13:00:00", "c2", talk_ms=1),
        status("14:05:00", "ANNA", "IDLE"),
        status("14:20:00", "ANNA", "OFF_QUEUE"),
    ]
    missed = status("09:05:00", "ANNA", late)
    stepwise, truth = make_warehouse(longest_status_hours=1), make_warehouse(longest_status_hours=1)
    for batch in (events, [missed]):
        land(stepwise.landing_dir, *batch)
        load_events(stepwise, run_id="r")
        load_wfm_intervals_incremental(stepwise, end=at("15:00:00"), run_id="r")
    load(truth, *events, missed, window=Window(at("00:00:00"), at("15:00:00")))

    assert table(stepwise, "agent_intervals") == table(truth, "agent_intervals")
    off = {clock: cell.get("off_queue_ms", 0) for (_, clock), cell in agent_cells(truth).items()}
    assert (off["12:00"], off["13:00"], off["14:00"]) == ((0, 0, 0) if late == "IDLE" else (900_000, 900_000, 300_000))


def test_an_agent_may_be_off_queue_for_longer(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("09:00:00", "ANNA", "OFF_QUEUE"),
        status(at("09:10:00", day=25), "ANNA", "IDLE"),
        status(at("09:15:00", day=25), "ANNA", "OFF_QUEUE"),
        window=Window(at("00:00:00"), at("00:00:00", day=26)),
    )
    assert agent_cells(warehouse) == {("ANNA", "09:00"): {"off_queue_ms": 600_000, "idle_ms": 300_000}}


def test_a_status_from_before_the_window_counts(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("07:00:00", "ANNA", "OFF_QUEUE"),
        status("08:00:00", "ANNA", "IDLE"),
        status("09:20:00", "ANNA", "OFF_QUEUE"),
        window=Window(at("09:00:00"), at("10:00:00")),
    )
    assert agent_cells(warehouse) == {
        ("ANNA", "09:00"): {"idle_ms": 900_000},
        ("ANNA", "09:15"): {"idle_ms": 300_000, "off_queue_ms": 600_000},
    }


def test_of_two_statuses_at_one_instant_the_greater_id_lasts(warehouse: Warehouse) -> None:
    load(
        warehouse,
        replace(status("09:00:00", "ANNA", "IDLE"), id="b"),
        replace(status("09:00:00", "ANNA", "INTERACTING"), id="a"),
        status("09:15:00", "ANNA", "OFF_QUEUE"),
    )
    assert agent_cells(warehouse) == {("ANNA", "09:00"): {"idle_ms": 900_000}}


def test_a_cell_with_only_off_queue_is_absent_unless_something_was_handled(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("09:00:00", "ANNA", "OFF_QUEUE"),
        status("09:00:00", "BERT", "OFF_QUEUE"),
        handled("09:20:00", "c1", talk_ms=0),
    )
    assert agent_cells(warehouse) == {("ANNA", "09:15"): {"off_queue_ms": 900_000, "handled": 1}}


def test_an_agent_that_never_reported_a_status_has_no_row(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("09:00:00", "ANNA", "IDLE"),
        replace(handled("09:20:00", "c1", talk_ms=5), tenant_id="bank-south"),  # another tenant's ANNA
        handled("09:20:00", "c2", agent="NO_SERVER", talk_ms=5),
    )
    assert {row["agent_id"] for row in table(warehouse, "agent_intervals")} == {"ANNA"}
    assert {row["tenant_id"] for row in table(warehouse, "agent_intervals")} == {"bank-north"}
    assert sum(row["handled"] for row in table(warehouse, "queue_intervals")) == 2


def test_a_leg_without_a_queue_counts_for_the_agent_only(warehouse: Warehouse) -> None:
    load(warehouse, status("09:00:00", "ANNA", "OFF_QUEUE"), event(EventType.HANDLED, "09:01:00", "c1", agent="ANNA"))
    assert queue_cells(warehouse) == {}
    assert agent_cells(warehouse)["ANNA", "09:00"]["handled"] == 1


@pytest.mark.parametrize("minutes", [15, 30, 60])
def test_the_interval_is_a_setting(make_warehouse: Callable[..., Warehouse], minutes: int) -> None:
    warehouse = make_warehouse(interval_minutes=minutes)
    load(
        warehouse, queued("09:59:59", "c1"), status("09:50:00", "ANNA", "IDLE"), status("10:10:00", "ANNA", "OFF_QUEUE")
    )
    starts = {15: "09:45", 30: "09:30", 60: "09:00"}
    assert list(queue_cells(warehouse)) == [("PS", starts[minutes])]
    assert agent_cells(warehouse)["ANNA", starts[minutes]]["idle_ms"] == 600_000
    assert {row["interval_minutes"] for row in table(warehouse, "agent_intervals")} == {minutes}


def test_cells_of_two_lengths_are_refused_and_the_old_ones_stay(warehouse: Warehouse) -> None:
    load(warehouse, queued("09:00:00", "c1"))
    before = queue_cells(warehouse)
    with pytest.raises(QualityError, match=r"one_grid: .* run load-wfm-intervals once over all days with events"):
        load_wfm_intervals(replace(warehouse, interval_minutes=60), Window(at("10:00:00"), at("11:00:00")), run_id="r")
    assert queue_cells(warehouse) == before
    load_wfm_intervals(replace(warehouse, interval_minutes=60), DAY, run_id="r")  # everything: allowed


def test_after_a_change_of_the_interval_the_loads_by_arrival_go_on(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, status("08:00:00", "ANNA", "IDLE"), queued("10:05:00", "c1"))
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=at("10:15:00"), run_id="r")  # the horizon: off the grid of 60 min

    hourly = replace(warehouse, interval_minutes=60)
    load_wfm_intervals(hourly, DAY, run_id="r", known_until=at("10:20:00"))
    land(warehouse.landing_dir, queued("10:10:00", "c2"), queued("10:40:00", "c3"), queued("08:40:00", "c4"))
    load_events(hourly, run_id="r")
    load_wfm_intervals_incremental(hourly, end=at("10:00:00"), run_id="r")  # late: not behind the old horizon
    assert queue_cells(hourly)["PS", "08:00"] == {"offered": 1}
    load_wfm_intervals_incremental(hourly, end=at("11:00:00"), run_id="r")

    assert agent_cells(hourly) == {("ANNA", f"{hour:02}:00"): {"idle_ms": 3_600_000} for hour in (8, 9, 10)}
    assert queue_cells(hourly) == {("PS", "08:00"): {"offered": 1}, ("PS", "10:00"): {"offered": 3}}


@pytest.mark.parametrize(
    ("start", "end", "match"),
    [
        (at("09:00:01"), at("10:00:00"), "off the grid"),
        (at("09:00:00"), at("10:07:00"), "10:15:00"),
    ],
)
def test_a_window_off_the_grid_is_refused(warehouse: Warehouse, start: datetime, end: datetime, match: str) -> None:
    with pytest.raises(WindowError, match=match):
        load_wfm_intervals(warehouse, Window(start, end), run_id="r")
    with pytest.raises(WindowError, match="off the grid"):
        load_wfm_intervals_incremental(warehouse, end=at("09:01:00"), run_id="r")


def test_views_have_no_rate_where_the_denominator_is_0(warehouse: Warehouse) -> None:
    load(
        warehouse,
        status("09:00:00", "ANNA", "INTERACTING"),
        status("09:05:00", "ANNA", "IDLE"),
        status("09:15:00", "ANNA", "NOT_RESPONDING"),
        status("09:30:00", "ANNA", "OFF_QUEUE"),
        queued("09:00:00", "c1"),
        assigned("09:00:30", "c1", wait_ms=30_000),
        queued("09:00:00", "c2"),
        abandoned("09:00:01", "c2", wait_ms=1_000),
        handled("09:16:00", "c1", talk_ms=90_000, hold_ms=1_000),
    )
    first, second = table(warehouse, "queue_interval_metrics")
    rates = ("aht_ms", "asa_ms", "abandon_rate", "service_level")
    assert [first[name] for name in rates] == [None, 30_000, 0.5, 0]
    assert [second[name] for name in rates] == [91_000, None, None, None]
    assert [row["occupancy"] for row in table(warehouse, "agent_interval_metrics")] == [pytest.approx(1 / 3), None]


def a_day(seed: int) -> list[Event]:
    """Some 300 events: transfers, wrap-ups over boundaries, waits left out, ties, agents whose first status is late."""
    rng = random.Random(seed)
    agents = ["ANNA", "BERT", "CARL", "NO_SERVER"]
    events: list[Event] = []
    for number in range(40):
        clock = at("08:00:00") + timedelta(seconds=rng.randrange(5400))
        conversation = f"c{number}"
        media = {"media": "VOICE"} if rng.random() < 0.8 else {}
        events.append(event(EventType.STARTED, clock, conversation, ani="anonymous", **media))
        for _ in range(rng.choice([1, 1, 2])):
            queue, agent = rng.choice(["PS", "NW"]), rng.choice(agents)
            clock += timedelta(seconds=rng.randrange(60))
            events.append(event(EventType.QUEUED, clock, conversation, queue=queue))
            wait = rng.choice([0, 5, 20, 200])
            clock += timedelta(seconds=wait)
            told = {"wait_ms": wait * 1000} if rng.random() < 0.5 else {}
            if rng.random() < 0.2:
                events.append(event(EventType.ABANDONED, clock, conversation, queue=queue, **told))
                break
            events.append(event(EventType.ASSIGNED, clock, conversation, queue=queue, agent=agent, **told))
            talk = rng.randrange(1200)
            clock += timedelta(seconds=talk)
            leg = {"queue": queue, "agent": agent}
            events.append(event(EventType.HANDLED, clock, conversation, talk_ms=talk * 1000, hold_ms=7, **leg))
            if rng.random() < 0.6:
                acw = rng.randrange(600)
                events.append(
                    event(EventType.WRAPUP, clock + timedelta(seconds=acw), conversation, acw_ms=acw * 1000, **leg)
                )
        events.append(event(EventType.ENDED, clock, conversation, end_reason="hang-up"))
    for agent in agents[:3]:
        clock = at("08:00:00") if agent != "CARL" else at("09:00:00")
        while clock < at("10:00:00"):
            events.append(status(clock, agent, rng.choice(["IDLE", "INTERACTING", "OFF_QUEUE", "COMMUNICATING"])))
            clock += timedelta(seconds=rng.randrange(2400))
    return numbered(sorted(events, key=lambda item: item.time))


END = at("11:00:00")


def in_one_go(warehouse: Warehouse, events: list[Event]) -> None:
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals(warehouse, Window(at("00:00:00"), END), run_id="r")


def in_steps(warehouse: Warehouse, events: list[Event], *, seed: int | None) -> None:
    """A load every 15 minutes; with a seed 30 % of the events arrive up to 2 h late."""
    rng = random.Random(seed)
    arrivals = [
        (
            min(item.time + timedelta(seconds=rng.randrange(7200)), END - timedelta(seconds=1))
            if seed is not None and rng.random() < 0.3
            else item.time,
            item,
        )
        for item in events
    ]
    end = at("08:00:00")
    while end < END:
        end += timedelta(minutes=15)
        batch = [item for arrival, item in arrivals if end - timedelta(minutes=15) <= arrival < end]
        if batch:
            rng.shuffle(batch)
            land(warehouse.landing_dir, *batch)
        load_events(warehouse, run_id="r")
        load_conversations(warehouse, run_id="r")
        load_wfm_intervals_incremental(warehouse, end=end, run_id="r")


def in_one_incremental_load(warehouse: Warehouse, events: list[Event]) -> None:
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=END, run_id="r")


def in_random_order(warehouse: Warehouse, events: list[Event]) -> None:
    """By arrival with the horizon there from the beginning: everything is late."""
    shuffled = random.Random(5).sample(events, len(events))
    land(warehouse.landing_dir, shuffled[0])
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=END, run_id="r")
    for start in range(1, len(shuffled), 60):
        land(warehouse.landing_dir, *shuffled[start : start + 60], *shuffled[: start // 10])
        load_events(warehouse, run_id="r")
        load_wfm_intervals_incremental(warehouse, end=END, run_id="r")
    load_conversations(warehouse, run_id="r")


def by_backfill(warehouse: Warehouse, events: list[Event]) -> None:
    """One go, then hours are lost from every table and come back by windows."""
    in_one_go(warehouse, events)
    window = Window(at("09:00:00"), at("10:00:00"))
    with writer(warehouse) as connection, connection.begin():
        for name, column in (
            ("events", "timestamp"),
            ("queue_intervals", "interval_start"),
            ("agent_intervals", "interval_start"),
            ("conversations", "first_event_at"),
        ):
            connection.execute(
                sa.text(f"DELETE FROM {name} WHERE {column} >= :start AND {column} < :end"),
                {"start": window.start, "end": window.end},
            )
    load_events_window(warehouse, window, run_id="r")
    load_conversations(warehouse, window, run_id="r")
    load_wfm_intervals(warehouse, window, run_id="r")


@pytest.mark.parametrize("longest", [168, pytest.param(1, marks=pytest.mark.slow)])
def test_five_ways_to_load_give_identical_tables(make_warehouse: Callable[..., Warehouse], longest: int) -> None:
    events = a_day(seed := 2)
    if longest == 1:  # agents that fall silent for longer than that
        quiet = {item.event_id for item in [item for item in events if item.type == EventType.STATUS_CHANGED][1::2]}
        events = [item for item in events if item.event_id not in quiet]
    truth = make_warehouse(longest_status_hours=longest)
    in_one_go(truth, events)
    expected = everything(truth)
    assert len(expected["queue_intervals"]) > 20
    assert len(expected["agent_intervals"]) > 20
    ways: list[Callable[[Warehouse], None]] = [
        lambda warehouse: in_steps(warehouse, events, seed=None),
        lambda warehouse: in_steps(warehouse, events, seed=seed),
        lambda warehouse: in_random_order(warehouse, events),
        lambda warehouse: by_backfill(warehouse, events),
    ]
    for way in ways:
        other = make_warehouse(longest_status_hours=longest)
        way(other)
        assert everything(other) == expected


def test_loading_any_window_again_changes_nothing(warehouse: Warehouse) -> None:
    in_one_go(warehouse, a_day(3))
    before = everything(warehouse)
    for start, end in (("09:00:00", "09:15:00"), ("08:15:00", "11:00:00"), ("00:00:00", "11:00:00")):
        load_wfm_intervals(warehouse, Window(at(start), at(end)), run_id="r")
        load_conversations(warehouse, Window(at(start), at(end)), run_id="r")
        load_events_window(warehouse, Window(at(start), at(end)), run_id="r")
        assert everything(warehouse) == before


def test_an_event_from_1970_does_not_hold_up_a_load(warehouse: Warehouse) -> None:
    events = [*a_day(4), status(datetime(1970, 1, 1, tzinfo=UTC), "ZOE", "OFF_QUEUE")]
    in_one_incremental_load(warehouse, events)
    with_it = table(warehouse, "queue_intervals")
    assert {row["agent_id"] for row in table(warehouse, "agent_intervals")} == {"ANNA", "BERT", "CARL"}
    load_wfm_intervals(warehouse, DAY, run_id="r")
    assert table(warehouse, "queue_intervals") == with_it


def test_a_range_of_weeks_is_built_in_chunks_and_a_status_lasts_through_a_gap(
    make_warehouse: Callable[..., Warehouse],
) -> None:
    warehouse = make_warehouse(longest_status_hours=25 * 24)
    land(
        warehouse.landing_dir,
        status("09:00:00", "ANNA", "IDLE"),
        queued("09:00:00", "c1"),
        status(at("09:00:00", day=29), "ANNA", "OFF_QUEUE"),
        event(EventType.QUEUED, at("09:00:00", day=30), "c1", queue="PS", media="VOICE"),
    )
    load_events(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=at("00:00:00", day=31), run_id="r")
    idle = [row["idle_ms"] for row in table(warehouse, "agent_intervals")]
    assert idle == [900_000] * (25 * 96)
    assert [row["offered"] for row in table(warehouse, "queue_intervals")] == [1, 1]


def test_an_incremental_load_with_nothing_new_does_nothing(warehouse: Warehouse) -> None:
    in_one_incremental_load(warehouse, a_day(4)[:50])
    before = table(warehouse, "load_runs")
    assert load_wfm_intervals_incremental(warehouse, end=END, run_id="r").load_ids == ()
    assert load_wfm_intervals_incremental(warehouse, end=at("09:00:00"), run_id="r").load_ids == ()
    assert load_conversations(warehouse, run_id="r").load_ids == ()
    assert table(warehouse, "load_runs") == before


def test_a_late_event_rebuilds_only_what_it_touches(warehouse: Warehouse) -> None:
    in_one_incremental_load(warehouse, a_day(4))
    cells = len(table(warehouse, "queue_intervals"))
    land(warehouse.landing_dir, queued("09:00:00", "new"))
    load_events(warehouse, run_id="r")
    result = load_wfm_intervals_incremental(warehouse, end=END, run_id="r")
    assert 0 < result.rows <= 4  # two queues, two media types, one interval
    assert cells <= len(table(warehouse, "queue_intervals")) <= cells + 1
