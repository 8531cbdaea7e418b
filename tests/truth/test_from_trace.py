"""Every rule of the yardstick, on rows made by hand with results worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.truth.from_trace import AGENT_COLUMNS, QUEUE_COLUMNS, expected_tables
from tests.truth.trace_rows import MONTH, Row, call, write_trace

DAY_5 = datetime(1999, 1, 5, tzinfo=UTC)
DAY_6 = datetime(1999, 1, 6, tzinfo=UTC)
CELL_MS = 900_000

Cells = dict[tuple[str, datetime], dict[str, int]]
Compute = Callable[..., tuple[Cells, Cells]]


@pytest.fixture
def tables(tmp_path: Path) -> Compute:
    def compute(*rows: Row, **options: Any) -> tuple[Cells, Cells]:
        queues, agents = expected_tables(write_trace(tmp_path / "trace.tsv", rows), **options)
        return _cells(queues, "queue_id"), _cells(agents, "agent_id")

    return compute


def _cells(table: pd.DataFrame, name: str) -> Cells:
    """Cells of one tenant by queue or agent and start, with the sums that are not 0."""
    cells: Cells = {}
    for row in table.to_dict("records"):
        key = (row[name], row["interval_start"].to_pydatetime())
        assert key not in cells
        sums = {str(k): v for k, v in row.items() if isinstance(v, int) and k != "interval_minutes" and v}
        cells[key] = sums
    return cells


def time_of(text: str, day: datetime = DAY_5) -> datetime:
    hour, minute = map(int, text.split(":"))
    return day + timedelta(hours=hour, minutes=minute)


def test_each_metric_falls_into_the_interval_in_which_it_completes(tables: Compute) -> None:
    queues, _ = tables(call(exit_at="10:14:50", wait=20, talk=1200))
    assert queues == {
        ("PS", time_of("10:00")): {"offered": 1},
        ("PS", time_of("10:15")): {"answered": 1, "answered_in_threshold": 1, "wait_answered_ms": 20_000},
        ("PS", time_of("10:30")): {"handled": 1, "talk_ms": 1_200_000},
    }


def test_an_instant_on_the_boundary_belongs_to_the_interval_that_begins(tables: Compute) -> None:
    queues, agents = tables(call(exit_at="10:00:00", wait=900, talk=900))
    assert list(queues) == [("PS", time_of("10:00")), ("PS", time_of("10:15")), ("PS", time_of("10:30"))]
    assert agents == {
        ("ANAT", time_of("10:15")): {"interacting_ms": CELL_MS},
        ("ANAT", time_of("10:30")): {"off_queue_ms": CELL_MS, "handled": 1},
    }


def test_a_caller_who_did_not_wait_is_queued_and_answered_at_the_end_of_the_ivr(tables: Compute) -> None:
    queues, _ = tables(call(exit_at="10:00:00", talk=60))
    assert queues == {
        ("PS", time_of("10:00")): {
            "offered": 1,
            "answered": 1,
            "answered_in_threshold": 1,
            "handled": 1,
            "talk_ms": 60_000,
        }
    }


def test_an_agent_row_ignores_the_recorded_service_clock(tables: Compute) -> None:
    late = call(exit_at="10:00:00", talk=60, ser_start="10:20:00", ser_exit="10:21:00")
    assert tables(late) == tables(call(exit_at="10:00:00", talk=60))


def test_queue_entry_is_q_start_of_those_who_waited_only(tables: Compute) -> None:
    waited = call(exit_at="9:59:58", wait=30, talk=5, q_start="10:00:01")
    stray = call(exit_at="9:59:58", talk=5, q_start="11:00:00", queue="NE")
    queues, _ = tables(waited, stray)
    assert queues["PS", time_of("10:00")]["offered"] == 1
    assert queues["NE", time_of("9:45")]["offered"] == 1
    assert ("NE", time_of("11:00")) not in queues


def test_hanging_up_in_the_queue_abandons_even_with_a_service_time_and_a_server(tables: Compute) -> None:
    queues, agents = tables(call(exit_at="10:14:00", wait=60, talk=204, outcome="HANG", server="DARMON"))
    assert queues == {
        ("PS", time_of("10:00")): {"offered": 1},
        ("PS", time_of("10:15")): {"abandoned": 1, "wait_abandoned_ms": 60_000},
    }
    assert agents == {}


def test_hanging_up_in_the_ivr_and_phantoms_leave_no_cell(tables: Compute) -> None:
    queues, agents = tables(
        call(outcome="HANG", q_start="10:00:00"),
        call(outcome="PHANTOM", wait=50, talk=7),
        call(outcome="PHANTOM", talk=7),
    )
    assert (queues, agents) == ({}, {})


@pytest.mark.parametrize(("wait", "threshold", "within"), [(20, 20, 1), (21, 20, 0), (21, 30, 1), (0, 1, 1)])
def test_service_level_includes_the_threshold_itself(tables: Compute, wait: int, threshold: int, within: int) -> None:
    queues, _ = tables(call(wait=wait), service_level_seconds=threshold)
    assert queues["PS", time_of("10:00")].get("answered_in_threshold", 0) == within


def test_no_server_counts_for_the_queue_and_makes_no_agent(tables: Compute) -> None:
    queues, agents = tables(call(server="NO_SERVER", talk=30))
    assert queues["PS", time_of("10:00")]["handled"] == 1
    assert agents == {}


def test_ivr_decides_vendor_and_tenant_and_keeps_their_agents_apart(tmp_path: Path) -> None:
    rows = [call(talk=60), call(talk=60, line="AA0216")]
    queues, agents = expected_tables(write_trace(tmp_path / "trace.tsv", rows))
    for table in (queues, agents):
        assert table[["vendor", "tenant_id"]].to_numpy().tolist() == [
            ["cxone", "bank-south"],
            ["genesys", "bank-north"],
        ]
    assert agents["interacting_ms"].tolist() == [60_000, 60_000]
    assert queues["media_type"].unique().tolist() == ["VOICE"]


def test_agent_is_off_queue_then_interacting_then_idle_then_off_queue(tables: Compute) -> None:
    _, agents = tables(
        call(exit_at="10:05:00", talk=120),
        call(exit_at="10:50:00", talk=300),
    )
    assert agents == {
        ("ANAT", time_of("10:00")): {
            "off_queue_ms": 300_000,
            "interacting_ms": 120_000,
            "idle_ms": 480_000,
            "handled": 1,
        },
        ("ANAT", time_of("10:15")): {"idle_ms": CELL_MS},
        ("ANAT", time_of("10:30")): {"idle_ms": CELL_MS},
        ("ANAT", time_of("10:45")): {
            "idle_ms": 300_000,
            "interacting_ms": 300_000,
            "off_queue_ms": 300_000,
            "handled": 1,
        },
    }


def test_overlapping_calls_of_an_agent_are_interacting_once(tables: Compute) -> None:
    long = call(exit_at="10:00:00", talk=600)
    inner = call(exit_at="10:01:00", talk=60)
    later = call(exit_at="10:09:00", talk=120)
    _, agents = tables(long, inner, later)
    assert agents == {("ANAT", time_of("10:00")): {"interacting_ms": 660_000, "off_queue_ms": 240_000, "handled": 3}}


def test_a_call_without_service_time_is_handled_and_bounds_the_idle_span(tables: Compute) -> None:
    _, agents = tables(call(exit_at="10:00:00"), call(exit_at="10:20:00"))
    assert agents == {
        ("ANAT", time_of("10:00")): {"idle_ms": CELL_MS, "handled": 1},
        ("ANAT", time_of("10:15")): {"idle_ms": 300_000, "off_queue_ms": 600_000, "handled": 1},
    }


def test_a_cell_with_only_off_queue_time_is_absent_unless_a_call_was_handled_in_it(tables: Compute) -> None:
    _, agents = tables(call(exit_at="10:05:00"))
    assert agents == {("ANAT", time_of("10:00")): {"off_queue_ms": CELL_MS, "handled": 1}}


def test_a_call_past_midnight_keeps_the_agent_off_queue_after_it(tables: Compute) -> None:
    queues, agents = tables(call(exit_at="23:50:00", talk=900))
    assert queues["PS", time_of("0:00", DAY_6)] == {"handled": 1, "talk_ms": 900_000}
    assert agents == {
        ("ANAT", time_of("23:45")): {"off_queue_ms": 300_000, "interacting_ms": 600_000},
        ("ANAT", time_of("0:00", DAY_6)): {"interacting_ms": 300_000, "off_queue_ms": 600_000, "handled": 1},
    }


def test_a_call_past_midnight_outranks_the_next_dates_off_queue_and_idle_rejoins(tables: Compute) -> None:
    _, agents = tables(
        call(exit_at="23:50:00", talk=720),
        call(exit_at="0:05:00", talk=60, date="990106"),
        call(exit_at="0:08:00", talk=60, date="990106"),
    )
    assert agents["ANAT", time_of("0:00", DAY_6)] == {
        "interacting_ms": 240_000,
        "idle_ms": 120_000,
        "off_queue_ms": 540_000,
        "handled": 3,
    }


def test_a_clock_earlier_than_its_predecessor_lies_past_midnight(tables: Compute) -> None:
    ivr = call(exit_at="0:00:05", ivr=15, talk=10)
    queue = call(exit_at="23:59:58", wait=30, talk=10, q_start="0:00:03", queue="NE")
    both = call(exit_at="0:00:05", ivr=15, wait=30, talk=10, queue="IN")
    queues, _ = tables(ivr, queue, both)
    assert {key for key, sums in queues.items() if sums.get("offered")} == {
        (name, DAY_6) for name in ("PS", "NE", "IN")
    }


def test_a_negative_ivr_time_is_no_midnight(tables: Compute) -> None:
    queues, _ = tables(call(exit_at="15:45:24", wait=77, talk=10, vru_entry="15:46:01", vru_time="-37"))
    assert list(queues) == [("PS", time_of("15:45"))]


@pytest.mark.parametrize(
    ("until", "off_queue_ms"),
    [
        (None, 780_000),
        (datetime(1999, 1, 5, 23, 50, tzinfo=UTC), 180_000),
        (datetime(1999, 1, 6, 0, 50, tzinfo=timezone(timedelta(hours=1))), 180_000),
        (datetime(1999, 1, 9, tzinfo=UTC), 780_000),
    ],
)
def test_the_last_status_runs_to_the_end_of_the_window(
    tables: Compute, until: datetime | None, off_queue_ms: int
) -> None:
    _, agents = tables(call(exit_at="23:45:00", talk=120), until=until)
    assert agents == {
        ("ANAT", time_of("23:45")): {
            "interacting_ms": 120_000,
            "off_queue_ms": off_queue_ms,
            "handled": 1,
        }
    }


@pytest.mark.parametrize("until", [datetime(1999, 1, 5, 10, 1, tzinfo=UTC), datetime(1999, 1, 6)])  # noqa: DTZ001
def test_a_window_that_ends_too_early_or_without_time_zone_is_refused(tables: Compute, until: datetime) -> None:
    with pytest.raises(ValueError, match="until"):
        tables(call(exit_at="10:00:00", talk=60), until=until)


@pytest.mark.parametrize(("minutes", "start"), [(15, "10:45"), (30, "10:30"), (60, "10:00")])
def test_interval_length(tables: Compute, minutes: int, start: str) -> None:
    queues, agents = tables(call(exit_at="10:50:00", talk=60), interval_minutes=minutes)
    assert list(queues) == [("PS", time_of(start))]
    assert agents["ANAT", time_of(start)]["off_queue_ms"] == minutes * 60_000 - 60_000


def test_dates_move_by_whole_days_and_the_first_ones_can_be_taken_alone(tables: Compute) -> None:
    rows = [call(talk=60, date="990131"), call(talk=60, date="990105")]
    queues, agents = tables(*rows, date_shift_days=10_000, first_dates=1)
    moved = time_of("10:00") + timedelta(days=10_000)
    assert list(queues) == [("PS", moved)]
    assert list(agents) == [("ANAT", moved)]
    assert len(tables(*rows)[0]) == 2


def test_columns_types_and_order_are_those_of_the_design_even_without_a_cell(tmp_path: Path) -> None:
    for rows in ([call(talk=60)], [call(outcome="PHANTOM")], [call(server="NO_SERVER", wait=3)]):
        queues, agents = expected_tables(write_trace(tmp_path / "trace.tsv", rows))
        assert list(queues.columns) == QUEUE_COLUMNS
        assert list(agents.columns) == AGENT_COLUMNS
        for table in (queues, agents):
            assert str(table["interval_start"].dt.tz) == "UTC"
            assert table.select_dtypes("int64").shape[1] == table.shape[1] - (5 if table is queues else 4)


def test_a_compressed_trace_is_told_by_its_bytes(tmp_path: Path) -> None:
    rows = [call(talk=60), call(wait=5, outcome="HANG")]
    plain = expected_tables(write_trace(tmp_path / "a.tsv", rows))
    zipped = write_trace(tmp_path / "a.tsv.gz", rows).rename(tmp_path / "renamed.tsv")
    for one, other in zip(plain, expected_tables(zipped), strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"line": "BB0101"}, "line 2: vru.line is 'BB0101'"),
        ({"outcome": "LOST"}, "line 2: outcome is 'LOST'"),
        ({"q_time": "soon"}, "line 2: q_time is 'soon'"),
        ({"ser_time": "-3"}, "line 2: ser_time is '-3'"),
        ({"vru_exit": "10:60:00"}, "line 2: vru_exit is '10:60:00'"),
    ],
)
def test_an_unreadable_row_is_named(tables: Compute, override: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tables(call(**override))


def test_a_repeated_call_and_a_missing_column_are_refused(tables: Compute, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 3: call_id is '7', not unique"):
        tables(call(call_id="7"), call(call_id="7"))
    (tmp_path / "short.tsv").write_text("date\ttype\n")
    with pytest.raises(ValueError, match=r"lacks the columns vru.line, call_id"):
        expected_tables(tmp_path / "short.tsv")


@pytest.mark.slow
def test_totals_of_the_month_are_those_of_the_data_readme() -> None:
    queues, agents = expected_tables(MONTH)
    sums = queues.select_dtypes("int64").sum()
    assert sums["answered"] == sums["handled"] == 27_060
    assert sums["abandoned"] == 3_080
    assert sums["offered"] == 27_060 + 3_080
    assert agents["agent_id"].nunique() == 28
    # 490 of the served calls have no server (counted in the file with awk).
    assert agents["handled"].sum() == 27_060 - 490
    assert (agents["interacting_ms"] + agents["idle_ms"] + agents["off_queue_ms"] == CELL_MS).all()
