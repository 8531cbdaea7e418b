"""A vendor's REST API over real HTTP: waits, retries, tokens, scopes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.oauth import TokenSource
from streaming.rest import RestClient, VendorRefusedError
from tests.processes import free_port


class Vendor:
    """Answers in the order given; the last one again and again."""

    def __init__(self, *answers: Callable[[], Response]) -> None:
        self.answers = list(answers)
        self.tokens: list[str] = []
        self.issued = 0

    async def token(self, _: Request) -> Response:
        self.issued += 1
        return JSONResponse({"access_token": f"token-{self.issued}", "expires_in": 3600})

    async def api(self, request: Request) -> Response:
        self.tokens.append(request.headers["authorization"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer()


@asynccontextmanager
async def client(vendor: Vendor, **options: float) -> AsyncIterator[tuple[RestClient, str]]:
    app = Starlette(
        routes=[Route("/token", vendor.token, methods=["POST"]), Route("/api", vendor.api, methods=["GET"])]
    )
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(trust_env=False) as http:
        tokens = TokenSource(http, token_url=f"{url}/token", client_id="c", client_secret="s")
        settings = {"requests_per_minute": 60_000, "backoff": 0.01, "attempts": 3} | options
        yield RestClient(http, tokens, **settings), f"{url}/api"  # type: ignore[arg-type]
    server.should_exit = True
    await serving


def good() -> Response:
    return JSONResponse({"ok": True})


def status(code: int, retry_after: str | None = None) -> Callable[[], Response]:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return lambda: Response("no", code, headers)


async def test_a_dead_token_is_renewed_at_once() -> None:
    vendor = Vendor(status(401), good)
    async with client(vendor) as (rest, url):
        assert (await rest.request("GET", url, scope="s")).json() == {"ok": True}
    assert vendor.tokens == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("refusal", [status(503), status(429), status(500), status(503, "0")])
async def test_what_passes_by_itself_is_tried_again(refusal: Callable[[], Response]) -> None:
    async with client(Vendor(refusal, refusal, good)) as (rest, url):
        assert (await rest.request("GET", url, scope="s")).is_success


async def test_retry_after_is_waited_for() -> None:
    async with client(Vendor(status(429, "1"), good)) as (rest, url):
        began = time.monotonic()
        await rest.request("GET", url, scope="s")
        assert time.monotonic() - began >= 1


async def test_a_vendor_that_stays_down_is_a_service_that_is_unavailable() -> None:
    async with client(Vendor(status(503))) as (rest, url):
        with pytest.raises(ServiceUnavailableError, match="answers 503"):
            await rest.request("GET", url, scope="s")


async def test_a_wait_of_hours_is_not_waited_for() -> None:
    async with client(Vendor(status(429, "7200"))) as (rest, url):
        with pytest.raises(ServiceUnavailableError, match="asks to wait 7200 s"):
            await rest.request("GET", url, scope="s")


async def test_a_missing_scope_is_named_and_not_tried_again() -> None:
    vendor = Vendor(status(403))
    async with client(vendor) as (rest, url):
        with pytest.raises(ConfigurationError, match="lacks the scope conversation:view; grant it"):
            await rest.request("GET", url, scope="conversation:view")
    assert len(vendor.tokens) == 1


async def test_a_fault_of_the_request_is_not_tried_again() -> None:
    vendor = Vendor(status(400))
    async with client(vendor) as (rest, url):
        with pytest.raises(VendorRefusedError, match="answers 400") as caught:
            await rest.request("GET", url, scope="s")
    assert caught.value.status == 400
    assert len(vendor.tokens) == 1


async def test_the_rate_limit_is_kept_in_every_minute() -> None:
    """A tenth of the limit at once, then evenly: no span of a minute holds more than the limit."""
    vendor = Vendor(good)
    # Of 3,000 a minute 300 at once, then 45 a second.
    async with client(vendor, requests_per_minute=3000) as (rest, url):
        began = time.monotonic()
        await asyncio.gather(*(rest.request("GET", url, scope="s") for _ in range(345)))
        assert time.monotonic() - began >= 0.95
