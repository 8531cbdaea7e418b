"""Events that make no sense, and windows that can't be: what the tables hold then, or what the error says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import Flow

from flows.backfill import backfill
from flows.load_analytics import load_analytics
from flows.load_events import load_events as load_events_flow
from flows.load_wfm_intervals import load_wfm_intervals as load_wfm_intervals_flow
from schemas.canonical import EventType
from streaming.errors import ConfigurationError
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
)
from warehouse.engine import Warehouse
from warehouse.errors import WindowError
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))


def started(clock: str | datetime, conversation: str, **more: object) -> Event:
    return event(EventType.STARTED, clock, conversation, media="VOICE", direction="INBOUND", ani="tel:1", **more)


def ended(clock: str | datetime, conversation: str) -> Event:
    return event(EventType.ENDED, clock, conversation, end_reason="PEER")


def load(warehouse: Warehouse, *events: Event, end: datetime) -> None:
    """By arrival, up to ``end``."""
    land(warehouse.landing_dir, *numbered(list(events)))
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_daily_analytics(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=end, run_id="r")


def conversation(warehouse: Warehouse, *names: str) -> list[Any]:
    (row,) = table(warehouse, "conversations")
    return [row[name] for name in names]


def test_an_end_before_the_start(warehouse: Warehouse) -> None:
    """A vendor's clock was set back in mid-call: what each event tells counts, what would be negative is unknown."""
    load(
        warehouse,
        started("10:00:00", "c1"),
        queued("10:00:10", "c1"),
        assigned("09:55:00", "c1"),
        handled("09:58:00", "c1", talk_ms=-120_000, hold_ms=4_000),
        ended("09:58:00", "c1"),
        end=at("11:00:00"),
    )
    names = ("started_at", "ended_at", "first_event_at", "last_event_at", "duration_ms", "outcome", "talk_ms")
    assert conversation(warehouse, *names) == [
        at("10:00:00"), at("09:58:00"), at("09:55:00"), at("10:00:10"), None, "ANSWERED", 0,
    ]  # fmt: skip
    assert conversation(warehouse, "offered", "answered", "abandoned", "legs", "wait_ms") == [1, 1, 0, 1, 0]
    assert queue_cells(warehouse) == {
        ("PS", "09:45"): {"answered": 1, "handled": 1, "hold_ms": 4_000},
        ("PS", "10:00"): {"offered": 1},
    }


def test_overlapping_calls_of_one_agent(warehouse: Warehouse) -> None:
    """Each call counts in full in its queue; the agent's time is that of the statuses, never more than there is."""
    load(
        warehouse,
        status("09:00:00", "ANNA", "IDLE"),
        status("09:05:00", "ANNA", "INTERACTING"),
        status("09:10:00", "ANNA", "INTERACTING"),
        assigned("09:05:00", "c1", wait_ms=0),
        assigned("09:10:00", "c2", queue="NW", wait_ms=0),
        handled("09:25:00", "c1", talk_ms=1_200_000),
        handled("09:20:00", "c2", queue="NW", talk_ms=600_000),
        status("09:25:00", "ANNA", "IDLE"),
        end=at("09:30:00"),
    )
    within = {"answered": 1, "answered_in_threshold": 1}
    assert queue_cells(warehouse) == {
        ("NW", "09:00"): within,
        ("NW", "09:15"): {"handled": 1, "talk_ms": 600_000},
        ("PS", "09:00"): within,
        ("PS", "09:15"): {"handled": 1, "talk_ms": 1_200_000},
    }
    assert agent_cells(warehouse) == {
        ("ANNA", "09:00"): {"idle_ms": 300_000, "interacting_ms": 600_000},
        ("ANNA", "09:15"): {"interacting_ms": 600_000, "idle_ms": 300_000, "handled": 2},
    }


def test_a_conversation_that_never_ends_and_one_that_ends_after_all(warehouse: Warehouse) -> None:
    """While open it is offered and nothing more; an end that comes 40 days later changes its own cells only."""
    caller = [started("09:00:00", "c1"), queued("09:00:05", "c1")]
    load(warehouse, *caller, end=at("00:00:00", day=31))
    open_names = ("ended_at", "duration_ms", "outcome", "first_queue_id", "offered", "answered", "abandoned", "wait_ms")
    assert conversation(warehouse, *open_names) == [None, None, None, "PS", 1, 0, 0, 0]
    assert queue_cells(warehouse) == {("PS", "09:00"): {"offered": 1}}

    late = datetime(1999, 2, 13, 9, 0, 5, tzinfo=UTC)
    wait_ms = (late - at("09:00:05")) // timedelta(milliseconds=1)
    load(
        warehouse,
        replace(abandoned("09:00:00", "c1"), time=late),
        ended(late, "c1"),
        end=late.replace(hour=10, second=0),
    )

    assert conversation(warehouse, *open_names) == [late, wait_ms + 5_000, "ABANDON", "PS", 1, 0, 1, wait_ms]
    assert [
        (row["interval_start"], row["offered"], row["abandoned"], row["wait_abandoned_ms"])
        for row in table(warehouse, "queue_intervals")
    ] == [(at("09:00:00"), 1, 0, 0), (late.replace(second=0), 0, 1, wait_ms)]


