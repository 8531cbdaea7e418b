"""The fold gives what the warehouse gives, in whatever order and however often facts come."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from streaming.instants import to_ms
from streaming.wfm.conversation import Rules
from streaming.wfm.facts import Fact, Segment, fact_of, read_block, write_block
from streaming.wfm.fold import Fold, Limits
from streaming.wfm.records import Records
from tests.streaming.wfm.day import END, by_records, by_warehouse, canonical, half_day
from tests.warehouse.events import Event

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
