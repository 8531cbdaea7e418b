"""Genesys notifications: channels and their subscriptions, over REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic import BaseModel, RootModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.agents import StatusChange
from devstack.simulators.control import parse, problem
from devstack.simulators.eventlog import EventLog
from devstack.simulators.genesys_events import CONVERSATION_KINDS, conversation_topic, status_topic
from devstack.simulators.instants import iso
from devstack.simulators.oauth import Client
from devstack.simulators.schedule import Occurrence

MAX_TOPICS = 1_000
_MAX_CHANNELS = 20
# Every conversation: the id is left open.
_ANY = "{id}"


class _Topic(BaseModel):
    id: str


class _Topics(RootModel[list[_Topic]]):
    pass


@dataclass(slots=True)
class Channel:
    """One channel.

    Attributes:
        channel_id: Its id, which is the secret that opens its WebSocket.
        client_id: Whose it is.
        expires: When it ends, epoch s.
        topics: Topic -> position in the log at which it was subscribed: nothing earlier goes out.
        closing: Of its present connection; set to end it. None if it has none.
    """

    channel_id: str
    client_id: str
    expires: float
    topics: dict[str, int] = field(default_factory=dict)
    closing: asyncio.Event | None = None

    def close(self) -> None:
        """End the present connection, if there is one."""
        if self.closing is not None:
            self.closing.set()

    def wants(self, topic: str, position: int) -> bool:
        """Whether the event of a topic at this position of the log goes out here."""
        subscribed = self.topics.get(topic)
        return subscribed is not None and subscribed <= position


def subscription_of(occurrence: Occurrence) -> str:
    """The topic under which an event is subscribed."""
    if isinstance(occurrence.subject, StatusChange):
        return status_topic(occurrence.subject.agent_id)
    return conversation_topic(_ANY, occurrence.kind)


class Notifications:
    """The channels of one organisation.

    Args:
        log: Where the events are.
        agent_ids: Whose statuses can be had.
        lifetime: Of a channel, s.
        wall: Wall clock, epoch s.
    """

    def __init__(
        self, log: EventLog, agent_ids: Collection[str], *, lifetime: float, wall: Callable[[], float] = time.time
    ) -> None:
        self._log = log
        self._topics = {conversation_topic(_ANY, kind) for kind in CONVERSATION_KINDS}
        self._topics |= {status_topic(agent_id) for agent_id in agent_ids}
        self._lifetime = lifetime
        self._wall = wall
        self._channels: dict[str, Channel] = {}  # in the order of their making

    @property
    def count(self) -> int:
        """Channels that exist."""
        return len(self._channels)

    @property
    def connected(self) -> int:
        """Channels whose WebSocket is open."""
        return sum(channel.closing is not None for channel in self._channels.values())

    def disconnect(self) -> None:
        """End every connection; the channels stay."""
        for channel in self._channels.values():
            channel.close()

    def find(self, channel_id: str) -> Channel | None:
        """The channel, unless it never was, was deleted or has expired."""
        channel = self._channels.get(channel_id)
        if channel is not None and self.seconds_left(channel) <= 0:
            self._drop(channel)
            return None
        return channel

    def seconds_left(self, channel: Channel) -> float:
        """How long it still lives, s."""
        return channel.expires - self._wall()

    async def create(self, request: Request, client: Client) -> Response:
        """``POST /api/v2/notifications/channels``: a new channel; beyond 20 of a client the oldest goes."""
        own = [channel for channel in self._channels.values() if channel.client_id == client.client_id]
        for channel in own[: max(0, len(own) - _MAX_CHANNELS + 1)]:
            self._drop(channel)
        channel = Channel(str(uuid4()), client.client_id, self._wall() + self._lifetime)
        self._channels[channel.channel_id] = channel
        uri = f"ws://{request.url.netloc}/channels/{channel.channel_id}"
        expires = iso(int(channel.expires * 1000))
        return JSONResponse({"id": channel.channel_id, "connectUri": uri, "expires": expires})

    async def delete(self, request: Request, client: Client) -> Response:
        """``DELETE /api/v2/notifications/channels/{id}``."""
        channel = self._own(request, client)
        if channel is None:
            return _no_channel()
        self._drop(channel)
        return Response(status_code=204)

    async def subscribe(self, request: Request, client: Client) -> Response:
        """``PUT`` (instead of the topics so far) or ``POST`` (in addition) ``…/channels/{id}/subscriptions``."""
        channel = self._own(request, client)
        if channel is None:
            return _no_channel()
        wanted = parse(_Topics, await request.body() or b"[]")
        if isinstance(wanted, Response):
            return wanted
        names = list(dict.fromkeys(topic.id for topic in wanted.root))
        if unknown := [name for name in names if name not in self._topics]:
            return problem(400, "notifications.topic.unknown", f"no such topic: {unknown[0][:200]}")
        kept = channel.topics if request.method == "POST" else {}
        topics = kept | {name: channel.topics.get(name, self._log.end) for name in names}
        if len(topics) > MAX_TOPICS:
            return problem(400, "notifications.too.many", f"a channel has at most {MAX_TOPICS} topics; use another one")
        channel.topics = topics
        return JSONResponse({"entities": [{"id": name} for name in topics]})

    def _own(self, request: Request, client: Client) -> Channel | None:
        channel = self.find(request.path_params["channel_id"])
        return channel if channel is not None and channel.client_id == client.client_id else None

    def _drop(self, channel: Channel) -> None:
        channel.close()
        self._channels.pop(channel.channel_id, None)


def _no_channel() -> Response:
    return problem(404, "not.found", "no such channel; it may have expired")
