"""The rate of webhooks, against a clock that the test sets."""

from __future__ import annotations

import pytest

from streaming.vendors.cxone import rate
from streaming.vendors.cxone.rate import RateLimit, retry_after


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rate, "time", made)
    return made


def taken(limit: RateLimit, times: int) -> int:
    return sum(limit.take() == 0 for _ in range(times))


def test_a_second_s_worth_passes_at_once_and_then_the_rate(clock: Clock) -> None:
    limit = RateLimit(10)
    assert taken(limit, 50) == 10
    clock.now += 0.35
    assert taken(limit, 50) == 3
    clock.now += 3600
    assert taken(limit, 50) == 10, "an idle hour is no credit"


def test_whoever_is_refused_learns_when_to_come_again(clock: Clock) -> None:
    limit = RateLimit(0.1)
    assert limit.take() == 0
    assert limit.take() == pytest.approx(10, abs=0.001)
    clock.now += 9
    assert limit.take() == pytest.approx(1, abs=0.001)
    clock.now += 1.001
    assert limit.take() == 0


def test_being_refused_costs_nothing(clock: Clock) -> None:
    limit = RateLimit(2)
    assert taken(limit, 1000) == 2
    clock.now += 0.501
    assert limit.take() == 0


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert [retry_after(seconds) for seconds in (0.001, 1.0, 1.2)] == [1, 1, 2]
