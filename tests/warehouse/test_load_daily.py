from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from schemas.canonical import EventType
from tests.warehouse.events import Event, abandoned, assigned, at, event, handled, land, queued, table, wrapup
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals
from warehouse.windows import Window

DAYS = Window(at("00:00:00", day=4), at("00:00:00", day=9))
Row = dict[str, Any]


def by_arrival(warehouse: Warehouse, *events: Event) -> int:
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    return load_daily_analytics(warehouse, run_id="r").rows


def rows(warehouse: Warehouse, name: str = "daily_analytics") -> list[Row]:
    with writer(warehouse) as connection:
        found = connection.execute(sa.text(f"SELECT * FROM {name}")).mappings().all()
    keys = ("vendor", "tenant_id", "day", "queue_id", "agent_id", "media_type")
    return sorted((dict(row) for row in found), key=lambda row: [str(row.get(key)) for key in keys])


def told(warehouse: Warehouse) -> dict[tuple[int, str | None, str | None], Row]:
    """Values that are not 0, by day of the month, queue and agent."""
    keys = {"vendor", "tenant_id", "day", "queue_id", "agent_id", "media_type"}
    return {
        (row["day"].day, row["queue_id"], row["agent_id"]): {k: v for k, v in row.items() if k not in keys and v}
        for row in rows(warehouse)
    }


def started(clock: str | datetime, conversation: str, ani: str | None = None, **more: object) -> Event:
    caller = {"ani": ani} if ani else {}
    return event(EventType.STARTED, clock, conversation, **{"media": "VOICE", "direction": "INBOUND", **caller, **more})


def test_what_no_agent_did_is_in_rows_without_one(warehouse: Warehouse) -> None:
    by_arrival(
        warehouse,
        started("23:00:00", "c1", "a"),
        queued("23:50:00", "c1"),
        assigned("23:50:15", "c1", wait_ms=15_000),
        handled("23:59:00", "c1", talk_ms=500_000, hold_ms=25_000),
        wrapup(at("00:01:00", day=5).strftime("%H:%M:%S"), "c1", acw_ms=7),  # before the leg: no match
        event(EventType.WRAPUP, at("00:02:00", day=5), "c1", queue="PS", agent="ANNA", acw_ms=180_000),
        queued("10:00:00", "c2"),
        abandoned("10:00:40", "c2", wait_ms=40_000, agent="ZOE"),
        queued("10:00:00", "c3"),
        event(EventType.FLOWED_OUT, "10:00:50", "c3", queue="PS", wait_ms=50_000),
        event(EventType.HANDLED, "11:00:00", "c4", agent="ANNA", talk_ms=9),  # called by the agent: no queue
    )

    assert told(warehouse) == {
        (4, None, "ANNA"): {"handled": 1, "talk_ms": 9},
        (4, "PS", None): {
            "conversations": 1,
            "known_callers": 1,
            "offered": 3,
            "abandoned": 1,
            "flowed_out": 1,
            "wait_abandoned_ms": 40_000,
        },
        (4, "PS", "ANNA"): {"answered": 1, "answered_in_threshold": 1, "wait_answered_ms": 15_000},
        (5, "PS", "ANNA"): {"handled": 1, "talk_ms": 500_000, "hold_ms": 25_000, "acw_ms": 180_000},
    }
    (day,) = [row for row in rows(warehouse, "daily_queue_metrics") if row["queue_id"] and row["day"].day == 4]
    assert [day[name] for name in ("abandon_rate", "service_level", "asa_ms", "aht_ms", "transfer_rate")] == [
        *(pytest.approx(1 / 3), 1, 15_000, None, None)
    ]
    rates = {row["agent_id"]: row for row in rows(warehouse, "daily_analytics_metrics") if row["day"].day == 5}
    assert (rates["ANNA"]["aht_ms"], rates["ANNA"]["transfer_rate"], rates["ANNA"]["repeat_rate"]) == (705_000, 0, None)


