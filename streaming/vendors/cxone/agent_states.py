"""Agent states: not pushed by CXone, so ``agents/state-history`` is polled, each tenant under a lease."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson
import sqlalchemy as sa
import structlog
from cachetools import LRUCache

from schemas.codec import Encoder
from schemas.normalise import normaliser
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, CcaasError, ServiceUnavailableError
from streaming.lease import LeaseKeeper
from streaming.publisher import Publisher
from streaming.rest import RestClient
from streaming.settings import Settings, Tenant
from streaming.state import CursorMove, CursorStore, open_state
from streaming.vendors import connection_of
from streaming.vendors.cxone.access import rest_client
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.contacts import SCOPE

log = structlog.get_logger()

TRANSPORT = "rest"
STREAM = "agent-states"
_PATH = "/inContactAPI/services/v30.0/agents/state-history"
_PAGE = 10_000
_ACK_TIMEOUT_S = 60.0
_TICK_S = 0.2
# Statuses of a tenant: more than it has in a look-back.
_REMEMBERED = 50_000


def lease_name(tenant: Tenant) -> str:
    """The lease that entitles a process to poll a tenant's agent states."""
    return f"agent-states/{tenant.vendor}/{tenant.tenant_id}"


class AgentStatePoller:
    """Polls all CXone tenants, in a thread and with a producer of its own.

    A poll takes what changed from the look-back before its cursor to the vendor's now; the cursor moves once Kafka has
    all of it. After a restart the look-back is published again, with the same ids.

    Args:
        settings: The platform's.
        encoder: Under the registered schema.
        stop: Ends the poller when set.
    """

    def __init__(self, settings: Settings, encoder: Encoder, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._tenants = settings.tenants_of(VENDOR)
        self._publisher = Publisher(settings, encoder, "cxone-agent-states")
        self._engine = engine = open_state(settings.state_url)
        names = [lease_name(tenant) for tenant in self._tenants]
        self._keeper = LeaseKeeper(engine, names, ttl=settings.state.lease_ttl_seconds)
        self._cursors = CursorStore(engine, VENDOR)
        # What the look-back reads again is not published again.
        self._recent: dict[str, LRUCache[str | int, bool]] = {
            tenant.tenant_id: LRUCache(_REMEMBERED) for tenant in self._tenants
        }
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="agent-states", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._keeper.start()
        self._thread.start()

    def check(self) -> None:
        """Raise if the poller can't go on.

        Raises:
            ServiceUnavailableError: Kafka refused a record for good, or the thread ended.
        """
        self._publisher.check()
        if not self._thread.is_alive() and not self._stop.is_set():
            msg = "the agent state poller ended"
            raise ServiceUnavailableError(msg)

    def join(self) -> None:
        """Wait for the end, after ``stop`` was set."""
        self._thread.join(timeout=15)
        self._keeper.close()
        self._publisher.close()
        self._engine.dispose()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as http:
            await asyncio.gather(*(self._follow(http, tenant) for tenant in self._tenants))

    async def _follow(self, http: httpx.AsyncClient, tenant: Tenant) -> None:
        connection = connection_of(tenant, CxoneConnection)
        # One attempt a poll: the next poll is the next attempt.
        rest = rest_client(http, connection, attempts=1)
        due = time.monotonic()
        while not self._stop.is_set():
            epoch = self._keeper.epoch(lease_name(tenant))
            if epoch is None or time.monotonic() < due:
                await asyncio.sleep(_TICK_S)
                continue
            due = time.monotonic() + connection.agent_state_poll_seconds
            try:
                await self._poll(rest, tenant, connection, epoch)
            except (CcaasError, httpx.HTTPError, sa.exc.SQLAlchemyError) as error:
                log.warning("agent states not polled; tried again", tenant_id=tenant.tenant_id, error=str(error))
            except Exception:
                # A poller that dies silently would lose statuses for ever.
                log.exception("agent states not polled; tried again", tenant_id=tenant.tenant_id)

    async def _poll(self, rest: RestClient, tenant: Tenant, connection: CxoneConnection, epoch: int) -> None:
        cursor = await asyncio.to_thread(self._cursors.read, tenant.tenant_id, STREAM)
        until: str | None = None
        waiting = [0]
        async for page in self._pages(rest, connection, _earlier(cursor, connection.agent_state_look_back_seconds)):
            until = until or str(page["lastPollTime"])
            while not self._publisher.has_room():
                self._publisher.poll(0)
                await asyncio.sleep(0.005)
            for row in page["agentStates"]:
                self._publish(tenant, row, waiting)
        deadline = time.monotonic() + _ACK_TIMEOUT_S
        while waiting[0] and time.monotonic() < deadline:
            self._publisher.poll(0)
            await asyncio.sleep(0.005)
        if waiting[0]:
            # What is not acknowledged must not count as published.
            self._recent[tenant.tenant_id].clear()
            refusal = self._publisher.take_refusal(tenant)
            msg = f"Kafka has not acknowledged {waiting[0]} agent states ({refusal}); they are polled again"
            raise ServiceUnavailableError(msg)
        if until is not None and until != cursor:
            move = CursorMove(tenant.tenant_id, STREAM, until, lease_name(tenant), epoch)
            await asyncio.to_thread(self._cursors.write, [move])

    async def _pages(
        self, rest: RestClient, connection: CxoneConnection, since: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """The pages of one snapshot: later ones ask for the first one's ``lastPollTime`` as ``until``.

        A vendor that does not know ``until`` gives rows newer than that as well; their ids make them harmless.
        """
        params: dict[str, str | int] = {"skip": 0, "top": _PAGE} | ({"updatedSince": since} if since else {})
        while True:
            response = await rest.request("GET", connection.api_url + _PATH, scope=SCOPE, params=params)
            if response.status_code == httpx.codes.NO_CONTENT:
                return
            page = response.json()
            if not isinstance(page, dict) or not isinstance(page.get("agentStates"), list):
                msg = "agents/state-history: no agentStates in the answer"
                raise ServiceUnavailableError(msg)
            yield page
            if len(page["agentStates"]) < _PAGE:
                return
            params |= {"skip": int(params["skip"]) + _PAGE}
            params.setdefault("until", page["lastPollTime"])

    def _publish(self, tenant: Tenant, row: Any, waiting: list[int]) -> None:
        received_us = time.time_ns() // 1000

        def acknowledged() -> None:
            waiting[0] -= 1

        vendor = normaliser(VENDOR)
        recent = self._recent[tenant.tenant_id]
        try:
            document = as_message(row)
            records = [
                (event, self._publisher.encode(event))
                for event in vendor.normalise_document(document, tenant.tenant_id)
            ]
        except BadEventError as error:
            value = orjson.dumps(row)
            if hash(value) not in recent:
                recent[hash(value)] = True
                waiting[0] += 1
                headers = dead_letter_headers(error, stage="normalise", transport=TRANSPORT)
                self._publisher.dead_letter(tenant, key=None, value=value, headers=headers, acknowledged=acknowledged)
            return
        for event, value in records:
            if event["event_id"] not in recent:
                recent[event["event_id"]] = True
                waiting[0] += 1
                self._publisher.publish(
                    tenant, event, value, received_us=received_us, transport=TRANSPORT, acknowledged=acknowledged
                )


def as_message(row: Any) -> dict[str, Any]:
    """A row as the field map knows it: REST's carry no type.

    Raises:
        BadEventError: it is no object.
    """
    return {**normaliser(VENDOR).require_object(row), "eventType": "AGENT_STATE"}


def _earlier(cursor: str | None, seconds: float) -> str | None:
    """An ISO 8601 instant moved back: the vendor may record a status after it began."""
    if cursor is None:
        return None
    return (datetime.fromisoformat(cursor) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
