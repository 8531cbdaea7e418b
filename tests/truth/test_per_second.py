"""The yardstick against brute force: every second of every agent coloured, every call counted one by one.

Nothing is shared with ``from_trace`` but the file: another parser, no interval arithmetic, and
pandas only to hold the result.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.truth.compare import assert_equal_tables
from tests.truth.from_trace import expected_tables
from tests.truth.trace_rows import EXTRACTS, MONTH, Row, call, clock, write_trace

OFF_QUEUE, IDLE, INTERACTING = 1, 2, 3
DAY = 86_400
TRACES = [*EXTRACTS, *([MONTH] if MONTH.exists() else [])]


QueueCells = dict[tuple[str, str, str, int], Counter[str]]
# Per agent: midnight -> calls as (assigned, ended), in seconds since the first midnight of the trace.
Worked = dict[tuple[str, str, str], dict[int, list[tuple[int, int]]]]


def brute_force(path: Path, shift: int, minutes: int, threshold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, call by call and second by second."""
    cell = minutes * 60
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
    days = [datetime.strptime(row["date"], "%y%m%d").replace(tzinfo=UTC) + timedelta(shift) for row in rows]
    origin = min(days)
    queue_cells: QueueCells = defaultdict(Counter)
    worked: Worked = defaultdict(lambda: defaultdict(list))
    end = 0
    for row, day in zip(rows, days, strict=True):
        midnight = (day - origin).days * DAY
        last = midnight
        if row["outcome"] != "PHANTOM":
            last = follow(row, midnight, cell, threshold, queue_cells, worked)
        end = max(end, (last // DAY + 1) * DAY)
    starts = [pd.Timestamp(origin) + pd.Timedelta(seconds=cell * n) for n in range(end // cell)]
    agents = [row for agent, dates in worked.items() for row in agent_rows(agent, dates, starts, end)]
    return pd.DataFrame(queue_rows(queue_cells, starts, minutes)), pd.DataFrame(agents)


def follow(row: Row, midnight: int, cell: int, threshold: int, queue_cells: QueueCells, worked: Worked) -> int:
    """Walk one call through its clocks, count what happens on the way and return when it ends."""
    now = midnight + seconds(row["vru_exit"] if int(row["vru_time"]) < 0 else row["vru_entry"])
    now = forward(now, row["vru_exit"])
    wait, talk = int(row["q_time"]), int(row["ser_time"])
    who = ("genesys", "bank-north") if row["vru+line"].startswith("AA01") else ("cxone", "bank-south")

    def count(**sums: int) -> None:
        queue_cells[*who, row["type"], now // cell].update(sums)

    if wait > 0:
        now = forward(now, row["q_start"])
    if row["outcome"] == "AGENT":
        count(offered=1)
        now += wait
        count(answered=1, wait_answered_ms=wait * 1000, answered_in_threshold=int(wait <= threshold))
        if row["server"] != "NO_SERVER":
            worked[*who, row["server"]][midnight].append((now, now + talk))
        now += talk
        count(handled=1, talk_ms=talk * 1000)
    elif wait > 0:
        count(offered=1)
        now += wait
        count(abandoned=1, wait_abandoned_ms=wait * 1000)
    return now


def queue_rows(queue_cells: QueueCells, starts: list[pd.Timestamp], minutes: int) -> Iterator[dict[str, object]]:
    for (vendor, tenant, queue_id, n), sums in queue_cells.items():
        yield {
            "vendor": vendor,
            "tenant_id": tenant,
            "queue_id": queue_id,
            "media_type": "VOICE",
            "interval_start": starts[n],
            "interval_minutes": minutes,
            "offered": sums["offered"],
            "answered": sums["answered"],
            "abandoned": sums["abandoned"],
            "flowed_out": 0,
            "answered_in_threshold": sums["answered_in_threshold"],
            "wait_answered_ms": sums["wait_answered_ms"],
            "wait_abandoned_ms": sums["wait_abandoned_ms"],
            "handled": sums["handled"],
            "talk_ms": sums["talk_ms"],
            "hold_ms": 0,
            "acw_ms": 0,
        }


def agent_rows(
    agent: tuple[str, str, str], dates: dict[int, list[tuple[int, int]]], starts: list[pd.Timestamp], end: int
) -> Iterator[dict[str, object]]:
    status = np.zeros(end, dtype=np.uint8)
    status[min(dates) :] = OFF_QUEUE
    for calls in dates.values():
        status[min(assigned for assigned, _ in calls) : max(ended for _, ended in calls)] = IDLE
    for calls in dates.values():
        for assigned, ended in calls:
            status[assigned:ended] = INTERACTING
    cell = end // len(starts)
    by_cell = status.reshape(-1, cell)
    ms = {code: (by_cell == code).sum(axis=1) * 1000 for code in (OFF_QUEUE, IDLE, INTERACTING)}
    handled = Counter(ended // cell for calls in dates.values() for _, ended in calls)
    for n, start in enumerate(starts):
        if ms[INTERACTING][n] or ms[IDLE][n] or handled[n]:
            yield {
                "vendor": agent[0],
                "tenant_id": agent[1],
                "agent_id": agent[2],
                "interval_start": start,
                "interval_minutes": cell // 60,
                "interacting_ms": int(ms[INTERACTING][n]),
                "communicating_ms": 0,
                "idle_ms": int(ms[IDLE][n]),
                "not_responding_ms": 0,
                "off_queue_ms": int(ms[OFF_QUEUE][n]),
                "handled": handled[n],
            }


def seconds(text: str) -> int:
    hour, minute, second = text.split(":")
    return (int(hour) * 60 + int(minute)) * 60 + int(second)


def forward(now: int, text: str) -> int:
    """The next instant from ``now`` on at which a clock shows ``text``."""
    return now + (seconds(text) - now) % DAY


@pytest.mark.parametrize("minutes", [15, 30, 60])
@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.name)
def test_every_cell_of_real_calls(trace: Path, minutes: int) -> None:
    tables = expected_tables(trace, date_shift_days=9_500, interval_minutes=minutes, service_level_seconds=30)
    for wanted, found in zip(brute_force(trace, 9_500, minutes, 30), tables, strict=True):
        assert len(wanted) > 0
        assert_equal_tables(wanted, found)


@st.composite
def made_up_calls(draw: st.DrawFn) -> Row:
    """Calls crowded round midnight and boundaries, few agents, three dates: overlaps are the rule."""
    near = draw(st.sampled_from([0, 900, 1800, 85_500, 86_399]))
    # Negative IVR times are no midnight; other clocks may wrap at the IVR's end or at q_start.
    left = max(0, near + draw(st.integers(-120, 120))) % DAY
    wait = draw(st.sampled_from([0, 0, 1, 20, 21, 300]))
    ivr = draw(st.sampled_from([0, 5, 200]))
    fault = draw(st.booleans()) and 60 < left < DAY - 60
    return call(
        exit_at=clock(left),
        ivr=ivr,
        wait=wait,
        talk=draw(st.sampled_from([0, 0, 1, 60, 900, 4_000])),
        outcome=draw(st.sampled_from(["AGENT", "AGENT", "AGENT", "HANG", "PHANTOM"])),
        server=draw(st.sampled_from(["ANAT", "TOVA", "NO_SERVER"])),
        queue=draw(st.sampled_from(["PS", "NE"])),
        date=draw(st.sampled_from(["990131", "990201", "990203"])),
        line=draw(st.sampled_from(["AA0101", "AA0201"])),
        **({"vru_entry": clock(left + 30), "vru_time": "-30"} if fault else {}),
        **({"q_start": clock(left + draw(st.sampled_from([0, 5])))} if wait else {}),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(made_up_calls(), min_size=1, max_size=12), minutes=st.sampled_from([15, 60]))
def test_every_cell_of_made_up_calls(rows: list[Row], minutes: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    trace = write_trace(tmp_path_factory.getbasetemp() / "made-up.tsv", rows)
    tables = expected_tables(trace, interval_minutes=minutes)
    for wanted, found in zip(brute_force(trace, 0, minutes, 20), tables, strict=True):
        if wanted.empty:
            assert found.empty
        else:
            assert_equal_tables(wanted, found)