def leg(
    conversation: str, agent: str, answered: str | None, left: str, queue: str = "PS", **more: object
) -> list[Event]:
    """Answered (None: given by a colleague, without a queue) and left; talk is the time between."""
    talk = (at(left) - at(answered or "10:05:00")) // timedelta(milliseconds=1)
    ended = handled(left, conversation, queue=queue, agent=agent, talk_ms=talk, **more)
    return [assigned(answered, conversation, queue=queue, agent=agent, **more), ended] if answered else [ended]


TRANSFERS: dict[str, tuple[list[Event], set[str]]] = {
    "nobody": ([queued("10:00:00", "c"), *leg("c", "ANNA", "10:00:00", "10:10:00")], set()),
    "a leg of no length": ([queued("10:00:00", "c"), *leg("c", "ANNA", "10:00:00", "10:00:00")], set()),
    "into a queue, blind": (
        [*leg("c", "ANNA", "10:00:00", "10:10:00"), queued("10:10:00", "c", "NW"), abandoned("10:12:00", "c", "NW")],
        {"ANNA"},
    ),
    "into a queue and back to the same": (
        [
            *leg("c", "ANNA", "10:00:00", "10:10:00"),
            queued("10:10:01", "c", "NW"),
            *leg("c", "ANNA", "10:11:00", "10:12:00", "NW"),
        ],
        {"ANNA"},
    ),
    "after a consultation": (
        [
            *leg("c", "ANNA", "10:00:00", "10:10:00"),
            queued("10:04:00", "c", "NW"),
            *leg("c", "BERT", "10:05:00", "10:20:00", "NW"),
        ],
        {"ANNA"},
    ),
    "abandoned in a queue that was entered before the agent left": (
        [*leg("c", "ANNA", "10:00:00", "10:10:00"), queued("10:09:59", "c", "NW"), abandoned("10:12:00", "c", "NW")],
        {"ANNA"},
    ),
    "a consultation only": (
        [
            *leg("c", "ANNA", "10:00:00", "10:10:00"),
            queued("10:04:00", "c", "NW"),
            *leg("c", "BERT", "10:05:00", "10:06:00", "NW"),
        ],
        set(),
    ),
    "to a colleague, without a queue": (
        [*leg("c", "ANNA", "10:00:00", "10:10:00"), *leg("c", "BERT", None, "10:20:00")],
        {"ANNA"},
    ),
    "on from one to the next": (
        [
            *leg("c", "ANNA", "10:00:00", "10:10:00"),
            queued("10:10:01", "c"),
            *leg("c", "BERT", "10:11:00", "10:20:00"),
            queued("10:20:01", "c"),
            *leg("c", "CARL", "10:21:00", "10:30:00"),
        ],
        {"ANNA", "BERT"},
    ),
    "by a new contact of the same master": (
        [
            *leg("c", "ANNA", "10:00:00", "10:10:00", parent_conversation_id="c"),
            queued("10:09:00", "d", "NW", parent_conversation_id="c"),
            *leg("d", "BERT", "10:11:00", "10:20:00", "NW", parent_conversation_id="c"),
        ],
        {"ANNA"},
    ),
}


def test_a_leg_is_transferred_if_the_contact_goes_on_without_the_agent(warehouse: Warehouse) -> None:
    """All cases in one load, each under a tenant of its own."""
    by_arrival(warehouse, *(replace(item, tenant_id=case) for case, (items, _) in TRANSFERS.items() for item in items))
    found = {case: set[str]() for case in TRANSFERS}
    for row in rows(warehouse):
        if row["transferred"]:
            found[row["tenant_id"]].add(row["agent_id"])
    assert found == {case: agents for case, (_, agents) in TRANSFERS.items()}


