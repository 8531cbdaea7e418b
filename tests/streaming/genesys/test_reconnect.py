"""The attempts' pool and the breaker."""

from __future__ import annotations

import asyncio
import time

import httpx
import pybreaker
import pytest

from streaming.vendors.genesys.connection import GenesysOptions
from streaming.vendors.genesys.reconnect import ConnectPool, Reconnection, RefusedByKafkaError, UnknownCursorError
from streaming.vendors.genesys.stream import StreamRefusedError

REFUSED = StreamRefusedError(503, "down", None)


async def test_no_second_sees_more_attempts_than_the_rate() -> None:
    pool = ConnectPool(GenesysOptions(connect_attempts_per_second=100))
    begun: list[float] = []

    async def attempt() -> None:
        async with pool.attempt():
            begun.append(time.monotonic())

    await asyncio.gather(*(attempt() for _ in range(150)))
    for first in begun:
        assert sum(first <= other < first + 1 for other in begun) <= 102


async def test_so_many_at_once() -> None:
    pool = ConnectPool(GenesysOptions(connect_attempts_per_second=1000, concurrent_connect_attempts=3))
    inside = most = 0

    async def attempt() -> None:
        nonlocal inside, most
        async with pool.attempt():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.02)
            inside -= 1

    await asyncio.gather(*(attempt() for _ in range(20)))
    assert most == 3


def fail(reconnection: Reconnection, error: BaseException) -> None:
    with pytest.raises(type(error)), reconnection.calling():
        raise error


def test_the_breaker_opens_after_the_retries_and_lets_one_attempt_through_later() -> None:
    reconnection = Reconnection("t", GenesysOptions(max_retries=3, breaker_reset_seconds=0.1))
    for _ in range(3):
        fail(reconnection, REFUSED)
        assert not reconnection.is_open
    fail(reconnection, httpx.ReadTimeout("silent"))
    assert reconnection.is_open
    with pytest.raises(pybreaker.CircuitBreakerError), reconnection.calling():
        pass
    time.sleep(0.15)
    fail(reconnection, REFUSED)
    assert reconnection.is_open
    time.sleep(0.15)
    with reconnection.calling():
        pass
    assert not reconnection.is_open


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RefusedByKafkaError("acl"), UnknownCursorError("gone")])
def test_what_is_no_fault_of_the_vendor_opens_nothing(error: BaseException) -> None:
    reconnection = Reconnection("t", GenesysOptions(max_retries=0))
    fail(reconnection, error)
    assert not reconnection.is_open


def test_waits_are_random_and_grow_with_failures() -> None:
    reconnection = Reconnection("t", GenesysOptions())
    waits = [reconnection.pause() for _ in range(200)]
    assert all(1 <= wait <= 5 for wait in waits)
    assert max(waits) - min(waits) > 2
    fail(reconnection, REFUSED)
    assert 3 <= reconnection.pause() <= 7
    fail(reconnection, REFUSED)
    assert 5 <= reconnection.pause() <= 9


def test_failures_without_end_overflow_nothing() -> None:
    reconnection = Reconnection("t", GenesysOptions(max_retries=5_000))
    for _ in range(2_000):
        fail(reconnection, REFUSED)
    assert reconnection.pause() <= 65
