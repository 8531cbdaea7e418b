"""The fold gives what the warehouse gives, in whatever order and however often facts come."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.canonical import EventType
from streaming.instants import to_ms
from streaming.wfm.agent import Agent
from streaming.wfm.conversation import Rules
from streaming.wfm.facts import Fact, Segment, fact_of, read_block, write_block
from streaming.wfm.fold import Fold, Limits
from streaming.wfm.records import Records
from tests.streaming.wfm.day import END, by_records, by_warehouse, canonical, half_day
from tests.warehouse.events import Event, at, event, status

HOUR_MS = 3_600_000
RULES = Rules(15 * 60_000, 20_000)
LIMITS = Limits(6 * HOUR_MS, 24 * HOUR_MS, 168 * HOUR_MS)

Live = dict[tuple[str, ...], dict[str, Any]]


def fold_of(limits: Limits = LIMITS) -> Fold:
    return Fold("genesys.bank-north", RULES, limits)


class Topic:
    """What a reader of the live topic holds."""

    def __init__(self, fold: Fold) -> None:
        self.records: Live = {}
        self._made = Records(fold, "genesys", "bank-north")

    def publish(self, *, all_cells: bool) -> None:
        for key, value in self._made.changed(all_cells=all_cells):
            if value is None:
                self.records.pop(tuple(orjson.loads(key)), None)
            else:
                self.records[tuple(orjson.loads(key))] = orjson.loads(value)


def partitioned(items: list[Event], rng: random.Random, count: int) -> dict[int, list[Fact]]:
    """Facts by partition, an event always on the same one; some twice, some late."""
    where = {item.event_id: rng.randrange(count) for item in items}
    sent = sorted(
        [*items, *rng.sample(items, len(items) // 10)],
        key=lambda item: (to_ms(item.time) + rng.choice((0, 0, 1000, 3_000_000)), rng.random()),
    )
    lines: dict[int, list[Fact]] = {number: [] for number in range(count)}
    for item in sent:
        line = lines[where[item.event_id]]
        fact = fact_of(canonical(item), len(line))
        assert fact is not None
        line.append(fact)
    return lines


def segments(lines: dict[int, list[Fact]], rng: random.Random) -> Iterator[Segment]:
    """Each partition in its order, partitions by chance, some of it again from before: a member that began anew."""
    reached = dict.fromkeys(lines, 0)
    while open_lines := [number for number, line in lines.items() if reached[number] < len(line)]:
        number = rng.choice(open_lines)
        first = reached[number]
        if rng.random() < 0.2:
            first = rng.randrange(first + 1)
        end = min(len(lines[number]), max(first, reached[number]) + rng.randrange(1, 40))
        facts = lines[number][first:end]
        yield Segment(number, first, end, max(fact[2] for fact in facts), facts)
        reached[number] = max(reached[number], end)


def pass_time(fold: Fold, topic: Topic, partitions: int) -> None:
    fold.close_until(min(fold.newest.values()))
    if len(fold.newest) == partitions and fold.is_over(min(fold.newest.values())):
        topic.publish(all_cells=True)
        fold.forget(min(fold.newest.values()))


@pytest.mark.parametrize("seed", range(4))
def test_live_intervals_are_those_of_the_warehouse(seed: int, tmp_path: Path) -> None:
    items = half_day(seed, 250)
    oracle = by_warehouse(tmp_path, items)
    rng = random.Random(seed)
    fold = fold_of()
    topic = Topic(fold)
    for segment in segments(partitioned(items, rng, 4), rng):
        (passed_on,) = read_block(write_block([segment]))
        fold.apply(passed_on, 0)
        fold.measure()
        pass_time(fold, topic, 4)
        if rng.random() < 0.3:
            topic.publish(all_cells=rng.random() < 0.3)
        if rng.random() < 0.2:
            fold.pack()
        if rng.random() < 0.02:  # the merger dies, another one begins with a snapshot
            head, pieces = orjson.loads(orjson.dumps(fold.head())), orjson.loads(orjson.dumps(list(fold.dump())))
            fold = fold_of()
            fold.load(head, pieces)
            fold.touch_all()
            held = topic.records
            topic = Topic(fold)
            topic.records = held
    fold.close_until(to_ms(END))
    topic.publish(all_cells=True)
    assert by_records(topic.records, oracle) == oracle
    assert len(oracle["queue_intervals"]) > 50
    assert len(oracle["agent_intervals"]) > 100


def segment_of(items: list[Event], first: int = 0, partition: int = 0) -> Segment:
    facts = [fact for number, item in enumerate(items) if (fact := fact_of(canonical(item), first + number))]
    return Segment(partition, first, first + len(items), max(fact[2] for fact in facts), facts)


def apply(fold: Fold, topic: Topic, items: list[Event], first: int = 0) -> None:
    fold.apply(segment_of(items, first), 0)
    fold.measure()
    topic.publish(all_cells=True)


SALES_0900 = ("queue_interval", "sales", "VOICE", "1999-01-04T09:00:00Z")


def test_a_late_event_amends_an_interval_that_is_over() -> None:
    fold = fold_of()
    topic = Topic(fold)
    entered = event(EventType.QUEUED, "09:00:00", "c1", queue="sales", media="VOICE")
    apply(fold, topic, [entered, event(EventType.STARTED, "09:31:00", "c2")])
    fold.close_until(to_ms(at("09:31:00")))
    topic.publish(all_cells=False)
    assert (topic.records[SALES_0900]["closed"], topic.records[SALES_0900]["answered"]) == (True, 0)
    late = event(EventType.ASSIGNED, "09:00:30", "c1", queue="sales", agent="anna", media="VOICE")
    apply(fold, topic, [late, status("09:05:00", "anna", "IDLE")], first=2)
    assert (topic.records[SALES_0900]["closed"], topic.records[SALES_0900]["answered"]) == (True, 1)
    assert topic.records[SALES_0900]["wait_answered_ms"] == 30_000
    anna = topic.records["agent_interval", "anna", "1999-01-04T09:00:00Z"]
    assert anna["idle_ms"] == 600_000
    apply(fold, topic, [status("09:00:00", "anna", "OFF_QUEUE"), status("09:05:01", "anna", "OFF_QUEUE")], first=4)
    assert topic.records["agent_interval", "anna", "1999-01-04T09:00:00Z"]["idle_ms"] == 1000


def test_what_is_older_than_what_is_kept_amends_no_more() -> None:
    fold = fold_of()
    topic = Topic(fold)
    apply(fold, topic, [event(EventType.QUEUED, "01:00:00", "c1", queue="sales", media="VOICE")])
    apply(fold, topic, [event(EventType.STARTED, "09:00:00", "c2")], first=1)
    fold.close_until(to_ms(at("09:00:00")))
    fold.forget(to_ms(at("09:00:00")))
    assert fold.cells == {}
    apply(fold, topic, [event(EventType.QUEUED, "02:00:00", "c3", queue="sales", media="VOICE")], first=2)
    assert fold.cells == {}
    assert topic.records["queue", "sales", "VOICE"]["waiting"] == 1, "the one that waits since 01:00 is still known"
    apply(fold, topic, [event(EventType.ENDED, "09:05:00", "c1")], first=3)
    assert topic.records["queue", "sales", "VOICE"]["waiting"] == 0


def test_rows_are_bounded_whatever_comes() -> None:
    fold = fold_of()
    topic = Topic(fold)
    most = 2_000
    for number in range(40):
        calls = [
            event(EventType.QUEUED, at("00:00:00") + timedelta(minutes=10 * number), f"c{number}-{call}", queue="sales")
            for call in range(500)
        ]
        apply(fold, topic, calls, first=500 * number)
        fold.close_until(fold.clock_ms)
        while fold.rows > most:
            topic.publish(all_cells=True)
            if fold.can_forget:
                fold.forget_interval()
            else:
                fold.drop_open(fold.rows - most)
    assert 0 < fold.rows <= most
    offered = [record["offered"] for key, record in topic.records.items() if key[0] == "queue_interval"]
    assert sum(offered) == 40 * 500, "what is forgotten was published before"


def test_a_gap_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    fold = fold_of()
    fold.apply(segment_of([event(EventType.STARTED, "09:00:00", "c1")], first=5), 0)
    fold.apply(segment_of([event(EventType.STARTED, "09:00:00", "c2")], first=9), 0)
    assert fold.covered == {0: 10}
    assert "facts are missing" in capsys.readouterr().out


def test_other_rules_cut_what_is_kept_anew() -> None:
    fold = fold_of()
    items = half_day(1, 50)
    fold.apply(segment_of(items), 0)
    fold.measure()
    fold.pack()
    fold.pack()
    hourly = Fold("genesys.bank-north", Rules(60 * 60_000, 30_000), LIMITS)
    hourly.load(orjson.loads(orjson.dumps(fold.head())), orjson.loads(orjson.dumps(list(fold.dump()))))
    direct = Fold("genesys.bank-north", Rules(60 * 60_000, 30_000), LIMITS)
    direct.apply(segment_of(items), 0)
    direct.measure()
    assert hourly.cells == direct.cells
    assert hourly.queues == direct.queues


@pytest.mark.parametrize("garbage", [None, b"", b"{", b"7", b"[[1,2]]", b'[{"a":1}]'])
def test_a_record_that_is_no_block_says_so(garbage: bytes | None) -> None:
    with pytest.raises(ValueError, match="no block of facts"):
        read_block(garbage)


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "conversation.painted"},
        {"timestamp": -1},
        {"timestamp": 253_402_300_800_000},
        {"payload": {}},
    ],
)
def test_what_live_figures_have_no_use_for_is_no_fact(change: dict[str, Any]) -> None:
    good = canonical(event(EventType.QUEUED, "09:00:00", "c1", queue="sales"))
    assert fact_of(good, 0) is not None
    changed: Any = {**good, **change}
    assert fact_of(changed, 0) is None


def test_an_agents_time_before_its_status_is_added_up_as_it_comes() -> None:
    rng = random.Random(3)
    statuses = [item for item in half_day(3, 0) if item.payload["agent_id"] == "agent-3"]
    shuffled = sorted(statuses, key=lambda item: item.time + timedelta(seconds=rng.choice((0, 0, 0, 900))))
    agent, longest_ms = Agent(), 168 * HOUR_MS
    for number, item in enumerate(shuffled):
        agent.add(to_ms(item.time), item.event_id, item.payload["agent_status"])
        since_ms = agent.statuses[-1][0]
        start_ms = since_ms - since_ms % RULES.step_ms
        assert agent.sums_until_newest(start_ms, longest_ms) == agent.sums(start_ms, since_ms, longest_ms)
        if number % 5 == 4:
            agent.forget_before(since_ms - HOUR_MS)
    assert len(shuffled) > 10
