"""What a stream did not bring: asked for by REST and published, with the ids that the stream's events would have."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
from schemas.normalise import normaliser
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, ServiceUnavailableError
from streaming.instants import to_ms
from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.vendors.genesys.api import GenesysApi
from streaming.vendors.genesys.connection import KINDS, VENDOR, GenesysConnection
from streaming.vendors.genesys.details import Message, conversation_messages, status_messages

log = structlog.get_logger()

TRANSPORT = "rest"
STAGE = "details"
_POLL_S = 0.01
_ACK_TIMEOUT_S = 60.0

Wanted = Callable[[CanonicalEvent], bool]


@dataclass(slots=True)
class RecoveryCounts:
    """What became of a window's events.

    Attributes:
        found: Events that REST tells of, by type.
        published: Those that were published.
        dead_letters: Rows that are no events.
        newest_ms: Time of the newest event, epoch ms; 0 if there is none.
    """

    found: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    newest_ms: int = 0


class Recovery:
    """Fills windows of event time for one tenant.

    Use it from the event loop whose thread polls the publisher.

    Args:
        tenant: Whose events.
        connection: Which streams it takes, and how far back a conversation may have begun.
        api: The vendor's REST API.
        publisher: Takes the events.
        mark: Value of ``metadata['ccaas.recovered']``.
        poll: Called while waiting for acknowledgements, if nobody else polls the publisher.
    """

    def __init__(
        self,
        tenant: Tenant,
        connection: GenesysConnection,
        api: GenesysApi,
        publisher: Publisher,
        *,
        mark: str,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._tenant = tenant
        self._connection = connection
        self._api = api
        self._publisher = publisher
        self._mark = mark
        self._poll = poll
        self._normalise = normaliser(VENDOR)
        self._kinds = wanted_kinds(connection)

    async def fill(
        self,
        start: datetime,
        end: datetime,
        *,
        known: MutableMapping[str, bool],
        wanted: Wanted = lambda _: True,
        publish: bool = True,
    ) -> RecoveryCounts:
        """Publish what REST knows of [start, end) and nobody has yet; returns once Kafka has all of it.

        Args:
            start: Event time, UTC.
            end: Exclusive; may lie in the future.
            known: Ids that are not published again. Those that Kafka acknowledged are added.
            wanted: Further condition on an event.
            publish: False only counts.

        Raises:
            ServiceUnavailableError: the vendor or Kafka does not answer; again from ``start``, ids make it harmless.
            ConfigurationError: credentials or scope are wrong.
            VendorRefusedError: the vendor finds fault with the query.
        """
        counts, waiting = RecoveryCounts(), [0]
        bounds = (to_ms(start), to_ms(end))
        # A page that moved brings rows again; what is on its way is not sent twice.
        begun: set[str] = set()
        async for row, messages in self._rows(start, end):
            while not self._publisher.has_room():
                await self._wait()
            try:
                events = self._events(messages())
                records = [(event, self._publisher.encode(event)) for event in events if _within(event, *bounds)]
            except BadEventError as error:
                # ASCII by the standard library: orjson refuses some of what it is the point to keep.
                value = json.dumps(row, default=str).encode()
                key = f"{VENDOR}-row-{hash(value)}"
                if key not in known and key not in begun and publish:
                    begun.add(key)
                    counts.dead_letters += 1
                    self._dead_letter(value, error, key, known, waiting)
                continue
            for event, value in records:
                identifier = event["event_id"]
                counts.newest_ms = max(counts.newest_ms, event["timestamp"])
                if identifier in begun:
                    continue
                begun.add(identifier)
                kind = event["event_type"]
                counts.found[kind] = counts.found.get(kind, 0) + 1
                if identifier in known or not wanted(event):
                    continue
                counts.published[kind] = counts.published.get(kind, 0) + 1
                if publish:
                    self._send(event, value, known, waiting)
        await self._acknowledged(waiting)
        return counts

    async def _rows(self, start: datetime, end: datetime) -> AsyncIterator[tuple[Any, Callable[[], list[Message]]]]:
        """Every row, and what makes messages of it."""
        longest = timedelta(hours=self._connection.longest_conversation_hours)
        async for page in self._api.conversations(start, end, longest=longest):
            for row in page:
                yield row, lambda row=row: conversation_messages(row)  # type: ignore[misc]
        if "routing" in self._connection.streams:
            async for page in self._api.agent_statuses(start, end):
                for row in page:
                    yield row, lambda row=row: status_messages(row)  # type: ignore[misc]

    def _events(self, messages: list[Message]) -> list[CanonicalEvent]:
        tenant_id = self._tenant.tenant_id
        events = [
            event
            for message in messages
            if message["topicName"].endswith(self._kinds)
            for event in self._normalise.normalise_document(message, tenant_id)
        ]
        for event in events:
            event["metadata"][RECOVERED_KEY] = self._mark
        return events

    def _send(self, event: CanonicalEvent, value: bytes, known: MutableMapping[str, bool], waiting: list[int]) -> None:
        waiting[0] += 1

        def acknowledged() -> None:
            waiting[0] -= 1
            known[event["event_id"]] = True

        now_us = time.time_ns() // 1000
        self._publisher.publish(
            self._tenant, event, value, received_us=now_us, transport=TRANSPORT, acknowledged=acknowledged
        )

    def _dead_letter(
        self, value: bytes, error: BadEventError, key: str, known: MutableMapping[str, bool], waiting: list[int]
    ) -> None:
        waiting[0] += 1

        def acknowledged() -> None:
            waiting[0] -= 1
            known[key] = True

        headers = dead_letter_headers(error, stage=STAGE, transport=TRANSPORT)
        self._publisher.dead_letter(self._tenant, key=None, value=value, headers=headers, acknowledged=acknowledged)

    async def _acknowledged(self, waiting: list[int]) -> None:
        deadline = time.monotonic() + _ACK_TIMEOUT_S
        while waiting[0]:
            if time.monotonic() > deadline:
                msg = f"Kafka has not acknowledged {waiting[0]} recovered events; the window is read again"
                raise ServiceUnavailableError(msg)
            await self._wait()

    async def _wait(self) -> None:
        self._poll()
        await asyncio.sleep(_POLL_S)


def wanted_kinds(connection: GenesysConnection) -> tuple[str, ...]:
    """Endings of the topics that a tenant's streams bring: REST tells of everything, and only these are wanted."""
    kinds = [f".{kind}" for stream in connection.streams for kind in KINDS[stream]]
    return tuple(kinds + [".routingStatus"] * ("routing" in connection.streams))


def _within(event: CanonicalEvent, start_ms: int, end_ms: int) -> bool:
    return start_ms <= event["timestamp"] < end_ms
