"""Memory is bounded, and what has to be given up for it is what is missed least."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from schemas.canonical import EventType
from streaming.instants import to_ms
from streaming.wfm.conversation import MOST_FACTS
from streaming.wfm.facts import Fact, Segment, cut, fact_of, write_block
from streaming.wfm.fold import Fold, Limits
from streaming.wfm.forgotten import Forgotten
from streaming.wfm.room import make_room
from tests.streaming.wfm.day import canonical
from tests.streaming.wfm.test_fold import HOUR_MS, RULES, fold_of, segment_of
from tests.warehouse.events import Event, at, event, status

WHERE = {"queue": "sales", "media": "VOICE"}


def take(fold: Fold, items: list[Event]) -> None:
    fold.apply(segment_of(items, fold.covered.get(0, 0)), 0)
    fold.measure()


def call(number: int, begin: datetime) -> list[Event]:
    """A call that is over after a minute, its wrap-up apart."""
    name = f"c{number}"
    return [
        event(EventType.QUEUED, begin, name, **WHERE),
        event(EventType.ASSIGNED, begin + timedelta(seconds=10), name, agent="anna", **WHERE),
        event(EventType.HANDLED, begin + timedelta(seconds=50), name, agent="anna", talk_ms=40_000, **WHERE),
        event(EventType.ENDED, begin + timedelta(seconds=51), name),
    ]


def wrapup(number: int, begin: datetime) -> Event:
    return event(EventType.WRAPUP, begin + timedelta(seconds=58), f"c{number}", agent="anna", acw_ms=7000, **WHERE)


def begins(count: int) -> Iterator[datetime]:
    return (at("09:00:00") + timedelta(milliseconds=700_000 * number // count) for number in range(count))


def totals(fold: Fold) -> dict[str, int]:
    names = ("offered", "answered", "handled", "acw_ms")
    return dict(zip(names, (sum(cell[place] for cell in fold.cells.values()) for place in (0, 1, 7, 10)), strict=True))


def rest(fold: Fold) -> None:
    """Two sweeps pass."""
    fold.pack()
    fold.pack()


def test_twice_as_much_as_there_is_room_for_and_late_events_count_right() -> None:
    """A call is a row once it is over; its wrap-up and a repetition come 30 s late, after the interval has closed."""
    fold, most, count = fold_of(), 1000, 2000
    late: list[Event] = []
    for number, begin in enumerate(begins(count)):
        items = call(number, begin)
        late += [*items, wrapup(number, begin)]
        take(fold, items)
        if number % 50 == 49:
            until = begin - timedelta(seconds=30)
            due = [item for item in late if item.time < until]
            late = [item for item in late if item.time >= until]
            if due:
                take(fold, due)
            fold.pack()
            if fold.rows > most:
                fold.drop_ended(fold.rows - most)
    take(fold, [event(EventType.STARTED, "09:15:00", "next")])
    fold.close_until(to_ms(at("09:15:01")))
    rest(fold)
    fold.drop_ended(max(0, fold.rows - most))
    take(fold, late)
    rest(fold)
    assert fold.rows <= most + 1
    assert fold.horizon_ms == 0, "nothing of an interval was given up"
    assert totals(fold) == {"offered": count, "answered": count, "handled": count, "acw_ms": 7000 * count}


def test_of_a_forgotten_call_nothing_is_counted_twice_also_after_a_restart() -> None:
    fold = fold_of()
    items = [item for number, begin in enumerate(begins(100)) for item in call(number, begin)]
    take(fold, items)
    rest(fold)
    before = totals(fold)
    assert fold.drop_ended(1_000_000) > 90
    again = fold_of()
    again.load(orjson.loads(orjson.dumps(fold.head())), orjson.loads(orjson.dumps(list(fold.dump()))))
    for one in (fold, again):
        take(one, items)
        assert totals(one) == before
        assert one.rows < 10


def test_an_ended_call_at_rest_is_the_same_call() -> None:
    fold, plain = fold_of(), fold_of()
    items = [item for number, begin in enumerate(begins(100)) for item in call(number, begin)]
    late = [wrapup(number, begin) for number, begin in enumerate(begins(100))]
    for one in (fold, plain):
        take(one, items)
    rest(fold)
    assert fold.rows < plain.rows / 2
    again = fold_of()
    again.load(orjson.loads(orjson.dumps(fold.head())), orjson.loads(orjson.dumps(list(fold.dump()))))
    assert again.rows == fold.rows
    for one in (plain, fold, again):
        take(one, [*items, *late])
        assert (one.cells, one.agents["anna"].handled) == (plain.cells, plain.agents["anna"].handled)
    assert totals(fold)["acw_ms"] == 700_000


def test_ended_calls_go_first_then_intervals_and_who_waits_last(capsys: pytest.CaptureFixture[str]) -> None:
    fold = fold_of()
    waiting = [event(EventType.QUEUED, "09:00:30", f"w{number}", **WHERE) for number in range(20)]
    wrapping = call(100, at("09:00:00"))[:-1]
    take(fold, [*waiting, *wrapping, *call(1, at("09:05:00"))])
    rest(fold)
    fold.drop_ended(1000)
    queue = fold.queues["sales", "VOICE"]
    assert len(queue.waiting) == 20
    take(fold, [wrapup(100, at("09:00:00"))])
    assert totals(fold)["acw_ms"] == 7000, "one between its leg's end and its wrap-up is not over"
    assert "conversations that go on" not in capsys.readouterr().out
    fold.drop_open(10)
    assert 0 < len(queue.waiting) < 20
    assert "conversations that go on are forgotten" in capsys.readouterr().out


def test_the_interval_that_closed_last_is_never_given_up() -> None:
    fold = fold_of()
    for hour in range(3):
        take(fold, [event(EventType.QUEUED, f"0{hour}:00:00", f"c{hour}", **WHERE)])
    fold.close_until(to_ms(at("02:15:00")))
    steps = 0
    while fold.can_forget:
        horizon_ms = fold.horizon_ms
        fold.forget_interval()
        assert horizon_ms == 0 or fold.horizon_ms - horizon_ms >= RULES.step_ms
        steps += 1
        assert steps < 20
    assert list(fold.cells) == [("sales", "VOICE", to_ms(at("02:00:00")))]
    take(fold, [event(EventType.ASSIGNED, "02:01:00", "late", **WHERE)])
    assert totals(fold)["answered"] == 1


def test_statuses_alone_give_way_only_as_far_as_they_can() -> None:
    """There are no intervals of queues, and of each agent the newest status stays."""
    fold = fold_of()
    take(fold, [status("09:00:00", f"a{number}", "IDLE") for number in range(500)])
    fold.close_until(to_ms(at("09:30:00")))
    steps = 0
    while fold.can_forget:
        assert fold.forget_interval() == 0
        steps += 1
        assert steps < 30
    assert fold.drop_ended(100) == fold.drop_open(100) == 0
    assert fold.rows == 500


def test_hours_that_are_no_multiple_of_the_interval() -> None:
    fold = fold_of(Limits(int(0.4 * HOUR_MS), HOUR_MS, HOUR_MS))
    take(fold, [event(EventType.QUEUED, "09:00:00", "c1", **WHERE)])
    fold.forget(to_ms(at("09:35:00")))
    assert fold.horizon_ms == to_ms(at("09:00:00"))


def test_an_id_that_everybody_shares_costs_no_more_than_its_bound(capsys: pytest.CaptureFixture[str]) -> None:
    fold = fold_of()
    begin = at("09:00:00")
    for batch in range(6):
        take(
            fold,
            [
                event(EventType.QUEUED, begin + timedelta(seconds=500 * batch + number), "0", **WHERE)
                for number in range(500)
            ],
        )
    assert fold.rows <= MOST_FACTS + 10
    assert totals(fold)["offered"] == MOST_FACTS
    assert not fold.queues["sales", "VOICE"].waiting
    rest(fold)
    assert capsys.readouterr().out.count("too many events name the same conversation") == 1
    take(fold, [status(begin + timedelta(seconds=number), "0", "IDLE") for number in range(6000)])
    assert len(fold.agents["0"].statuses) == 5000
    assert capsys.readouterr().out.count("too many events name the same agent") == 1


def test_a_long_id_is_no_fact() -> None:
    good = canonical(event(EventType.QUEUED, "09:00:00", "c" * 256, **WHERE))
    assert fact_of(good, 0) is not None
    for items in (
        event(EventType.QUEUED, "09:00:00", "c" * 257, **WHERE),
        event(EventType.QUEUED, "09:00:00", "c1", queue="q" * 257),
        status("09:00:00", "a" * 257, "IDLE"),
    ):
        assert fact_of(canonical(items), 0) is None


@pytest.mark.parametrize("sizes", [[0], [2500], [999, 2], [1000, 0, 1001], [400, 400, 400]])
def test_blocks_are_cut_so_that_each_is_a_record(sizes: list[int]) -> None:
    name = "\x01" * 256
    segments: list[Segment] = []
    for partition, size in enumerate(sizes):
        # Every third record is no fact.
        facts: list[Fact] = [
            (offset + offset // 2, 1, 0, name, name, name, name, name, None, None) for offset in range(size)
        ]
        segments.append(Segment(partition, 0, size * 2, 9, facts))
    found: dict[int, Any] = {}
    for portion in cut(segments):
        assert len(write_block(portion)) < 8 * 1024 * 1024
        for segment in portion:
            before = found.setdefault(segment.partition, [0, []])
            assert segment.first == before[0]
            assert all(segment.first <= fact[0] < segment.next for fact in segment.facts)
            before[0] = segment.next
            before[1] += segment.facts
    assert found == {segment.partition: [segment.next, segment.facts] for segment in segments}


def test_what_is_forgotten_is_known_until_its_time_is_over() -> None:
    forgotten = Forgotten()
    forgotten.add(0, [f"c{number}" for number in range(100)])
    forgotten.add(900, ["d1"])
    forgotten.add(900, ["d2"])
    again = Forgotten()
    for start, state in orjson.loads(orjson.dumps(list(forgotten.dump()))):
        again.load(start, state)
    for one in (forgotten, again):
        assert all(name in one for name in ("c0", "c99", "d1", "d2"))
        assert "c100" not in one
        one.forget_before(900)
        assert "c0" not in one
        assert "d1" in one


def sweep(folds: list[Fold], most: int) -> tuple[int, int]:
    """Rows that are left, and how many folds had to be published."""
    told: list[Fold] = []
    return make_room(folds, most, told.append), len(told)


def test_many_small_tenants_that_can_give_up_nothing_do_not_stop_the_member() -> None:
    folds = [fold_of() for _ in range(20)]
    for fold in folds:
        take(fold, [status("09:00:00", f"a{number}", "IDLE") for number in range(61)])
        fold.close_until(to_ms(at("09:30:00")))
    for _ in range(30):
        assert sweep(folds, 1000)[0] == 20 * 61
    assert sweep(folds, 1000)[1] == 0


def test_a_sweep_gives_up_at_most_one_interval_of_a_tenant_and_calls_that_are_over_before() -> None:
    large, small = fold_of(), fold_of()
    for fold, count in ((large, 300), (small, 20)):
        take(fold, [item for number, begin in enumerate(begins(count)) for item in call(number, begin)])
        rest(fold)
        take(fold, [event(EventType.QUEUED, f"09:{minute}:00", f"w{minute}", **WHERE) for minute in range(16, 60)])
        fold.close_until(to_ms(at("09:50:00")))
    small_rows = small.rows
    rows, published = sweep([small, large], 300)
    assert (rows <= 300, published, small.rows) == (True, 0, small_rows)
    horizons = []
    for _ in range(4):
        sweep([small, large], 100)
        horizons.append((large.horizon_ms - to_ms(at("09:00:00"))) // RULES.step_ms)
    assert horizons == [1, 2, 2, 2], "the interval from 09:30 on closed last"
    rows, _ = sweep([small, large], 100)
    assert rows <= 100
