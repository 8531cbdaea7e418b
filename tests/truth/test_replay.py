"""The proof: a replay through the whole platform equals the independent computation, in every cell."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from devstack.replay import SHIPPED_TRACE
from devstack.stack import LocalStack
from tests.replaying import Replaying, replaying
from tests.truth.compare import assert_equal_tables
from tests.truth.from_trace import expected_tables
from tests.truth.trace_rows import MONTH, call, clock, write_trace
from warehouse.tables import agent_intervals, queue_intervals


def assert_equals_the_truth(running: Replaying, trace: Path) -> None:
    window = running.window()
    queues, agents = expected_tables(trace, date_shift_days=running.replay.shift_days, until=window.end)
    for expected, table in ((queues, queue_intervals), (agents, agent_intervals)):
        actual = running.table(table)[list(expected.columns)]
        actual["tenant_id"] = actual["tenant_id"].str.rpartition("-")[0]  # the run's suffix
        assert len(expected) > 0
        assert_equal_tables(expected, actual)


@pytest.mark.timeout(600)
def test_the_shipped_day_equals_the_independent_computation(stack: LocalStack, tmp_path: Path) -> None:
    with replaying(stack, tmp_path) as running:
        running.play(speed=0)
        report = running.load()
        for vendor in report.vendors:
            assert vendor.complaints() == []
            assert vendor.duplicates_on_bus == 0
        assert_equals_the_truth(running, SHIPPED_TRACE)


def small_trace(folder: Path) -> Path:
    """300 calls of both vendors within an hour after midnight, some abandoned, so that a fast replay takes seconds."""
    rows = [
        call(
            line=f"AA0{1 + number % 2}01",
            exit_at=clock(600 + 10 * number),
            ivr=7,
            wait=number % 40,
            talk=0 if number % 9 == 8 else 20 + number % 300,
            outcome="HANG" if number % 9 == 8 else "AGENT",
            server="NO_SERVER" if number % 9 == 8 or number % 50 == 0 else f"AGENT{number % 11}",
            queue=("PS", "NE", "NW")[number % 3],
        )
        for number in range(300)
    ]
    return write_trace(folder / "trace.tsv", rows)


def test_kill_9_of_every_service_in_mid_replay_changes_nothing(stack: LocalStack, tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    with replaying(stack, tmp_path / "run", trace=trace) as running:
        running.replay.begin(240)
        for name in ("genesys-ingest", "cxone-receiver", "analytics-sink", "cxone-publisher"):
            time.sleep(2)
            assert not running.replay.is_done(), "the kill must hit the middle of the replay"
            running.services[name].kill()
            running.services[name].start()
        running.wait_landed()
        for vendor in running.load().vendors:
            assert vendor.complaints() == []
        assert_equals_the_truth(running, trace)


def test_duplicates_and_another_order_change_nothing(stack: LocalStack, tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    with replaying(stack, tmp_path / "run", trace=trace) as running:
        for name in ("genesys", "cxone"):
            running.replay.misbehave(name, seed=7, duplicate=0.2, reorder={"share": 0.2, "places": 8})
        running.play(speed=0)
        duplicates = 0
        for vendor in running.load().vendors:
            assert vendor.complaints() == []
            duplicates += vendor.duplicates_on_bus
        assert duplicates > 50
        for name in ("genesys", "cxone"):
            assert running.replay.status(name)["reordered"] > 20
        assert_equals_the_truth(running, trace)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_month_equals_the_independent_computation(stack: LocalStack, tmp_path: Path) -> None:
    trace = Path(os.environ.get("TRACE", MONTH))
    with replaying(stack, tmp_path, trace=trace) as running:
        running.play(speed=0, seconds=3000)
        report = running.load()
        for vendor in report.vendors:
            assert vendor.complaints() == []
        assert_equals_the_truth(running, trace)
