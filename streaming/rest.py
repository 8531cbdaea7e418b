"""Calls to a vendor's REST API: bearer token, rate limit, retries, and which scope is missing."""

from __future__ import annotations

import random
from math import inf
from typing import Any

import httpx
import structlog
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.oauth import TokenSource

log = structlog.get_logger()

ATTEMPTS = 5
"""Of a call, unless its caller wants others."""

_MAX_BACKOFF_S = 60.0
# A Retry-After beyond this is no wait of a caller but an outage.
_MAX_RETRY_AFTER_S = 300.0


class VendorRefusedError(CcaasError):
    """The vendor refuses a request in a way that no retry cures.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(f"{url} answers {status}: {detail}")
        self.status = status


class _TryAgainError(ServiceUnavailableError):
    """Worth another attempt; with how long the vendor asks to wait, s."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RestClient:
    """One tenant's REST access.

    Waiting for the rate limit is no attempt. 401 refreshes the token, 429 honours ``Retry-After`` (without it:
    exponential), 5xx and broken connections back off exponentially, with jitter.

    Args:
        http: Pool for token and REST calls (streams hold another one).
        tokens: The tenant's.
        requests_per_minute: The vendor's limit; a tenth of it may be used at once.
        attempts: Of one call.
        backoff: Wait before the second attempt, s; doubled each time.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        tokens: TokenSource,
        *,
        requests_per_minute: float = 300,
        attempts: int = ATTEMPTS,
        backoff: float = 2.0,
    ) -> None:
        self._http = http
        self._tokens = tokens
        self._limiter = limiter_within(requests_per_minute, 60)
        self._attempts = attempts
        self._backoff = backoff

    async def request(self, method: str, url: str, *, scope: str, **request: Any) -> httpx.Response:
        """The vendor's 2xx answer.

        Args:
            method: HTTP method.
            url: Full address.
            scope: OAuth scope that the vendor demands; named if it is missing.
            request: ``json``, ``params`` and such, as httpx takes them.

        Raises:
            ConfigurationError: credentials are wrong, or the scope is missing.
            VendorRefusedError: another 4xx.
            ServiceUnavailableError: it could not be had in all attempts.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            before_sleep=_say,
            reraise=True,
        )
        answer: httpx.Response = await retrying(self._attempt, method, url, scope, request)
        return answer

    async def _attempt(self, method: str, url: str, scope: str, request: dict[str, Any]) -> httpx.Response:
        for refreshed in (False, True):
            token = await self._token()
            await self._limiter.acquire()
            try:
                answer = await self._http.request(method, url, headers={"Authorization": f"Bearer {token}"}, **request)
            except httpx.HTTPError as error:
                msg = f"{url}: {type(error).__name__}"
                raise _TryAgainError(msg) from None
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                break
            self._tokens.refuse(token)
            if refreshed:
                msg = f"{url} answers 401 to a new token; mend the client's permissions at the vendor"
                raise _TryAgainError(msg)
        return _checked(answer, url, scope)

    async def _token(self) -> str:
        try:
            return await self._tokens.token()
        except ServiceUnavailableError as error:
            raise _TryAgainError(str(error)) from None

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _TryAgainError) and error.wait is not None:
            return error.wait
        longest = min(self._backoff * 2.0 ** (state.attempt_number - 1), _MAX_BACKOFF_S)
        return random.uniform(longest / 2, longest)


def limiter_within(most: float, seconds: float) -> AsyncLimiter:
    """A limiter that lets through at most ``most`` in *any* span of so many seconds.

    A leaky bucket lets its capacity through at once and its rate beyond that. Here a tenth of the bound is capacity and
    the rest rate: without any capacity a late timer would cost throughput, with more the rate would be low.
    """
    burst = max(1.0, most / 10)
    rate = max(most - burst, most / 2) / seconds
    return AsyncLimiter(burst, burst / rate)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that the answer asks to wait, None if it does not say."""
    return parse_retry_after(response.headers.get("Retry-After"))


def parse_retry_after(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``; its other form, a date, is not honoured."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < inf else None


def _checked(answer: httpx.Response, url: str, scope: str) -> httpx.Response:
    status = answer.status_code
    if answer.is_success:
        return answer
    if status == httpx.codes.FORBIDDEN:
        msg = f"{url} answers 403: the client lacks the scope {scope}; grant it at the vendor"
        raise ConfigurationError(msg)
    if status == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        wait = retry_after(answer)
        if wait is not None and wait > _MAX_RETRY_AFTER_S:
            msg = f"{url} answers {status} and asks to wait {wait:.0f} s"
            raise ServiceUnavailableError(msg)
        msg = f"{url} answers {status}"
        raise _TryAgainError(msg, wait)
    raise VendorRefusedError(url, status, answer.text[:200])


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("vendor's REST API, tried again", error=str(error), attempt=state.attempt_number)
