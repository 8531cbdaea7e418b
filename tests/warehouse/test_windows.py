from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.instants import from_ms, to_ms
from tests.warehouse.events import at
from warehouse.errors import WindowError
from warehouse.windows import Window, ceil, floor

INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone)
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-12))]),
).filter(lambda instant: instant >= datetime(1970, 1, 1, tzinfo=UTC))


def test_bounds_are_kept_in_utc() -> None:
    nepal = timezone(timedelta(hours=5, minutes=45))
    window = Window(datetime(1999, 1, 4, 5, 45, tzinfo=nepal), at("01:00:00"))
    assert window.start == at("00:00:00")
    assert window.start.tzinfo is UTC
    assert str(window) == "[1999-01-04T00:00:00Z, 1999-01-04T01:00:00Z)"


@pytest.mark.parametrize(
    ("start", "end", "match"),
    [
        (at("10:00:00"), at("09:00:00"), "an end after the start"),
        (at("10:00:00"), at("10:00:00"), "an end after the start"),
        (datetime(1999, 1, 4), at("10:00:00"), "without a time zone"),  # noqa: DTZ001
        (datetime(1969, 1, 4, tzinfo=UTC), at("10:00:00"), "from 1970"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(start: datetime, end: datetime, match: str) -> None:
    with pytest.raises(WindowError, match=match):
        Window(start, end)


@given(INSTANTS, st.sampled_from([15, 30, 60]))
def test_floor_and_ceil_embrace_an_instant_on_the_grid(instant: datetime, minutes: int) -> None:
    below, above = floor(instant, minutes), ceil(instant, minutes)
    assert below <= instant.replace(microsecond=instant.microsecond // 1000 * 1000) <= above
    assert above - below in {timedelta(0), timedelta(minutes=minutes)}
    assert below.minute % minutes == above.minute % minutes == 0
    assert from_ms(to_ms(below)) == below


def test_chunks_cover_the_window_once() -> None:
    window = Window(at("00:00:00"), at("06:30:00", day=6))
    chunks = list(window.chunks(timedelta(days=1)))
    assert [chunk.start for chunk in chunks] == [at("00:00:00", day=day) for day in (4, 5, 6)]
    assert [chunk.end for chunk in chunks] == [at("00:00:00", day=5), at("00:00:00", day=6), at("06:30:00", day=6)]
    with pytest.raises(WindowError, match="positive"):
        list(window.chunks(timedelta(0)))


def test_widened_is_the_smallest_window_on_the_grid() -> None:
    widened = Window(at("09:01:00"), at("09:31:00")).widened(15)
    assert widened == Window(at("09:00:00"), at("09:45:00"))
    widened.require_grid(15)
