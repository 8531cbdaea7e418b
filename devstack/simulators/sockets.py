"""Genesys notifications: the WebSocket of a channel."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from devstack.simulators.control import problem
from devstack.simulators.eventlog import EventLog
from devstack.simulators.notifications import Channel, Notifications

_GOING_AWAY = 1001
# Messages after which other tasks get their turn: a write to a socket that takes everything never waits.
_CHUNK = 100
_HEARTBEAT = {"topicName": "channel.metadata", "eventBody": {"message": "WebSocket Heartbeat"}}
_CLOSING = {"topicName": "v2.system.socket_closing", "eventBody": {"message": "the connection is about to end"}}


class ChannelSocket:
    """``/channels/{id}``: the address alone entitles. One connection a channel: a later one ends the one before.

    Args:
        notifications: The channels.
        log: Where the events are. A connection sends those released while it stands; there is neither cursor nor
            replay.
    """

    def __init__(self, notifications: Notifications, log: EventLog) -> None:
        self._notifications = notifications
        self._log = log

    async def endpoint(self, socket: WebSocket) -> None:
        """One connection, until the client leaves or the vendor closes; 404 for an unknown or expired channel."""
        channel = self._notifications.find(socket.path_params["channel_id"])
        if channel is None:
            await socket.send_denial_response(problem(404, "not.found", "no such channel; it may have expired"))
            return
        channel.close()
        channel.closing = closing = asyncio.Event()
        begin = self._log.end  # before the handshake is answered: who is connected misses nothing
        try:
            await socket.accept()
            await self._serve(socket, channel, closing, begin)
        except WebSocketDisconnect:
            pass
        finally:
            if channel.closing is closing:
                channel.closing = None

    async def _serve(self, socket: WebSocket, channel: Channel, closing: asyncio.Event, begin: int) -> None:
        ends = [
            asyncio.ensure_future(_until_left(socket)),
            asyncio.ensure_future(closing.wait()),
            asyncio.ensure_future(asyncio.sleep(self._notifications.seconds_left(channel))),
        ]
        writing = [asyncio.ensure_future(self._send(socket, channel, begin)), asyncio.ensure_future(self._beat(socket))]
        try:
            await asyncio.wait([*ends, *writing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [*ends, *writing]:
                task.cancel()
            outcomes = await asyncio.gather(*ends, *writing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        await _send(socket, _CLOSING)
        await socket.close(_GOING_AWAY)

    async def _send(self, socket: WebSocket, channel: Channel, position: int) -> None:
        while True:
            grown, end = self._log.grown(), self._log.end
            for at in range(position, end):
                if channel.wants(self._log.topic(at), at):
                    await socket.send_text(self._log.message(at).decode())
                if at % _CHUNK == 0:
                    await asyncio.sleep(0)
            position = end
            await grown.wait()

    async def _beat(self, socket: WebSocket) -> None:
        while True:
            await asyncio.sleep(self._log.heartbeat)
            await _send(socket, _HEARTBEAT)


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    await socket.send_text(orjson.dumps(message).decode())


async def _until_left(socket: WebSocket) -> None:
    """What the client says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    raise WebSocketDisconnect
