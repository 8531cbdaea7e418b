"""Topics and channels of the WebSocket transport, against a REST API of real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from streaming.errors import ServiceUnavailableError
from streaming.oauth import TokenSource
from streaming.rest import RestClient, VendorRefusedError
from streaming.vendors.genesys.api import GenesysApi
from streaming.vendors.genesys.connection import GenesysConnection
from streaming.vendors.genesys.notifications import MAX_TOPICS, WebSocketTransport
from tests.processes import free_port


class Vendor:
    """So many agents; remembers channels and what they are subscribed to."""

    def __init__(self, agents: int, port: int) -> None:
        self.agents = [f"a{number}" for number in range(agents)]
        self.channels: dict[str, list[str]] = {}
        self.refuses_topics = False
        self._port = port

    async def token(self, _: Request) -> Response:
        return JSONResponse({"access_token": "t", "expires_in": 3600})

    async def users(self, request: Request) -> Response:
        first = (int(request.query_params["pageNumber"]) - 1) * 100
        entities = [{"id": agent} for agent in self.agents[first : first + 100]]
        return JSONResponse({"entities": entities, "pageCount": -(-len(self.agents) // 100)})

    async def channel(self, _: Request) -> Response:
        identifier = f"c{len(self.channels)}"
        self.channels[identifier] = []
        uri = f"ws://127.0.0.1:{self._port}/channels/{identifier}"
        return JSONResponse({"id": identifier, "connectUri": uri})

    async def delete(self, request: Request) -> Response:
        del self.channels[request.path_params["id"]]
        return Response(status_code=204)

    async def subscribe(self, request: Request) -> Response:
        topics = [item["id"] for item in await request.json()]
        if self.refuses_topics or len(topics) > MAX_TOPICS:
            return JSONResponse({"message": "no"}, 400)
        self.channels[request.path_params["id"]] = topics
        return JSONResponse({})

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        topics = self.channels[socket.path_params["id"]]
        await socket.send_text(json.dumps({"topicName": "first", "eventBody": topics[0]}))
        await socket.receive()

    def app(self) -> Starlette:
        channels = "/api/v2/notifications/channels"
        return Starlette(
            routes=[
                Route("/token", self.token, methods=["POST"]),
                Route("/api/v2/users", self.users),
                Route(channels, self.channel, methods=["POST"]),
                Route(channels + "/{id}", self.delete, methods=["DELETE"]),
                Route(channels + "/{id}/subscriptions", self.subscribe, methods=["PUT"]),
                WebSocketRoute("/channels/{id}", self.socket),
            ]
        )


@asynccontextmanager
async def transport(agents: int) -> AsyncIterator[tuple[WebSocketTransport, Vendor]]:
    port = free_port()
    vendor = Vendor(agents, port)
    server = uvicorn.Server(uvicorn.Config(vendor.app(), port=port, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{port}"
    connection = GenesysConnection.model_validate(
        {"token_url": f"{url}/token", "api_url": url, "transport": "websocket", "client_id": "i", "client_secret": "s"}
    )
    async with httpx.AsyncClient(trust_env=False) as http:
        tokens = TokenSource(http, token_url=f"{url}/token", client_id="i", client_secret="s")
        rest = RestClient(http, tokens, requests_per_minute=60_000, backoff=0.01)
        yield WebSocketTransport(GenesysApi(rest, url), connection), vendor
    server.should_exit = True
    await serving


@asynccontextmanager
async def attempt() -> AsyncIterator[None]:
    yield


async def test_more_topics_than_a_channel_takes_are_spread_and_read_as_one_stream() -> None:
    async with transport(agents=2_500) as (opened, vendor):
        async with opened.open(None, attempt) as frames:
            topics = [topic for channel in vendor.channels.values() for topic in channel]
            assert [len(channel) for channel in vendor.channels.values()] == [1000, 1000, 507]
            assert len(set(topics)) == 2_507
            assert {f"v2.users.{agent}.routingStatus" for agent in vendor.agents} <= set(topics)
            read: list[Any] = [json.loads((await anext(frames)).data) for _ in range(3)]
            assert {frame["eventBody"] for frame in read} == {channel[0] for channel in vendor.channels.values()}
        assert vendor.channels == {}, "channels are given back"


async def test_more_topics_than_all_channels_take_are_refused_with_a_remedy() -> None:
    async with transport(agents=10_001) as (opened, vendor):
        with pytest.raises(ServiceUnavailableError, match="use transport = 'sse'"):
            await opened.open(None, attempt).__aenter__()
        assert vendor.channels == {}


async def test_a_channel_without_its_subscription_is_given_back() -> None:
    async with transport(agents=1) as (opened, vendor):
        vendor.refuses_topics = True
        with pytest.raises(VendorRefusedError):
            await opened.open(None, attempt).__aenter__()
        assert vendor.channels == {}
