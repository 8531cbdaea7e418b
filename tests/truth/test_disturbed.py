"""A day on which both vendors misbehave ends in the very warehouse of an undisturbed day."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from devstack.replay import SHIPPED_TRACE
from devstack.stack import LocalStack
from streaming.vendors.cxone.deferred import process_deferred
from streaming.vendors.cxone.reconcile import reconcile
from streaming.vendors.genesys.backfill import backfill
from tests.arrival import ARRIVAL, ENGINES_OWN
from tests.processes import until
from tests.replaying import Replaying, replaying
from tests.streaming.genesys.simulator import QUICK
from tests.truth.test_replay import assert_equals_the_truth, small_trace
from warehouse.tables import agent_intervals, conversations, events, queue_intervals

# The metadata say how an event came; ids differ, since the tenants do.
_LEFT_OUT = ARRIVAL | ENGINES_OWN | {"metadata", "event_id"}


def contents(running: Replaying) -> dict[str, pd.DataFrame]:
    """The warehouse's tables without arrival columns and without the run's suffix of the tenants, in one order."""
    found = {}
    for table in (events, conversations, queue_intervals, agent_intervals):
        frame = running.table(table)
        frame = frame.drop(columns=[name for name in frame.columns if name in _LEFT_OUT])
        frame["tenant_id"] = frame["tenant_id"].str.rpartition("-")[0]
        found[table.name] = frame.sort_values(list(frame.columns), ignore_index=True)
    return found


def disturb(running: Replaying, seconds: float) -> None:
    """Everything that the vendors can do, spread over a replay of so many seconds; returns when it is over."""
    replay, began = running.replay, time.monotonic()

    def at(share: float) -> None:
        """Sleep until that share of the replay; meanwhile everybody is disconnected again and again."""
        while (left := began + share * seconds - time.monotonic()) > 0:
            time.sleep(min(left, seconds / 12))
            replay.misbehave("genesys", disconnect=True)

    replay.misbehave("cxone", seed=11, drop=0.05, duplicate=0.05)
    replay.begin(running.speed_for(seconds))
    at(0.2)
    replay.misbehave("cxone", rotate_keys={"overlap_seconds": seconds})
    at(1 / 3)
    # For a third of the day no stream can be opened: the breaker opens and REST is polled.
    replay.misbehave("genesys", refuse={"path": "/stream", "status": 503, "seconds": seconds / 3})
    at(0.5)
    # Without overlap, and with the key endpoint down: what is signed with the new key is set aside.
    replay.misbehave("cxone", jwks="down")
    replay.misbehave("cxone", rotate_keys={"overlap_seconds": 0})
    at(0.7)
    replay.misbehave("cxone", jwks="good")
    until(replay.is_done, seconds * 2 + 60, "the vendors have sent everything")


def recover(running: Replaying) -> None:
    """What the scheduled flows do, called directly."""
    settings = running.replay.settings()
    window = running.window()
    genesys, cxone = settings.tenants

    def missing() -> int:
        return sum(backfill(settings, genesys, window.start, window.end, publish=False).missing.values())

    until(lambda: missing() == 0, 60, "the stream has brought everything")
    process_deferred(settings, now=datetime.now(UTC)).check()
    assert reconcile(settings, cxone, window.start, window.end).published > 0
    assert reconcile(settings, cxone, window.start, window.end).published == 0


def assert_undisturbed(stack: LocalStack, folder: Path, trace: Path, seconds: float) -> None:
    with replaying(stack, folder / "calm", trace=trace) as calm:
        calm.play(speed=0)
        for vendor in calm.load().vendors:
            assert vendor.complaints() == []
        expected = contents(calm)
    with replaying(stack, folder / "disturbed", trace=trace, genesys_options=QUICK) as running:
        disturb(running, seconds)
        recover(running)
        report = running.load(of="expected")
        for vendor in report.vendors:
            assert vendor.complaints() == []
        by_way = {vendor.vendor: vendor.by_way for vendor in report.vendors}
        assert by_way["genesys"].keys() == {"pushed", "polled"}
        assert by_way["cxone"].keys() == {"pushed", "deferred", "reconciled"}
        assert_equals_the_truth(running, trace)
        actual = contents(running)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(actual[name], table, check_dtype=False, obj=name)


@pytest.mark.timeout(600)
def test_an_hour_of_trouble_changes_nothing(stack: LocalStack, tmp_path: Path) -> None:
    assert_undisturbed(stack, tmp_path, small_trace(tmp_path), seconds=24)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_day_of_trouble_changes_nothing(stack: LocalStack, tmp_path: Path) -> None:
    assert_undisturbed(stack, tmp_path, SHIPPED_TRACE, seconds=180)
