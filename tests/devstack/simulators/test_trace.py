"""What a row becomes, and what a wrong trace is told."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devstack.simulators.trace import COLUMNS, NO_SERVER, Call, read_trace
from streaming.errors import ConfigurationError
from tests.devstack.simulators.support import SHIPPED
from tests.truth.trace_rows import Row, call, write_trace


def ms(text: str) -> int:
    """Epoch ms of a time on 5 or 6 January 1999, the default date of the rows and the day after."""
    return int(datetime.fromisoformat(f"1999-01-{text}").replace(tzinfo=UTC).timestamp() * 1000)


def one(tmp_path: Path, row: Row) -> Call:
    (made,) = read_trace(write_trace(tmp_path / "trace.tsv", [row]), ivr="AA01")
    return made


def test_answered_after_the_queue(tmp_path: Path) -> None:
    made = one(tmp_path, call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="33118", customer_id="27997683"))
    assert made == Call(
        conversation_id="AA0101-19990105-33118", line="AA0101", caller="27997683", queue_id="PS",
        day_ms=ms("05T00:00:00"), started_ms=ms("05T09:59:50"), queued_ms=ms("05T10:00:00"), wait_ms=17_000,
        answered_ms=ms("05T10:00:17"), talk_ms=54_000, ended_ms=ms("05T10:01:11"), agent_id="ANAT",
    )  # fmt: skip


def test_q_start_counts_and_not_vru_exit_where_the_call_waited(tmp_path: Path) -> None:
    made = one(tmp_path, call(exit_at="10:00:00", wait=10, talk=5, q_start="10:00:05"))
    assert (made.queued_ms, made.answered_ms, made.ended_ms) == (
        ms("05T10:00:05"),
        ms("05T10:00:15"),
        ms("05T10:00:20"),
    )


def test_answered_at_once_is_queued_at_vru_exit(tmp_path: Path) -> None:
    # ser_start, a second or two early in the real file, plays no part.
    made = one(tmp_path, call(exit_at="7:41:26", wait=0, talk=208, ser_start="7:41:25"))
    assert (made.queued_ms, made.wait_ms, made.answered_ms) == (ms("05T07:41:26"), 0, ms("05T07:41:26"))
    assert made.ended_ms == ms("05T07:44:54")


def test_hung_up_in_the_queue(tmp_path: Path) -> None:
    made = one(tmp_path, call(exit_at="10:00:00", wait=30, outcome="HANG", server=NO_SERVER))
    assert (made.queued_ms, made.wait_ms, made.ended_ms) == (ms("05T10:00:00"), 30_000, ms("05T10:00:30"))
    assert (made.answered_ms, made.agent_id, made.hung_up) == (None, None, True)


def test_hung_up_in_the_ivr_was_never_queued(tmp_path: Path) -> None:
    # Some such rows name a q_start all the same.
    made = one(tmp_path, call(exit_at="10:00:00", wait=0, outcome="HANG", q_start="10:00:00", server=NO_SERVER))
    assert (made.queued_ms, made.answered_ms, made.ended_ms) == (None, None, ms("05T10:00:00"))


def test_service_of_a_call_that_hung_up_is_ignored(tmp_path: Path) -> None:
    made = one(tmp_path, call(exit_at="10:00:00", wait=30, talk=99, outcome="HANG", server="ANAT"))
    assert (made.talk_ms, made.agent_id, made.ended_ms) == (0, None, ms("05T10:00:30"))


def test_no_server_stays_as_the_agent(tmp_path: Path) -> None:
    assert one(tmp_path, call(talk=5, server=NO_SERVER)).agent_id == NO_SERVER


def test_a_negative_vru_time_means_started_at_vru_exit(tmp_path: Path) -> None:
    row = call(exit_at="15:45:56", wait=63, talk=394, vru_entry="15:46:49", vru_time="-53")
    made = one(tmp_path, row)
    assert (made.started_ms, made.queued_ms) == (ms("05T15:45:56"), ms("05T15:45:56"))
    assert (made.answered_ms, made.ended_ms) == (ms("05T15:46:59"), ms("05T15:53:33"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (call(exit_at="23:59:50", wait=20, talk=30), ("05T23:59:40", "05T23:59:50", "06T00:00:10", "06T00:00:40")),
        (call(exit_at="0:00:05", vru_entry="23:59:55", wait=3, talk=2),
         ("05T23:59:55", "06T00:00:05", "06T00:00:08", "06T00:00:10")),
        (call(exit_at="23:59:58", wait=5, talk=2, q_start="0:00:03"),
         ("05T23:59:48", "06T00:00:03", "06T00:00:08", "06T00:00:10")),
        (call(exit_at="0:00:05", vru_entry="23:59:55", wait=3, talk=2, q_start="0:00:06"),
         ("05T23:59:55", "06T00:00:06", "06T00:00:09", "06T00:00:11")),
        (call(exit_at="0:00:05", vru_entry="23:59:55", talk=2),
         ("05T23:59:55", "06T00:00:05", "06T00:00:05", "06T00:00:07")),
    ],
    ids=["by addition", "in the IVR", "between IVR and queue", "queue after an IVR past midnight", "no queue"],
)  # fmt: skip
def test_past_midnight(tmp_path: Path, row: Row, expected: tuple[str, ...]) -> None:
    made = one(tmp_path, row)
    assert (made.started_ms, made.queued_ms, made.answered_ms, made.ended_ms) == tuple(map(ms, expected))
    assert made.day_ms == ms("05T00:00:00")
    assert "-19990105-" in made.conversation_id


def test_phantoms_and_other_ivrs_become_nothing(tmp_path: Path) -> None:
    rows = [call(talk=1), call(talk=2, outcome="PHANTOM"), call(talk=3, line="AA0207")]
    trace = write_trace(tmp_path / "trace.tsv", rows)
    assert [made.talk_ms for made in read_trace(trace, ivr="AA01")] == [1000]
    assert [made.talk_ms for made in read_trace(trace, ivr="AA02")] == [3000]


@pytest.mark.parametrize(("customer", "caller"), [("0", None), ("3.27E+11", None), ("27997683", "27997683")])
def test_caller(tmp_path: Path, customer: str, caller: str | None) -> None:
    assert one(tmp_path, call(customer_id=customer)).caller == caller


def test_dates_are_moved_by_whole_days(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call(date="990228", talk=5, call_id="7")])
    (made,) = read_trace(trace, ivr="AA01", shift_days=366)
    assert made.conversation_id == "AA0101-20000229-7"
    assert datetime.fromtimestamp((made.answered_ms or 0) / 1000, UTC).isoformat() == "2000-02-29T10:00:00+00:00"


def test_first_dates_are_those_of_the_file_not_of_the_ivr(tmp_path: Path) -> None:
    rows = [call(date="990107"), call(date="990105", line="AA0201"), call(date="990106"), call(date="990106")]
    trace = write_trace(tmp_path / "trace.tsv", rows)
    ids = [made.conversation_id for made in read_trace(trace, ivr="AA01", first_dates=2)]
    assert ids == ["AA0101-19990106-2", "AA0101-19990106-3"]


def test_plain_and_compressed_are_read_alike(tmp_path: Path) -> None:
    text = gzip.decompress(SHIPPED.read_bytes())
    assert b"\r\n" in text
    plain = tmp_path / "plain.tsv"
    plain.write_bytes(text.replace(b"\r\n", b"\n"))
    assert read_trace(plain, ivr="AA01") == read_trace(SHIPPED, ivr="AA01")


def test_the_shipped_day() -> None:
    rows = gzip.decompress(SHIPPED.read_bytes()).splitlines()
    assert len(rows) == 1 + 1405
    for ivr, total, answered, abandoned in (("AA01", 670, 628, 23), ("AA02", 721, 671, 30)):
        calls = read_trace(SHIPPED, ivr=ivr)
        kinds = Counter("answered" if not made.hung_up else "queued" if made.queued_ms else "ivr" for made in calls)
        assert len(calls) == total
        assert (kinds["answered"], kinds["queued"]) == (answered, abandoned)
        assert len({made.conversation_id for made in calls}) == total


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"vru_entry": "24:00:00"}, "vru_entry"),
        ({"vru_exit": "9:60:00"}, "vru_exit"),
        ({"vru_time": "ten"}, "vru_time"),
        ({"q_time": "-1"}, "q_time"),
        ({"ser_time": "1.5"}, "ser_time"),
        ({"date": "990230"}, "date"),
        ({"date": "19990105"}, "date"),
        ({"outcome": "LOST"}, "outcome"),
        ({"vru+line": "AA1"}, "vru+line"),
        ({"call_id": ""}, "call_id"),
        ({"customer_id": "x"}, "customer_id"),
        ({"server": ""}, "server"),
        ({"type": " "}, "type"),
        ({"call_id": "0"}, "call_id"),
    ],
)
def test_a_wrong_column_is_named_with_file_line_and_remedy(
    tmp_path: Path, changes: dict[str, str], column: str
) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call(), call(talk=5, **changes)])
    with pytest.raises(ConfigurationError) as caught:
        read_trace(trace, ivr="AA01")
    message = str(caught.value)
    assert f"{trace}, line 3, column {column}: " in message
    assert "data/README.md" in message


def test_rows_that_are_not_played_are_checked_too(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call(), call(line="AA0201", q_time="?", outcome="PHANTOM")])
    with pytest.raises(ConfigurationError, match="line 3, column q_time"):
        read_trace(trace, ivr="AA01")


HEADER = "\t".join(COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 .header.: column vru.line is missing"),
        (b"a,b,c\n1,2,3\n", "line 1 .header.: column vru.line is missing"),
        (HEADER.replace("q_time", "wait").encode(), "column q_time is missing or out of place"),
        (f"{HEADER}\textra\n".encode(), "column 'extra' is one too many"),
        (f"{HEADER}\nAA0101\t1\n".encode(), "line 2: 2 tab-separated columns, 17 are needed"),
        (f"{HEADER}\n".encode(), "no call of IVR AA01"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (gzip.compress(HEADER.encode() * 500)[:-20], "copy the file again"),
        (b"\x1f\x8b garbage", "copy the file again"),
    ],
    ids=["empty", "csv", "renamed", "too many", "short row", "no rows", "binary", "cut gzip", "broken gzip"],
)
def test_what_is_no_trace(tmp_path: Path, content: bytes, message: str) -> None:
    trace = tmp_path / "trace.tsv"
    trace.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_trace(trace, ivr="AA01")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.tsv: can't be read .*check the path"):
        read_trace(tmp_path / "none.tsv", ivr="AA01")


@pytest.mark.parametrize("shift", [-20_000, 10**7])
def test_a_shift_out_of_the_calendar(tmp_path: Path, shift: int) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with pytest.raises(ConfigurationError, match="line 2, column date"):
        read_trace(trace, ivr="AA01", shift_days=shift)
