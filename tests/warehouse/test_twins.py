"""A reconciled event and the webhook of the same occurrence: one row stays, whichever came first."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import tests.warehouse.events as made
from schemas.canonical import EventType
from tests.warehouse.events import Event, at, event, everything, land, queue_cells, queued, status, table
from warehouse import scratch
from warehouse.engine import Warehouse, writer
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals_incremental
from warehouse.statements import run
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))


def reconciled(item: Event) -> Event:
    """The same, published by reconciliation."""
    return replace(item, metadata={"ccaas.native_type": "test", "ccaas.recovered": "reconciled"})


def later(item: Event, seconds: float) -> Event:
    return replace(item, time=item.time + timedelta(seconds=seconds))


def with_places(items: list[Event]) -> list[Event]:
    """Each at an offset of its own, whatever the order of landing."""
    return [replace(item, offset=number) for number, item in enumerate(items)]


def load(warehouse: Warehouse, *files: list[Event]) -> None:
    """Each file arrives by itself; cells and conversations follow each arrival."""
    for file in files:
        land(warehouse.landing_dir, *file)
        load_events(warehouse, run_id="r")
        load_wfm_intervals_incremental(warehouse, end=at("12:00:00"), run_id="r")
        load_conversations(warehouse, run_id="r")


def times(warehouse: Warehouse) -> list[tuple[str, str]]:
    """Clock of each event, and whether it is a reconciled one."""
    return sorted(
        (f"{row['timestamp']:%H:%M:%S.%f}"[:12], "reconciled" if "ccaas.recovered" in row["metadata"] else "pushed")
        for row in table(warehouse, "events")
    )


CALL = queued("09:00:10", "c1")
PUSHED = later(CALL, 0.25)


@pytest.mark.parametrize(
    ("first", "seconds"),
    [
        ("reconciled", -4),
        ("reconciled", 0),
        ("reconciled", 5.25),
        ("pushed", 0),
        ("pushed", 1),
        ("together", 0),
        ("together", 1),
    ],
)
def test_the_pushed_one_stays(warehouse: Warehouse, first: str, seconds: float) -> None:
    pushed, twin = with_places([PUSHED, reconciled(later(CALL, seconds))])
    order = {"reconciled": [[twin], [pushed]], "pushed": [[pushed], [twin]], "together": [[twin, pushed]]}[first]

    load(warehouse, *order)

    assert times(warehouse) == [("09:00:10.250", "pushed")]
    assert queue_cells(warehouse) == {("PS", "09:00"): {"offered": 1}}


def test_what_is_no_twin_stays_beside_it(warehouse: Warehouse) -> None:
    others = [
        later(CALL, 5.3),
        replace(CALL, payload=CALL.payload | {"queue_id": "NW"}),
        replace(CALL, payload=CALL.payload | {"conversation_id": "c2"}),
        replace(CALL, type=EventType.ABANDONED),
        replace(CALL, tenant_id="bank-east"),
        replace(CALL, vendor="cxone"),
        replace(CALL, payload={key: value for key, value in CALL.payload.items() if key != "queue_id"}),
    ]
    pushed, *apart = with_places([PUSHED, *map(reconciled, others)])
    load(warehouse, apart, [pushed])
    assert len(table(warehouse, "events")) == 1 + len(others)


def test_two_without_a_queue_are_twins(warehouse: Warehouse) -> None:
    leg = event(EventType.HANDLED, "09:00:10", "c1", agent="ANNA")
    load(warehouse, *([item] for item in with_places([reconciled(leg), later(leg, 1.5)])))
    assert times(warehouse) == [("09:00:11.500", "pushed")]


def test_types_without_a_time_in_their_id(warehouse: Warehouse) -> None:
    """Started: same id, other time. The pushed time counts in either order."""
    start = event(EventType.STARTED, "09:00:10", "c1", media="VOICE")
    pushed, twin = with_places([later(start, 0.25), reconciled(later(start, 60))])
    load(warehouse, [twin], [pushed])
    assert times(warehouse) == [("09:00:10.250", "pushed")]
    assert [row["started_at"] for row in table(warehouse, "conversations")] == [pushed.time]


def test_a_cell_that_a_twin_left_is_built_anew(warehouse: Warehouse) -> None:
    """REST saw the end of the quarter hour, the webhook the beginning of the next."""
    twin = reconciled(queued("09:14:59", "c1"))
    pushed = replace(queued("09:14:59", "c1"), time=at("09:15:00"), offset=1)
    load(warehouse, [twin])
    assert queue_cells(warehouse) == {("PS", "09:00"): {"offered": 1}}
    load(warehouse, [pushed])
    assert queue_cells(warehouse) == {("PS", "09:15"): {"offered": 1}}


def test_an_agents_cell_that_a_twin_left_is_built_anew(warehouse: Warehouse) -> None:
    leg = made.handled("09:14:59", "c1", talk_ms=1000)
    load(warehouse, [status("08:00:00", "ANNA", "OFF_QUEUE"), reconciled(replace(leg, offset=1))])
    assert made.agent_cells(warehouse) == {("ANNA", "09:00"): {"off_queue_ms": 900_000, "handled": 1}}
    load(warehouse, [replace(leg, time=at("09:15:00"), offset=2)])
    assert made.agent_cells(warehouse) == {("ANNA", "09:15"): {"off_queue_ms": 900_000, "handled": 1}}


def test_one_webhook_takes_the_place_of_one_only(warehouse: Warehouse) -> None:
    twins = [reconciled(later(CALL, seconds)) for seconds in (0, 2, 4)]
    first, second, third, pushed = with_places([*twins, later(CALL, 3.5)])
    load(warehouse, [first], [second], [pushed], [third])
    assert times(warehouse) == [
        ("09:00:12.000", "reconciled"),
        ("09:00:13.500", "pushed"),
        ("09:00:14.000", "reconciled"),
    ]


def test_the_same_second_is_the_nearest_twin(warehouse: Warehouse) -> None:
    first, second, pushed = with_places([reconciled(CALL), reconciled(later(CALL, 2)), later(CALL, 2.5)])
    load(warehouse, [first], [second], [pushed])
    assert times(warehouse) == [("09:00:10.000", "reconciled"), ("09:00:12.500", "pushed")]


def test_published_twice_by_reconciliation_is_one(warehouse: Warehouse) -> None:
    twin, again, pushed, late = with_places([reconciled(CALL), reconciled(CALL), later(CALL, 1.5), reconciled(CALL)])
    load(warehouse, [twin, again])
    assert times(warehouse) == [("09:00:10.000", "reconciled")]
    load(warehouse, [pushed], [late])
    assert times(warehouse) == [("09:00:11.500", "pushed")]


def _random_events(chance: random.Random) -> list[Event]:
    """Entries of two contacts within half a minute, some told by REST, some by webhook, some by both."""
    found: dict[str, Event] = {}
    for _ in range(chance.randint(2, 9)):
        item = queued("09:14:45", chance.choice(["c1", "c2"]))
        truth = later(item, chance.randint(0, 30) + chance.random())
        if chance.random() < 0.7:
            found[truth.event_id] = truth
        if chance.random() < 0.7:
            whole = truth.time.replace(microsecond=0) + timedelta(seconds=chance.randint(-1, 1))
            twin = reconciled(replace(truth, time=whole))
            found[f"reconciled-{twin.event_id}"] = twin
    return with_places(list(found.values()))


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_arrival_gives_the_same_tables(make_warehouse: Callable[..., Warehouse], seed: int) -> None:
    chance = random.Random(seed)
    items = _random_events(chance)
    results: list[Any] = []
    for _ in range(3):
        warehouse = make_warehouse()
        chance.shuffle(items)
        cuts = sorted(chance.sample(range(len(items) + 1), k=min(3, len(items))))
        load(warehouse, *(items[a:b] for a, b in itertools.pairwise([0, *cuts, len(items)]) if a < b))
        results.append(everything(warehouse))
    assert results[0] == results[1] == results[2]
    assert len({row["event_id"] for row in results[0]["events"]}) == len(results[0]["events"])


@pytest.mark.parametrize("seed", range(12))
def test_as_many_pairs_as_there_can_be(seed: int) -> None:
    """The statement's walk against every possible pairing, on DuckDB alone."""
    chance = random.Random(seed)
    sides = {
        side: sorted(chance.sample(range(0, 30_000, 500), chance.randint(1, 5))) for side in ("reconciled", "pushed")
    }

    def most(reconciled_ms: list[int], pushed_ms: list[int]) -> int:
        if not reconciled_ms:
            return 0
        head, *rest = reconciled_ms
        return max(
            most(rest, pushed_ms),
            *(1 + most(rest, [p for p in pushed_ms if p != other]) for other in pushed_ms if abs(other - head) <= 5000),
            0,
        )

    engine = sa.create_engine("duckdb:///:memory:")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE reconciled_events (event_id TEXT)"))
        scratch.renew(connection, scratch.twin_members, scratch.twin_losers, scratch.twin_pushed)
        rows = [
            {"group_no": 1, "side": side, "nth": nth, "at_ms": ms, "event_id": f"{side}-{ms}"}
            for side, instants in sides.items()
            for nth, ms in enumerate(instants, 1)
        ]
        connection.execute(sa.insert(scratch.twin_members), rows)
        run(connection, "twins", "losers", near_ms=5000)
        count = sa.select(sa.func.count()).select_from(scratch.twin_losers)
        assert connection.execute(count).scalar_one() == most(sides["reconciled"], sides["pushed"])
    engine.dispose()