def test_a_repeated_call_is_the_same_caller_within_24_hours(warehouse: Warehouse) -> None:
    other_tenant = replace(started("08:00:00", "t1", "e"), tenant_id="bank-south")
    by_arrival(
        warehouse,
        started("08:00:00", "a1", "a"),
        started(at("08:00:00", day=5), "a2", "a"),  # 24 h: within
        started(at("08:00:00", day=6) + timedelta(milliseconds=1), "a3", "a"),  # a moment more
        *(started("08:00:00", f"b{number}", "anonymous") for number in (1, 2)),
        *(started(f"08:0{number}:00", f"c{number}", "sip:anonymous@anonymous.invalid") for number in (1, 2)),
        *(started(f"08:0{number}:00", f"d{number}") for number in (1, 2)),
        other_tenant,
        started("09:00:00", "e1", "e"),
        started("08:00:00", "f1", "f", direction="OUTBOUND"),
        started("09:00:00", "f2", "f"),
        started("10:00:00", "g1", "g", parent_conversation_id="g1"),
        started("10:10:00", "g2", "g", parent_conversation_id="g1"),  # the same call, transferred
        *(started("11:00:00", f"h{number}", "h") for number in (1, 2)),  # at once: none is the earlier one
    )
    counts = {(row["tenant_id"], row["day"].day): row for row in rows(warehouse)}
    names = ("conversations", "known_callers", "repeat_callers")
    assert {key: tuple(row[name] for name in names) for key, row in counts.items()} == {
        ("bank-north", 4): (14, 6, 0),
        ("bank-north", 5): (1, 1, 1),
        ("bank-north", 6): (1, 1, 0),
        ("bank-south", 4): (1, 1, 0),
    }


@pytest.mark.parametrize(
    ("first", "late", "expected"),
    [
        pytest.param(
            [started(at("07:00:00", day=5), "c2", "a")],
            started("09:00:00", "c1", "a"),
            {(4, None): (1, 0, 0), (5, None): (1, 1, 0)},
            id="the next day's call becomes a repeated one",
        ),
        pytest.param(
            leg("c", "ANNA", "10:00:00", "10:10:00", parent_conversation_id="c"),
            event(EventType.QUEUED, at("00:01:00", day=5), "d", queue="PS", parent_conversation_id="c"),
            {(4, "ANNA"): (0, 0, 1), (5, None): (0, 0, 0)},
            id="another contact makes the day before's leg a transferred one",
        ),
        pytest.param(
            [
                *leg("c", "ANNA", "10:00:00", "10:10:00", parent_conversation_id="c"),
                event(EventType.QUEUED, at("00:01:00", day=5), "d", queue="PS", parent_conversation_id="c"),
            ],
            started(at("00:00:30", day=5), "d", parent_conversation_id="a"),
            {(4, "ANNA"): (0, 0, 0), (5, None): (1, 0, 0)},
            id="the other contact turns out to be of another master",
        ),
        pytest.param(
            [
                *leg("d", "ANNA", "10:00:00", "10:10:00", parent_conversation_id="c"),
                event(EventType.QUEUED, at("00:01:00", day=5), "c", queue="PS"),
            ],
            started(at("00:00:30", day=5), "c", parent_conversation_id="a"),
            {(4, "ANNA"): (0, 0, 0), (5, None): (1, 0, 0)},
            id="the master itself turns out to have another one",
        ),
        pytest.param(
            [replace(queued("23:59:58", "c"), metadata={"ccaas.recovered": "reconciled"})],
            replace(event(EventType.QUEUED, at("00:00:01", day=5), "c", queue="PS", media="VOICE"), offset=1),
            {(5, None): (0, 0, 0)},
            id="the webhook takes the place of the day before's reconciled event",
        ),
    ],
)
def test_a_late_event_moves_another_day_too(
    warehouse: Warehouse, first: list[Event], late: Event, expected: dict[tuple[int, str | None], tuple[int, int, int]]
) -> None:
    apart = replace(started("10:00:00", "x", "x"), tenant_id="bank-south")
    by_arrival(warehouse, *first, apart)
    assert by_arrival(warehouse, late) == len(expected)  # not the other tenant's
    names = ("conversations", "repeat_callers", "transferred")
    found = {
        (row["day"].day, row["agent_id"]): tuple(row[name] for name in names)
        for row in rows(warehouse)
        if row["tenant_id"] == "bank-north"
    }
    assert found == expected


