"""Agents' statuses from their calls."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from devstack.simulators.agents import status_changes
from devstack.simulators.trace import NO_SERVER, read_trace
from tests.truth.trace_rows import Row, call, write_trace


def told(tmp_path: Path, *rows: Row) -> list[tuple[str, str, str]]:
    """Time on a day of January 1999, agent, status."""
    trace = write_trace(tmp_path / "trace.tsv", rows)
    return [
        (datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%d %H:%M:%S"), agent_id, status.value)
        for at_ms, agent_id, status in status_changes(read_trace(trace, ivr="AA01"))
    ]


def test_a_day_of_one_agent(tmp_path: Path) -> None:
    rows = call(exit_at="9:00:00", talk=60), call(exit_at="10:00:00", wait=5, talk=60)
    assert told(tmp_path, *rows) == [
        ("05 00:00:00", "ANAT", "OFF_QUEUE"),
        ("05 09:00:00", "ANAT", "INTERACTING"),
        ("05 09:01:00", "ANAT", "IDLE"),
        ("05 10:00:05", "ANAT", "INTERACTING"),
        ("05 10:01:05", "ANAT", "OFF_QUEUE"),
    ]


def test_overlapping_and_touching_calls_are_one_stretch(tmp_path: Path) -> None:
    rows = (
        call(exit_at="9:00:00", talk=60),
        call(exit_at="9:00:30", talk=60),
        call(exit_at="9:01:30", talk=10),
    )
    assert told(tmp_path, *rows) == [
        ("05 00:00:00", "ANAT", "OFF_QUEUE"),
        ("05 09:00:00", "ANAT", "INTERACTING"),
        ("05 09:01:40", "ANAT", "OFF_QUEUE"),
    ]


def test_a_call_without_service_time_counts_only_for_the_span(tmp_path: Path) -> None:
    assert told(tmp_path, call(exit_at="9:00:00", talk=0), call(exit_at="10:00:00", talk=60)) == [
        ("05 00:00:00", "ANAT", "OFF_QUEUE"),
        ("05 09:00:00", "ANAT", "IDLE"),
        ("05 10:00:00", "ANAT", "INTERACTING"),
        ("05 10:01:00", "ANAT", "OFF_QUEUE"),
    ]
    assert told(tmp_path, call(exit_at="9:00:00", talk=0)) == [("05 00:00:00", "ANAT", "OFF_QUEUE")]


def test_off_queue_is_told_anew_each_date(tmp_path: Path) -> None:
    rows = call(exit_at="9:00:00", talk=60), call(exit_at="9:00:00", talk=60, date="990107")
    assert [entry for entry in told(tmp_path, *rows) if entry[2] == "OFF_QUEUE"] == [
        ("05 00:00:00", "ANAT", "OFF_QUEUE"),
        ("05 09:01:00", "ANAT", "OFF_QUEUE"),
        ("07 00:00:00", "ANAT", "OFF_QUEUE"),
        ("07 09:01:00", "ANAT", "OFF_QUEUE"),
    ]


def test_interacting_outranks_the_off_queue_of_midnight(tmp_path: Path) -> None:
    rows = call(exit_at="23:59:00", talk=120), call(exit_at="9:00:00", talk=60, date="990106")
    assert told(tmp_path, *rows) == [
        ("05 00:00:00", "ANAT", "OFF_QUEUE"),
        ("05 23:59:00", "ANAT", "INTERACTING"),
        ("06 00:01:00", "ANAT", "OFF_QUEUE"),
        ("06 09:00:00", "ANAT", "INTERACTING"),
        ("06 09:01:00", "ANAT", "OFF_QUEUE"),
    ]


def test_idle_of_the_day_before_outranks_the_off_queue_of_midnight(tmp_path: Path) -> None:
    rows = (
        call(exit_at="23:58:00", talk=60),
        call(exit_at="23:59:50", wait=20, talk=10),  # assigned at 0:00:10 of the next day, still a call of the 5th
        call(exit_at="9:00:00", talk=60, date="990106"),
    )
    assert told(tmp_path, *rows)[2:5] == [
        ("05 23:59:00", "ANAT", "IDLE"),
        ("06 00:00:10", "ANAT", "INTERACTING"),
        ("06 00:00:20", "ANAT", "OFF_QUEUE"),
    ]


def test_no_server_has_no_status(tmp_path: Path) -> None:
    assert told(tmp_path, call(talk=60, server=NO_SERVER), call(wait=9, outcome="HANG", server=NO_SERVER)) == []


def test_order_is_by_time_then_agent(tmp_path: Path) -> None:
    rows = [call(exit_at="9:00:00", talk=60, server=server) for server in ("TOVA", "AVI")]
    assert [entry[:2] for entry in told(tmp_path, *rows)] == [
        ("05 00:00:00", "AVI"),
        ("05 00:00:00", "TOVA"),
        ("05 09:00:00", "AVI"),
        ("05 09:00:00", "TOVA"),
        ("05 09:01:00", "AVI"),
        ("05 09:01:00", "TOVA"),
    ]
