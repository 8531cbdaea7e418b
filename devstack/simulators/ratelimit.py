"""A vendor's limit on REST requests: so many in any minute, for each client."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from devstack.simulators.control import problem
from devstack.simulators.oauth import Client, Endpoint

_WINDOW_S = 60.0


class RateLimit:
    """Counts the requests let through in the last 60 s; what is refused does not count.

    Args:
        per_minute: Requests of one client, 1 or more.
        says_when: Whether a refusal tells by ``Retry-After`` when to come again.
        monotonic: Wall clock, s.
    """

    def __init__(
        self, per_minute: int, *, says_when: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._says_when = says_when
        self._monotonic = monotonic
        self._passed: dict[str, deque[float]] = {}

    def limit(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint behind this limit; all endpoints behind it share it. Above it: 429."""

        async def limited(request: Request, client: Client) -> Response:
            refusal = self._refusal(client)
            return refusal if refusal is not None else await endpoint(request, client)

        return limited

    def _refusal(self, client: Client) -> Response | None:
        now = self._monotonic()
        passed = self._passed.setdefault(client.client_id, deque(maxlen=self._per_minute))
        while passed and passed[0] <= now - _WINDOW_S:
            passed.popleft()
        if len(passed) < self._per_minute:
            passed.append(now)
            return None
        wait = max(1, math.ceil(passed[0] + _WINDOW_S - now))
        headers = {"Retry-After": str(wait)} if self._says_when else {}
        text = f"more than {self._per_minute} requests in a minute; send fewer"
        return problem(429, "too.many.requests", text, headers)
