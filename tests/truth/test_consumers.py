"""Each consumer keeps its guarantee while members are killed, groups rebalance and the CRM fails every tenth call."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from devstack.replay import SHIPPED_TRACE
from devstack.stack import LocalStack
from schemas.canonical import CanonicalEvent
from streaming.settings import Settings
from tests.arrival import ARRIVAL
from tests.processes import until
from tests.replaying import Replaying, read_table, replaying
from tests.truth.compare import assert_equal_tables
from tests.truth.consumers import SECTIONS, Consumers, consuming
from tests.truth.from_trace import expected_tables
from tests.truth.offline_fold import offline_fold
from tests.truth.simulated_crm import States
from tests.truth.test_replay import assert_equals_the_truth, small_trace
from warehouse.engine import Warehouse, writer
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.schema import open_warehouse
from warehouse.tables import agent_intervals, conversations, events, queue_intervals
from warehouse.windows import Window


def disturb(running: Replaying, consumers: Consumers, *, seconds: float, points: int, seed: int, leave: bool) -> None:
    """kill -9 of a member of each group at random points of the replay.

    Halfway a third member joins each group; to ``leave``, it ends after three quarters of the points.
    """
    random = Random(seed)
    moments = sorted(random.uniform(0.05, 0.95) * seconds for _ in range(points))
    running.replay.begin(running.speed_for(seconds))
    began = time.monotonic()
    for number, moment in enumerate(moments):
        if number == points // 2:
            consumers.add()
        if leave and number == points * 3 // 4:
            consumers.leave()
        time.sleep(max(0.0, began + moment - time.monotonic()))
        assert number > 0 or not running.replay.is_done(), "the first kill must hit the middle of the replay"
        for name in random.sample(sorted(SECTIONS), len(SECTIONS)):
            consumers.kill(name, random)
    until(running.replay.is_done, seconds + 120, "the vendors have sent everything")


def assert_the_crm_knows(consumers: Consumers, raw: list[dict[str, Any]]) -> None:
    """Effects and state changes of every event exactly once; states as the raw events say."""
    answers = consumers.crm.answers()
    assert answers["503"] > 0, "no call failed before its effect"
    assert answers["lost"] > 0, "no answer was lost after the effect"
    assert consumers.crm.effects() == Counter({event["event_id"] for event in raw})
    expected = offline_fold(raw)
    assert consumers.crm.states() == expected
    changes = consumers.changes()
    # A record on the bus makes one committed change; the repeated ones of a vendor make one each.
    assert Counter(key.decode().rpartition("|")[2] for key, _ in changes) == Counter(event["event_id"] for event in raw)
    assert folded(said for _, said in changes) == expected


def folded(changes: Iterable[dict[str, Any]]) -> States:
    """States by the versions that the changes carry."""
    newest: dict[tuple[str, str, str, str], dict[str, tuple[list[Any], str]]] = {}
    for said in changes:
        kind = "agent" if "agent_id" in said else "conversation"
        state = newest.setdefault((said["vendor"], said["tenant_id"], kind, said[f"{kind}_id"]), {})
        for name, value in said["fields"].items():
            state[name] = max(state.get(name, ([], "")), (said["version"], value))
    return {entity: {name: value for name, (_, value) in state.items()} for entity, state in newest.items()}


def assert_same_warehouse(running: Replaying, consumers: Consumers, raw: list[dict[str, Any]]) -> None:
    """What the killed members have landed makes the tables that the undisturbed sink's files make."""
    calm, ids = running.replay.settings(), {event["event_id"] for event in raw}
    until(lambda: loaded_events(calm) == len(ids), 60, "the undisturbed sink has landed everything")
    assert loaded_events(consumers.settings()) == len(ids)
    expected, actual = contents(calm, running.window()), contents(consumers.settings(), running.window())
    assert set(expected["events"]["event_id"]) == ids
    for name, table in expected.items():
        pd.testing.assert_frame_equal(actual[name], table, check_dtype=False, obj=name)


def loaded_events(settings: Settings) -> int:
    """Load what has landed; rows of ``events`` since."""
    with open_warehouse(settings) as warehouse:
        load_events(warehouse, run_id="test")
        with writer(warehouse) as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one())


def contents(settings: Settings, window: Window) -> dict[str, pd.DataFrame]:
    """The warehouse's tables without how rows arrived, in one order."""
    with open_warehouse(settings) as warehouse:
        load_wfm_intervals(warehouse, window, run_id="test")
        load_conversations(warehouse, run_id="test")
    found = {}
    for table in (events, conversations, queue_intervals, agent_intervals):
        frame = read_table(Warehouse.from_settings(settings), table)
        frame = frame.drop(columns=[name for name in frame.columns if name in ARRIVAL])
        found[table.name] = frame.sort_values(list(frame.columns), ignore_index=True)
    return found


def assert_live_equals_the_truth(running: Replaying, consumers: Consumers, trace: Path) -> None:
    """At the end of each interval the live figures are the warehouse's, in every cell."""
    end = running.window().end
    expected = expected_tables(trace, date_shift_days=running.replay.shift_days, until=end)
    for vendor in consumers.vendors:
        # An event of the next day ends the last interval.
        consumers.send(closing_event(vendor.name, vendor.tenant_id, int(end.timestamp() * 1000)))

    def arrived() -> bool:
        try:
            for wanted, found in zip(expected, consumers.live_tables(), strict=True):
                assert_equal_tables(wanted, found)
        except AssertionError:
            return False
        return True

    consumers.wait_live(arrived)
    for wanted, found in zip(expected, consumers.live_tables(), strict=True):
        assert len(wanted) > 0
        assert_equal_tables(wanted, found)


def closing_event(vendor: str, tenant_id: str, at_ms: int) -> CanonicalEvent:
    """The beginning of a conversation that never comes to a queue."""
    return {
        "event_id": f"closing-{tenant_id}",
        "vendor": vendor,
        "tenant_id": tenant_id,
        "timestamp": at_ms,
        "event_type": "conversation.started",
        "payload": {"conversation_id": "closing", "media_type": "VOICE"},
        "metadata": {},
    }


def prove(stack: LocalStack, folder: Path, trace: Path, *, seconds: float, points: int, leave: bool = False) -> None:
    # As recorded: no event lies in the future, whatever the time of day at which this runs.
    with (
        replaying(stack, folder / "run", trace=trace, as_recorded=True) as running,
        consuming(running, folder / "consumers", members=2) as consumers,
    ):
        for vendor in running.replay.vendors:
            running.replay.misbehave(vendor.name, seed=7, duplicate=0.05)
        consumers.crm.misbehave(seed=5, fail_before=0.05, fail_after=0.05, latency_ms=20)
        disturb(running, consumers, seconds=seconds, points=points, seed=11, leave=leave)
        assert consumers.kills == dict.fromkeys(SECTIONS, points)
        running.wait_landed()
        consumers.wait_caught_up()
        raw = consumers.events()
        assert_same_warehouse(running, consumers, raw)
        assert_equals_the_truth(running, trace)
        assert_the_crm_knows(consumers, raw)
        assert consumers.dead_letters() == 0
        assert_live_equals_the_truth(running, consumers, trace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_every_consumer_in_an_hour_of_calls_change_nothing(stack: LocalStack, tmp_path: Path) -> None:
    prove(stack, tmp_path, small_trace(tmp_path), seconds=20, points=2)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_fifty_kills_of_every_consumer_in_a_real_day_change_nothing(stack: LocalStack, tmp_path: Path) -> None:
    prove(stack, tmp_path, SHIPPED_TRACE, seconds=600, points=50, leave=True)
