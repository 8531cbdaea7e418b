"""The sliding minute of the vendors' REST limits, by a clock that stands until it is moved."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from devstack.simulators.oauth import Client
from devstack.simulators.ratelimit import RateLimit

ONE, OTHER = (Client(name, "", "t", frozenset()) for name in ("one", "other"))


async def test_the_minute_slides() -> None:
    now = 100.0
    limit = RateLimit(2, monotonic=lambda: now)

    async def endpoint(request: Request, client: Client) -> Response:
        return Response()

    first, second = limit.limit(endpoint), limit.limit(endpoint)
    request = Request({"type": "http"})

    async def ask(client: Client = ONE) -> tuple[int, str | None]:
        answer = await first(request, client)
        return answer.status_code, answer.headers.get("Retry-After")

    assert await ask() == (200, None)
    now = 130.5
    assert (await second(request, ONE)).status_code == 200
    assert await ask() == (429, "30"), "both endpoints share it; whole seconds, none too few"
    assert await ask(OTHER) == (200, None), "each client has its own"
    now = 159.9
    assert await ask() == (429, "1")
    now = 160.0
    assert await ask() == (200, None), "the first is a minute ago; what was refused did not count"
    assert await ask() == (429, "31")
