"""What a user of `ccaas demo` meets when something is wrong. The demo itself runs in CI beside the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devstack.python import python_environment
from tests.truth.trace_rows import call, write_trace


def ccaas(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "ccaas", *arguments]
    return subprocess.run(
        command, env={**python_environment(), **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_trace_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    trace = tmp_path / "calls.tsv"
    trace.write_text("a\tb\n1\t2\n")
    ran = ccaas("demo", "--trace", trace, CCAAS_DATA_DIR=str(tmp_path / "data"))
    assert ran.returncode == 2
    assert str(trace) in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("column", "value"), [("q_time", "soon"), ("date", "990231"), ("outcome", "LOST"), ("vru_exit", "25:99:00")]
)
def test_a_wrong_value_is_named_by_file_line_and_column(tmp_path: Path, column: str, value: str) -> None:
    trace = write_trace(tmp_path / "calls.tsv", [call(), call(line="AA0201"), {**call(), column: value}])
    ran = ccaas("demo", "--trace", trace)
    assert ran.returncode == 2
    message = ran.stderr.replace("\n", " ")
    assert "calls.tsv" in message
    assert "4" in message
    assert column in message


def test_a_trace_that_is_not_there_is_said(tmp_path: Path) -> None:
    ran = ccaas("demo", "--trace", tmp_path / "nowhere.tsv")
    assert ran.returncode == 2
    assert "nowhere.tsv" in ran.stderr


def test_a_wrong_setting_is_said(tmp_path: Path) -> None:
    config = tmp_path / "ccaas.toml"
    config.write_text("[kafka]\nbootstrap = 1\n")
    ran = ccaas("config", "check", CCAAS_CONFIG=str(config))
    assert ran.returncode == 2
    assert "kafka.bootstrap" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(("line", "missing"), [("AA0101", "AA02"), ("AA0201", "AA01")])
def test_a_trace_of_one_vendor_says_that_both_are_needed(tmp_path: Path, line: str, missing: str) -> None:
    trace = write_trace(tmp_path / "calls.tsv", [call(line=line)])
    ran = ccaas("demo", "--trace", trace)
    assert ran.returncode == 2
    for part in (f"no call of IVR {missing}", "AA01 (genesys) and AA02 (cxone)"):
        assert part in ran.stderr


def test_a_report_that_could_not_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for report in (tmp_path / "out" / "r.json", tmp_path):
        ran = ccaas("demo", "--report", report, CCAAS_DATA_DIR=str(tmp_path / "data"))
        assert ran.returncode == 2
        assert str(report) in ran.stderr
        assert "Traceback" not in ran.stderr
    assert not (tmp_path / "data").exists()