def some_days(seed: int) -> list[Event]:
    """Some 700 events of three days and two tenants: transfers, wrap-ups past midnight, callers that call again."""
    rng = random.Random(seed)
    events: list[Event] = []
    for number in range(90):
        clock = at("06:00:00") + timedelta(seconds=rng.randrange(60 * 3600))
        if rng.random() < 0.3:
            clock = clock.replace(hour=23, minute=50)
        conversation = f"c{number}"
        tenant = rng.choice(["bank-north", "bank-south"])
        master = {"parent_conversation_id": f"c{max(number - 1, 0)}" if rng.random() < 0.2 else conversation}
        contact = {**master, **({"media": "VOICE"} if rng.random() < 0.8 else {})}
        items = [started(clock, conversation, rng.choice(["a", "b", "c", "d", "anonymous", None]), **contact)]
        for _ in range(rng.choice([1, 1, 2, 3])):
            queue, agent = rng.choice(["PS", "NW"]), rng.choice(["ANNA", "BERT", "CARL"])
            clock += timedelta(seconds=rng.randrange(60))
            items.append(event(EventType.QUEUED, clock, conversation, queue=queue, **contact))
            clock += timedelta(seconds=rng.choice([0, 5, 20, 200]))
            if rng.random() < 0.2:
                items.append(event(EventType.ABANDONED, clock, conversation, queue=queue, **contact))
                break
            talk = rng.randrange(1200)
            items.append(event(EventType.ASSIGNED, clock, conversation, queue=queue, agent=agent, **contact))
            clock += timedelta(seconds=talk)
            whose = {"queue": queue, "agent": agent, **contact}
            items.append(event(EventType.HANDLED, clock, conversation, talk_ms=talk * 1000, hold_ms=7, **whose))
            acw = rng.randrange(900)
            items.append(
                event(EventType.WRAPUP, clock + timedelta(seconds=acw), conversation, acw_ms=acw * 1000, **whose)
            )
        items.append(event(EventType.ENDED, clock, conversation, **contact))
        events += [replace(item, tenant_id=tenant) for item in items]
    return [replace(item, offset=number) for number, item in enumerate(sorted(events, key=lambda item: item.time))]


def in_one_go(warehouse: Warehouse, events: list[Event]) -> None:
    land(warehouse.landing_dir, *events)
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_daily_analytics(warehouse, DAYS, run_id="r")


def in_steps(warehouse: Warehouse, events: list[Event]) -> None:
    """A third of the events arrives up to two days late."""
    rng = random.Random(7)
    arrivals = [
        (item.time + timedelta(seconds=rng.randrange(48 * 3600) if rng.random() < 0.3 else 0), item) for item in events
    ]
    arrivals.sort(key=lambda pair: pair[0])
    for start in range(0, len(arrivals), 200):
        by_arrival(warehouse, *(item for _, item in arrivals[start : start + 200]))


