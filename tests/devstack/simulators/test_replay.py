"""Pace, order and faults, without a network."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from devstack.simulators.agents import Status, StatusChange
from devstack.simulators.clock import ReplayClock
from devstack.simulators.misbehaviour import Fields, Misbehaviour, Orders
from devstack.simulators.replay import Release, Replay, Tally
from devstack.simulators.schedule import Occurrence

SCHEDULE = [
    Occurrence(1_000_000 + place * 1000, "even" if place % 2 == 0 else "odd", StatusChange(0, "A", Status.IDLE), ("t",))
    for place in range(400)
]


async def play(*, exempt: tuple[str, ...] = (), speed: float = 0, **orders: object) -> tuple[list[Release], Replay]:
    misbehaviour = Misbehaviour()
    misbehaviour.obey(Orders.model_validate(orders))
    released: list[Release] = []

    async def release(event: Release) -> None:
        assert speed == 0 or event.occurrence.at_ms <= replay.clock.now_ms(), "too early"
        released.append(event)
        replay.tally.mark_sent(event.place, event.occurrence)

    replay = Replay(SCHEDULE, misbehaviour, release, exempt=exempt)
    replay.start(speed)
    await asyncio.wait_for(replay.run(), 20)
    assert replay.state == "done"
    assert replay.clock.now_ms() == replay.clock.end_ms > SCHEDULE[-1].at_ms
    return released, replay


def places(released: list[Release]) -> list[int]:
    return [event.place for event in released]


def test_the_clock_follows_wall_time_without_drift_and_stops() -> None:
    wall = [100.0]
    clock = ReplayClock(5_000, 65_000, lambda: wall[0])
    assert (clock.now_ms(), clock.is_started) == (5_000, False)
    wall[0] = 200.0
    clock.start(10)
    assert clock.now_ms() == 5_000
    for wall[0] in (200.5, 201.0, 205.9375):  # exact in binary
        assert clock.now_ms() == 5_000 + round((wall[0] - 200) * 10_000)
    wall[0] = 300.0
    assert clock.now_ms() == 65_000


async def test_without_orders_everything_goes_once_and_in_order() -> None:
    released, replay = await play()
    assert places(released) == list(range(400))
    assert replay.tally.sent == replay.tally.expected == {"t": 400}
    assert not any(replay.tally.faults.values())


@pytest.mark.parametrize("speed", [1000, 100_000])
async def test_paced_events_are_complete_in_order_and_never_early(speed: float) -> None:
    released, _ = await play(speed=speed)
    assert places(released) == list(range(400))


async def test_drop_takes_its_share_and_counts_what_is_missing() -> None:
    released, replay = await play(drop=0.25, seed=3)
    tally = replay.tally
    assert 60 < tally.faults["dropped"] < 140
    assert len(released) == 400 - tally.faults["dropped"]
    assert tally.sent + tally.missing == tally.expected


async def test_duplicates_count_once_as_sent() -> None:
    released, replay = await play(duplicate=0.25)
    doubled = [place for place, count in Counter(places(released)).items() if count == 2]
    assert len(doubled) == replay.tally.faults["duplicated"] > 50
    assert replay.tally.sent == {"t": 400}
    assert replay.tally.sent_native == 400


async def test_delayed_events_come_late_but_come() -> None:
    released, replay = await play(delay={"share": 0.2, "ms": 30_000})
    assert sorted(places(released)) == list(range(400))
    assert places(released) != list(range(400))
    assert replay.tally.faults["delayed"] > 40


async def test_reordered_events_are_overtaken_by_no_more_than_the_places() -> None:
    released, replay = await play(reorder={"share": 1, "places": 3}, seed=1)
    order = places(released)
    assert sorted(order) == list(range(400))
    assert order != sorted(order)
    # Everything may move by up to 3 places, so an event has at most 3 places' worth of later ones before it.
    assert max(sum(later > place for later in order[:at]) for at, place in enumerate(order)) <= 3
    assert replay.tally.faults["reordered"] > 300


async def test_all_orders_together_lose_nothing_but_what_is_dropped() -> None:
    orders = {"drop": 0.1, "duplicate": 0.2, "delay": {"share": 0.3, "ms": 5000}, "reorder": {"share": 0.5}}
    released, replay = await play(**orders)
    assert len(set(places(released))) == 400 - replay.tally.faults["dropped"]
    paced, _ = await play(speed=100_000, **orders)
    assert places(paced) == places(released), "the same seed does the same at any speed"


async def test_the_seed_decides() -> None:
    orders = {"drop": 0.3, "reorder": {"share": 0.3}}
    first, again, other = [places((await play(seed=seed, **orders))[0]) for seed in (1, 1, 2)]
    assert first == again != other


async def test_kinds_limit_the_orders_and_exempt_kinds_obey_none() -> None:
    released, _ = await play(drop=1, kinds=["odd"])
    assert {event.occurrence.kind for event in released} == {"even"}
    released, replay = await play(drop=1, exempt=("even",))
    assert {event.occurrence.kind for event in released} == {"even"}
    assert replay.tally.faults["dropped"] == 200


def test_orders_stand_until_given_anew() -> None:
    misbehaviour = Misbehaviour()
    misbehaviour.obey(Orders.model_validate({"drop": 1, "fields": {"remove": ["x"]}}))
    misbehaviour.obey(Orders.model_validate({"duplicate": 1}))
    assert misbehaviour.drops("k", 0)
    assert misbehaviour.fields("k", 0, 0) is not None
    misbehaviour.obey(Orders.model_validate({"drop": 0, "fields": None}))
    assert not misbehaviour.drops("k", 0)
    assert misbehaviour.fields("k", 0, 0) is None
    assert misbehaviour.duplicates("k", 0)


def test_fields_are_added_removed_and_retyped() -> None:
    document = {"a": {"text": "x", "number": 5, "flag": True}, "gone": 1, "kept": 2}
    changes = {"add": {"a.new.deep": 1, "top": None}, "remove": ["gone", "not.there"],
               "retype": ["a.text", "a.number", "a.flag", "a.none"]}  # fmt: skip
    Fields.model_validate(changes).change(document)
    assert document == {
        "a": {"text": ["x"], "number": "5", "flag": "True", "new": {"deep": 1}},
        "kept": 2,
        "top": None,
    }


def test_fields_are_renamed_in_a_span_of_event_time() -> None:
    document = {"a": {"old": 1, "other": 2}, "old": 3}
    Fields.model_validate({"rename": {"a.old": "new", "a.none": "x", "no.where": "y"}}).change(document)
    assert document == {"a": {"new": 1, "other": 2}, "old": 3}
    misbehaviour = Misbehaviour()
    span = {"start": "1970-01-01T00:00:01Z", "end": "1970-01-01T00:00:02Z"}
    misbehaviour.obey(Orders.model_validate({"fields": {"rename": {"a": "b"}, **span}}))
    assert [misbehaviour.fields("k", 0, at_ms) is not None for at_ms in (999, 1000, 1999, 2000)] == [
        False,
        True,
        True,
        False,
    ]


async def test_events_are_held_until_the_order_ends() -> None:
    misbehaviour = Misbehaviour()
    hold_ms = SCHEDULE[100].at_ms
    misbehaviour.obey(Orders.model_validate({"hold_at": datetime.fromtimestamp(hold_ms / 1000, UTC)}))
    released: list[Release] = []

    async def release(event: Release) -> None:
        released.append(event)

    replay = Replay(SCHEDULE, misbehaviour, release)
    replay.start(0)
    running = asyncio.create_task(replay.run())
    await asyncio.sleep(0.2)
    held = sum(occurrence.at_ms < hold_ms for occurrence in SCHEDULE)
    assert 0 < held < len(SCHEDULE)
    assert places(released) == list(range(held))
    assert replay.clock.now_ms() < hold_ms
    misbehaviour.obey(Orders.model_validate({"hold_at": None}))
    await asyncio.wait_for(running, 20)
    assert len(released) == len(SCHEDULE)


def test_refusals_end_after_their_number_or_time() -> None:
    wall = [0.0]
    misbehaviour = Misbehaviour(lambda: wall[0])
    misbehaviour.obey(Orders.model_validate({"refuse": {"status": 429, "requests": 2, "path": "/stream"}}))
    assert [bool(misbehaviour.refusal(path)) for path in ("/token", "/stream", "/stream", "/stream")] == [
        False,
        True,
        True,
        False,
    ]
    misbehaviour.obey(Orders.model_validate({"refuse": {"status": 503, "seconds": 5}}))
    assert misbehaviour.refusal("/any")
    wall[0] = 5.0
    assert misbehaviour.refusal("/any") is None


@pytest.mark.parametrize(
    "orders",
    [
        {"drop": 1.5},
        {"dorp": 0.1},
        {"refuse": {"status": 429}},
        {"refuse": {"status": 429, "seconds": 1, "requests": 1}},
        {"refuse": {"status": 200, "seconds": 1}},
        {"delay": {"share": 0.1}},
        {"disconnect": False},
    ],
)
def test_wrong_orders(orders: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Orders.model_validate(orders)


def test_an_event_given_up_and_then_delivered_by_its_copy_is_not_missing() -> None:
    tally = Tally(SCHEDULE)
    tally.mark_missing(0, SCHEDULE[0])
    assert tally.missing == {"t": 1}
    tally.mark_sent(0, SCHEDULE[0])
    tally.mark_missing(0, SCHEDULE[0])
    assert (+tally.missing, tally.sent) == ({}, {"t": 1})