def test_an_agents_clock_that_goes_backwards(make_warehouse: Callable[..., Warehouse]) -> None:
    """By the vendor's time, whatever the order of publishing: in one file, or in several loads."""
    told = [
        status("09:30:00", "ANNA", "IDLE"),
        status("09:00:00", "ANNA", "INTERACTING"),
        status("09:20:00", "ANNA", "OFF_QUEUE"),
        status("09:10:00", "ANNA", "IDLE"),
        status("09:35:00", "ANNA", "OFF_QUEUE"),
    ]
    expected = {
        ("ANNA", "09:00"): {"interacting_ms": 600_000, "idle_ms": 300_000},
        ("ANNA", "09:15"): {"idle_ms": 300_000, "off_queue_ms": 600_000},
        ("ANNA", "09:30"): {"idle_ms": 300_000, "off_queue_ms": 600_000},
    }
    at_once, in_turn = make_warehouse(), make_warehouse()
    load(at_once, *told, end=at("10:00:00"))
    for some in (told[:1], told[1:3], told[3:]):
        load(in_turn, *some, end=at("10:00:00"))
    assert agent_cells(at_once) == agent_cells(in_turn) == expected


def test_clocks_that_jump_by_years(make_warehouse: Callable[..., Warehouse]) -> None:
    """Events from 1970, of next year, 2100 and 9999 are kept, lie where they say, and change nothing in between."""
    good = [
        queued("09:00:00", "c1"),
        assigned("09:00:30", "c1", wait_ms=30_000),
        status("09:00:00", "ANNA", "IDLE"),
        status("09:10:00", "ANNA", "OFF_QUEUE"),
    ]
    past, next_year, future = (datetime(year, 1, 1, tzinfo=UTC) for year in (1970, 2000, 2100))
    last = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    odd = [
        *(event(EventType.QUEUED, time, f"{time:%Y}", queue="PS", media="VOICE") for time in (past, next_year, last)),
        status(past, "ANNA", "INTERACTING"),
        status(next_year, "ANNA", "IDLE"),
        status(future, "ANNA", "COMMUNICATING"),
        status(last, "ANNA", "NOT_RESPONDING"),
    ]
    plain, mixed, stepwise = make_warehouse(), make_warehouse(), make_warehouse()
    load(plain, *good, end=at("10:00:00"))
    load(mixed, *odd, *good, end=at("10:00:00"))
    for first in range(2):
        load(stepwise, *[*odd, *good][first::2], end=at("10:00:00"))
    assert everything(stepwise) == everything(mixed)
    assert len(table(mixed, "events")) == 11
    oldest, *rest = table(mixed, "queue_intervals")
    assert (oldest["interval_start"], oldest["offered"]) == (past, 1)
    assert rest == table(plain, "queue_intervals")
    # The status of 1970 lasts for the longest time that one can, 168 h.
    week, now = table(mixed, "agent_intervals")[:-1], table(mixed, "agent_intervals")[-1:]
    assert [row["interacting_ms"] for row in week] == [900_000] * 672
    assert now == table(plain, "agent_intervals")
    assert (now[0]["idle_ms"], now[0]["off_queue_ms"]) == (600_000, 300_000)

    # When the time has come, the loads by arrival get to it; a window gets there at once.
    load_wfm_intervals_incremental(stepwise, end=next_year + timedelta(hours=1), run_id="r")
    load_wfm_intervals(mixed, Window(next_year, next_year + timedelta(hours=1)), run_id="r")
    assert everything(stepwise) == everything(mixed)
    assert [row["idle_ms"] for row in table(mixed, "agent_intervals")[-4:]] == [900_000] * 4
    assert (table(mixed, "queue_intervals")[-1]["interval_start"], len(rest)) == (next_year, 1)
    load_wfm_intervals(mixed, Window(future, future + timedelta(minutes=15)), run_id="r")
    assert table(mixed, "agent_intervals")[-1]["communicating_ms"] == 900_000


FLOWS = [load_events_flow, load_wfm_intervals_flow, load_analytics]


@pytest.mark.parametrize("flow", [*FLOWS, backfill])
@pytest.mark.parametrize(
    ("start", "end", "match"),
    [
        (at("10:00:00"), at("09:00:00"), "give an end after the start"),
        (at("10:00:00"), at("10:00:00"), "give an end after the start"),
        (datetime(1999, 1, 4, 9), at("10:00:00"), "start is 1999-01-04T09:00:00 without a time zone"),  # noqa: DTZ001
        (at("09:00:00"), datetime(1999, 1, 4, 10), "end is 1999-01-04T10:00:00 without a time zone"),  # noqa: DTZ001
        (datetime(1969, 7, 20, tzinfo=UTC), at("10:00:00"), "start is 1969-07-20.*from 1970 on"),
    ],
)
def test_no_flow_takes_a_window_that_can_not_be(
    flow: Flow[..., object], start: datetime, end: datetime, match: str
) -> None:
    with pytest.raises(WindowError, match=match):
        flow.fn(start=start, end=end)


@pytest.mark.parametrize("flow", FLOWS)
def test_no_flow_takes_a_window_in_the_future_or_half_a_one(flow: Flow[..., object]) -> None:
    soon = datetime.now(UTC).replace(minute=0) + timedelta(hours=2)
    with pytest.raises(WindowError, match=r"start is .*, in the future: give one before now"):
        flow.fn(start=soon, end=soon + timedelta(hours=1))
    with pytest.raises(ConfigurationError, match="give both start and end"):
        flow.fn(start=at("09:00:00"))


def test_no_horizon_that_can_not_be(warehouse: Warehouse) -> None:
    for end, match in (
        (datetime(1999, 1, 4, 10), "end is 1999-01-04T10:00:00 without a time zone"),  # noqa: DTZ001
        (datetime(1969, 7, 20, tzinfo=UTC), "end is 1969-07-20.*from 1970 on"),
        (at("10:07:00"), "end is 1999-01-04T10:07:00.*give 1999-01-04T10:00:00.*or 1999-01-04T10:15:00"),
    ):
        with pytest.raises(WindowError, match=match):
            load_wfm_intervals_incremental(warehouse, end=end, run_id="r")
    assert table(warehouse, "load_runs") == []
