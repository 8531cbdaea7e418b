"""The vendor's public transport: notification channels over WebSocket.

A channel takes 1,000 topics and lives 24 h, so a large organisation has several and all are replaced in time. Nothing
is kept for who was away: what came meanwhile is asked for by REST.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import orjson
import structlog
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from streaming.errors import CcaasError, ServiceUnavailableError
from streaming.rest import parse_retry_after
from streaming.vendors.genesys.api import Channel, GenesysApi
from streaming.vendors.genesys.background import run_until_exit
from streaming.vendors.genesys.connection import KINDS, GenesysConnection
from streaming.vendors.genesys.stream import StreamRefusedError
from streaming.vendors.genesys.transport import Attempt, Frame

log = structlog.get_logger()

MAX_TOPICS = 1_000
"""Of one channel."""

# An organisation has 20 channels; other clients want some too.
_MAX_CHANNELS = 10
_CLOSING = b"v2.system.socket_closing"
# Frames of all sockets that wait for the reader; at the bound the sockets are not read on.
_QUEUE = 1_000
_MAX_FRAME_BYTES = 15 * 1024 * 1024
_OPEN_TIMEOUT_S = 10
_CLOSE_TIMEOUT_S = 2
# New agents have topics of their own. More often than a gap's margin, so that their first statuses lie in the gap.
_AGENTS_EVERY_S = 120.0


class WebSocketTransport:
    """A tenant's notification channels, read as one stream.

    Args:
        api: Makes the channels.
        connection: Which streams, and when channels are replaced.
    """

    name = "websocket"
    resumes = False

    def __init__(self, api: GenesysApi, connection: GenesysConnection) -> None:
        self._api = api
        self._connection = connection

    @asynccontextmanager
    async def open(self, cursor: str | None, attempt: Attempt) -> AsyncIterator[AsyncIterator[Frame]]:  # noqa: ARG002
        """See :class:`~streaming.vendors.genesys.transport.Transport`; there is no cursor."""
        agents = await self._agents()
        queue: asyncio.Queue[Frame | Exception | None] = asyncio.Queue(_QUEUE)
        async with AsyncExitStack() as exits:
            for topics in self._by_channel(agents):
                channel = await self._api.open_channel(topics)
                exits.push_async_callback(self._give_back, channel)
                async with attempt():
                    socket = await exits.enter_async_context(_connected(channel))
                run_until_exit(exits, self._read(socket, queue))
            run_until_exit(exits, self._end_when_due(set(agents), queue))
            yield _frames(queue)

    async def _agents(self) -> list[str]:
        return await self._api.agent_ids() if "routing" in self._connection.streams else []

    def _by_channel(self, agents: Iterable[str]) -> list[list[str]]:
        topics = [
            f"v2.detail.events.conversation.{{id}}.{kind}"
            for stream in self._connection.streams
            for kind in KINDS[stream]
        ]
        topics += [f"v2.users.{agent}.routingStatus" for agent in agents]
        channels = [topics[first : first + MAX_TOPICS] for first in range(0, len(topics), MAX_TOPICS)]
        if len(channels) > _MAX_CHANNELS:
            msg = (
                f"{len(topics)} topics need {len(channels)} channels, more than {_MAX_CHANNELS}; "
                "leave 'routing' out of connection.streams or use transport = 'sse'"
            )
            raise ServiceUnavailableError(msg)
        return channels

    async def _give_back(self, channel: Channel) -> None:
        # The vendor ends it by itself after a day; until then it counts among the few that there are.
        with suppress(CcaasError, TimeoutError):
            async with asyncio.timeout(5):
                await self._api.close_channel(channel)

    async def _read(self, socket: ClientConnection, queue: asyncio.Queue[Frame | Exception | None]) -> None:
        """Hot path: frames of one socket into the queue, until it ends."""
        idle = self._connection.heartbeat_timeout_seconds
        try:
            while True:
                async with asyncio.timeout(idle):
                    data = await socket.recv(decode=False)
                if _CLOSING in data and _topic(data) == _CLOSING:
                    log.info("the vendor is about to close the channel")
                    break
                await queue.put(Frame("", data))
        except TimeoutError:
            await queue.put(ServiceUnavailableError(f"no frame and no heartbeat for {idle:.0f} s"))
        except websockets.ConnectionClosedOK:
            pass
        except WebSocketException as error:
            await queue.put(ServiceUnavailableError(f"WebSocket broken: {type(error).__name__}"))
        await queue.put(None)

    async def _end_when_due(self, agents: set[str], queue: asyncio.Queue[Frame | Exception | None]) -> None:
        """End the stream before the vendor does, or when there are agents whom no channel covers: it is opened anew."""
        due = time.monotonic() + self._connection.channel_renewal_seconds
        while (left := due - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _AGENTS_EVERY_S))
            try:
                if set(await self._agents()) - agents:
                    log.info("agents are new; channels are made anew")
                    break
            except CcaasError as error:
                # genesys-completeness finds what a new agent did meanwhile.
                log.warning("agents not listed; statuses of new ones come later", error=str(error))
        await queue.put(None)


async def _frames(queue: asyncio.Queue[Frame | Exception | None]) -> AsyncIterator[Frame]:
    while (item := await queue.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


@asynccontextmanager
async def _connected(channel: Channel) -> AsyncIterator[ClientConnection]:
    try:
        socket = await connect(
            channel.connect_uri,
            max_size=_MAX_FRAME_BYTES,
            open_timeout=_OPEN_TIMEOUT_S,
            compression=None,
            # The vendor's heartbeat tells a dead socket; a ping would cut one that waits for Kafka.
            ping_interval=None,
            close_timeout=_CLOSE_TIMEOUT_S,
        )
    except InvalidStatus as refused:
        wait = parse_retry_after(refused.response.headers.get("Retry-After"))
        raise StreamRefusedError(refused.response.status_code, "WebSocket handshake", wait) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        msg = f"WebSocket not opened: {type(error).__name__}"
        raise ServiceUnavailableError(msg) from None
    try:
        yield socket
    finally:
        await socket.close()


def _topic(data: bytes) -> bytes:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return b""
    return str(document.get("topicName")).encode() if isinstance(document, dict) else b""