def test_a_load_by_window_keeps_the_verdict(warehouse: Warehouse) -> None:
    alone = replace(reconciled(queued("09:00:40", "c1")), offset=5)
    pushed, twin = with_places([PUSHED, reconciled(later(CALL, 1))])
    load(warehouse, [twin], [pushed], [alone])
    before = everything(warehouse)

    load_events_window(warehouse, DAY, run_id="r")

    assert everything(warehouse) == before


def test_a_load_by_window_restores_what_was_lost(warehouse: Warehouse) -> None:
    alone = replace(reconciled(queued("09:00:40", "c1")), offset=5)
    pushed, twin = with_places([PUSHED, reconciled(later(CALL, 1))])
    load(warehouse, [twin], [pushed], [alone])
    before = table(warehouse, "events")
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("DELETE FROM events"))

    load_events_window(warehouse, DAY, run_id="r")

    assert table(warehouse, "events") == before


def test_a_webhook_that_quotes_the_mark_is_no_reconciled_event(warehouse: Warehouse) -> None:
    quoted = replace(CALL, metadata={"cxone.note": '"ccaas.recovered":"reconciled"'})
    land(warehouse.landing_dir, quoted)
    load_events(warehouse, run_id="r")
    with writer(warehouse) as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM reconciled_events")).scalar_one()
    assert (count, len(table(warehouse, "events"))) == (0, 1)


def test_a_failed_load_leaves_the_twins_as_they_were(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed, twin = with_places([PUSHED, reconciled(later(CALL, 1))])
    load(warehouse, [twin])
    land(warehouse.landing_dir, pushed)
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.quality.check", _broken)
        with pytest.raises(RuntimeError):
            load_events(warehouse, run_id="r")
    assert times(warehouse) == [("09:00:11.000", "reconciled")]
    load_events(warehouse, run_id="r")
    assert times(warehouse) == [("09:00:10.250", "pushed")]


def _broken(*_: object, **__: object) -> None:
    raise RuntimeError
