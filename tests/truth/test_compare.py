"""The comparison must fail for every kind of difference and say which."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from tests.truth.compare import SHOWN, assert_equal_tables
from tests.truth.from_trace import expected_tables
from tests.truth.trace_rows import call, write_trace


@pytest.fixture
def queues(tmp_path: Path) -> pd.DataFrame:
    rows = [call(exit_at=f"{hour}:00:00", ivr=0, wait=15, talk=60) for hour in range(24)]
    return expected_tables(write_trace(tmp_path / "trace.tsv", rows))[0]


def failure(expected: pd.DataFrame, actual: pd.DataFrame) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        assert_equal_tables(expected, actual)
    return str(caught.value).splitlines()


def test_order_number_types_and_time_zone_do_not_matter(queues: pd.DataFrame) -> None:
    actual = queues.iloc[::-1][list(reversed(queues.columns))].copy()
    actual["interval_start"] = actual["interval_start"].dt.tz_convert("Asia/Jerusalem").dt.as_unit("us")
    actual["talk_ms"] = actual["talk_ms"].astype("float64")
    actual["offered"] = actual["offered"].astype("Int32")
    actual["handled"] = actual["handled"].map(Decimal)
    actual["queue_id"] = actual["queue_id"].astype("string")
    assert_equal_tables(queues, actual)


def test_a_missing_and_an_extra_cell_are_named_with_their_values(queues: pd.DataFrame) -> None:
    head, line = failure(queues, queues.iloc[1:])
    assert head == "24 cells expected, 23 found: 1 missing, 0 extra, 0 repeated, 0 different"
    assert line.startswith("missing   genesys bank-north PS 1999-01-05T00:00:00+00:00: interval_minutes 15, offered 1")
    head, line = failure(queues.iloc[1:], queues)
    assert "0 missing, 1 extra" in head
    assert line.startswith("extra     genesys bank-north PS 1999-01-05T00:00:00+00:00: ")


def test_only_the_differing_columns_are_shown_with_both_values(queues: pd.DataFrame) -> None:
    actual = queues.copy()
    actual.loc[3, "talk_ms"] = 60_001
    actual.loc[3, "handled"] = 0
    _, line = failure(queues, actual)
    assert line == ("different genesys bank-north PS 1999-01-05T03:00:00+00:00: handled 1 -> 0, talk_ms 60000 -> 60001")


@pytest.mark.parametrize("column", ["offered", "flowed_out", "acw_ms", "interval_minutes"])
def test_every_column_is_compared_and_null_is_no_number(queues: pd.DataFrame, column: str) -> None:
    actual = queues.astype({column: "Int64"})
    actual.loc[0, column] = pd.NA
    assert f"{column} {queues[column].iloc[0]} -> None" in failure(queues, actual)[1]


@pytest.mark.parametrize("column", ["vendor", "tenant_id", "queue_id", "media_type"])
def test_every_key_is_compared(queues: pd.DataFrame, column: str) -> None:
    actual = queues.copy()
    actual.loc[0, column] = "other"
    assert "1 missing, 1 extra" in failure(queues, actual)[0]


def test_a_repeated_cell_is_a_difference(queues: pd.DataFrame) -> None:
    head, line = failure(queues, pd.concat([queues, queues.iloc[[5]]]))
    assert "1 repeated" in head
    assert line.startswith("repeated  genesys bank-north PS 1999-01-05T05:00:00")
    with pytest.raises(AssertionError, match="expected repeats 1 cells"):
        assert_equal_tables(pd.concat([queues, queues.iloc[[5]]]), queues)


def test_at_most_twenty_differences_are_shown(queues: pd.DataFrame) -> None:
    lines = failure(queues, queues.iloc[:0])
    assert "24 missing" in lines[0]
    assert len(lines) == 1 + SHOWN + 1
    assert lines[-1] == "... and 4 more"


def test_columns_must_be_the_same(queues: pd.DataFrame) -> None:
    assert "missing ['acw_ms']" in failure(queues, queues.drop(columns="acw_ms"))[0]
    assert "extra ['aht_ms']" in failure(queues, queues.assign(aht_ms=1))[0]


def test_an_instant_without_time_zone_is_refused(queues: pd.DataFrame) -> None:
    naive = queues.assign(interval_start=queues["interval_start"].dt.tz_localize(None))
    assert "actual: interval_start is datetime64[ns]" in failure(queues, naive)[0]


def test_two_empty_tables_are_equal(queues: pd.DataFrame) -> None:
    assert_equal_tables(queues.iloc[:0], queues.iloc[:0].astype("object"))
