"""When a stream may be opened: one bounded pool for all tenants, and a circuit breaker for each.

A rolling update at the vendor disconnects everybody at once. What must be bounded then are attempts, not streams: there
is room for every tenant's stream, and waiting for one's turn is no failed attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pybreaker
from prometheus_client import Counter

from streaming.errors import CcaasError
from streaming.rest import limiter_within
from streaming.vendors.genesys.connection import GenesysOptions

_MAX_BACKOFF_S = 60.0
_MAX_DOUBLINGS = 10
_SHARE_LET_THROUGH = 0.88

attempts = Counter("ccaas_genesys_connect_attempts", "Attempts to open a stream, of all tenants")


class RefusedByKafkaError(CcaasError):
    """Kafka refuses the tenant's records for good: no permission, or no such topic."""


class UnknownCursorError(CcaasError):
    """The vendor no longer has the cursor that was sent."""


class ConnectPool:
    """Attempts of all tenants: in no second more than the rate, and so many at once.

    Args:
        options: Bounds.
    """

    def __init__(self, options: GenesysOptions) -> None:
        # Not all attempts take equally long to reach the vendor, so some of the rate is kept back: what counts is what
        # it sees.
        self._limiter = limiter_within(options.connect_attempts_per_second * _SHARE_LET_THROUGH, 1)
        self._places = asyncio.Semaphore(options.concurrent_connect_attempts)

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Wait for a place; it is held until the stream is open or refused."""
        async with self._places:
            await self._limiter.acquire()
            attempts.inc()
            yield


class Reconnection:
    """One tenant's breaker and waits.

    Args:
        tenant_id: Name of the breaker.
        options: Retries, waits, bounds.
    """

    def __init__(self, tenant_id: str, options: GenesysOptions) -> None:
        self._options = options
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=options.max_retries + 1,
            reset_timeout=options.breaker_reset_seconds,
            exclude=[_is_no_fault_of_the_vendor],
            throw_new_error_on_trip=False,
            name=tenant_id,
        )
        self.calling = self._breaker.calling
        """Context of an attempt; raises pybreaker.CircuitBreakerError while the breaker is open."""

    @property
    def is_open(self) -> bool:
        """Whether attempts are held back."""
        return bool(self._breaker.current_state == pybreaker.STATE_OPEN)

    def pause(self) -> float:
        """Seconds to wait before the next attempt while the breaker is closed: a random span, more after failures."""
        options, failures = self._options, min(self._breaker.fail_counter, _MAX_DOUBLINGS)
        wait = random.uniform(options.reconnect_min_seconds, options.reconnect_max_seconds)
        if failures:
            wait += min(options.retry_backoff_ms / 1000 * 2 ** (failures - 1), _MAX_BACKOFF_S)
        return wait


def _is_no_fault_of_the_vendor(error: BaseException) -> bool:
    """The end of this process, our Kafka, and a cursor that the vendor forgot: it answered."""
    return isinstance(error, asyncio.CancelledError | RefusedByKafkaError | UnknownCursorError)