def in_random_order(warehouse: Warehouse, events: list[Event]) -> None:
    """With repeats, and days loaded while the rows of conversations lag behind."""
    shuffled = random.Random(5).sample(events, len(events))
    for start in range(0, len(shuffled), 250):
        land(warehouse.landing_dir, *shuffled[start : start + 250], *shuffled[: start // 10])
        load_daily_analytics(warehouse, run_id="r")
        load_events(warehouse, run_id="r")
        load_daily_analytics(warehouse, run_id="r")
        load_conversations(warehouse, run_id="r")
    load_daily_analytics(warehouse, run_id="r")


def by_backfill(warehouse: Warehouse, events: list[Event]) -> None:
    """One go by arrival, then a day is lost from every table and comes back by windows."""
    by_arrival(warehouse, *events)
    window = Window(at("00:00:00", day=5), at("00:00:00", day=6))
    with writer(warehouse) as connection, connection.begin():
        for name, column in (("events", "timestamp"), ("daily_analytics", "day"), ("conversations", "first_event_at")):
            connection.execute(
                sa.text(f"DELETE FROM {name} WHERE {column} >= :start AND {column} < :end"),
                {"start": window.start, "end": window.end},
            )
    load_events_window(warehouse, window, run_id="r")
    load_conversations(warehouse, window, run_id="r")
    load_daily_analytics(warehouse, Window(at("09:00:00", day=5), at("10:00:00", day=5)), run_id="r")


def test_five_ways_to_load_give_identical_days_which_are_the_sums_of_their_cells(
    make_warehouse: Callable[..., Warehouse],
) -> None:
    events = some_days(3)
    truth = make_warehouse()
    in_one_go(truth, events)
    expected = rows(truth)
    assert len(expected) > 40
    ways: list[Callable[[Warehouse, list[Event]], object]] = [
        lambda warehouse, events: by_arrival(warehouse, *events),
        in_steps,
        in_random_order,
        by_backfill,
    ]
    for way in ways:
        other = make_warehouse()
        way(other, events)
        assert rows(other) == expected

    load_wfm_intervals(truth, DAYS, run_id="r")
    assert sums(table(truth, "queue_intervals"), "interval_start") == sums(rows(truth, "daily_analytics"), "day")
    assert sums(rows(truth, "daily_queue_metrics"), "day") == sums(expected, "day")
    wholes = Counter[str]()
    for row in expected:
        wholes.update({name: row[name] for name in ("conversations", "repeat_callers", "transferred", "handled")})
    assert wholes["conversations"] == 90
    assert wholes["repeat_callers"] == repeated_calls(events) > 10
    assert 10 < wholes["transferred"] < wholes["handled"]


def sums(found: list[Row], time: str) -> dict[tuple[str, ...], dict[str, int]]:
    """What cells and days have in common, by tenant, queue, media and day."""
    names = [
        *("offered", "answered", "abandoned", "flowed_out", "answered_in_threshold", "wait_answered_ms"),
        *("wait_abandoned_ms", "handled", "talk_ms", "hold_ms", "acw_ms"),
    ]
    days: dict[tuple[str, ...], Counter[str]] = {}
    for row in found:
        if row["queue_id"] is not None:
            key = (row["tenant_id"], row["queue_id"], row["media_type"], f"{row[time]:%Y-%m-%d}")
            days.setdefault(key, Counter()).update({name: row[name] for name in names})
    return {key: {name: day[name] for name in names} for key, day in days.items() if any(day.values())}


def repeated_calls(events: list[Event]) -> int:
    """Counted call by call."""
    calls = [
        (item.tenant_id, item.payload["ani"], item.time)
        for item in events
        if item.type == EventType.STARTED
        and item.payload.get("ani") not in {None, "anonymous"}
        and item.payload["parent_conversation_id"] == item.payload["conversation_id"]
    ]
    day = timedelta(days=1)
    return sum(
        any(other[:2] == call[:2] and day >= call[2] - other[2] > timedelta(0) for other in calls) for call in calls
    )


def test_nothing_new_does_nothing(warehouse: Warehouse) -> None:
    by_arrival(warehouse, queued("09:00:00", "c1"), started(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "late"))
    assert [row["day"].year for row in rows(warehouse)] == [1999, 9999]
    assert load_daily_analytics(warehouse, run_id="r").load_ids == ()


def test_a_broken_rule_keeps_the_days(warehouse: Warehouse) -> None:
    by_arrival(warehouse, *leg("c", "ANNA", "10:00:00", "10:10:00"))
    with writer(warehouse) as connection, connection.begin():  # what no load writes, of another tenant
        connection.execute(sa.text("CREATE TEMPORARY TABLE wrong AS SELECT * FROM daily_analytics"))
        connection.execute(sa.text("UPDATE wrong SET tenant_id = 'bank-south', transferred = 2"))
        connection.execute(sa.text("INSERT INTO daily_analytics SELECT * FROM wrong"))
    before = rows(warehouse)
    with pytest.raises(QualityError, match=r"daily_analytics\.parts_within_wholes: 1"):
        by_arrival(warehouse, queued("11:00:00", "c", "NW"))
    assert rows(warehouse) == before
