"""The REST API: what a stream did not bring, and the channels of the notification service.

Sources: developer.genesys.cloud, analytics conversations and users details queries, notification service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import structlog

from streaming.errors import CcaasError, ServiceUnavailableError
from streaming.rest import RestClient

log = structlog.get_logger()

Json = Any

_CONVERSATIONS = "/api/v2/analytics/conversations/details/query"
_USERS_DETAILS = "/api/v2/analytics/users/details/query"
_USERS = "/api/v2/users"
_CHANNELS = "/api/v2/notifications/channels"

_PAGE = 100
# A query's interval may be no longer.
MAX_INTERVAL = timedelta(days=31)
# Rows that appear or vanish between two pages shift the rest: the query is then read again, so often.
_MAX_PASSES = 5
_MAX_PAGES = 10_000
_READ_SCOPE = "conversation:view"
_CHANNEL_SCOPE = "integration:write"


class Channel(NamedTuple):
    """A notification channel."""

    id: str
    connect_uri: str  # ws or wss; whoever knows it may read, so it is never logged


class GenesysApi:
    """One organisation's REST API.

    Args:
        rest: Its access.
        api_url: Base address.
    """

    def __init__(self, rest: RestClient, api_url: str) -> None:
        self._rest = rest
        self._url = api_url.rstrip("/")

    async def conversations(self, start: datetime, end: datetime, *, longest: timedelta) -> AsyncIterator[list[Json]]:
        """Pages of the conversations that were active in [start, end).

        A query finds conversations that began on a day its interval touches, so the interval reaches back by the
        longest that one may run; those that ended before ``start`` are filtered out by the vendor.

        Raises:
            ServiceUnavailableError: the vendor does not answer, or the pages never stood still.
            ConfigurationError: credentials or scope are wrong.
            VendorRefusedError: the vendor finds fault with the query.
        """
        earliest = max(start - longest, end - MAX_INTERVAL)
        ended = _interval(start, max(end, datetime.now(UTC) + timedelta(days=1)))
        query = {
            "interval": _interval(earliest, end),
            "order": "asc",
            "orderBy": "conversationStart",
            "conversationFilters": [
                {
                    "type": "or",
                    "predicates": [
                        {
                            "type": "dimension",
                            "dimension": "conversationEnd",
                            "operator": "matches",
                            "value": ended,
                        },
                        {"type": "dimension", "dimension": "conversationEnd", "operator": "notExists"},
                    ],
                }
            ],
        }
        async for page in self._pages(_CONVERSATIONS, query, "conversations", "conversationId"):
            yield page

    async def agent_statuses(self, start: datetime, end: datetime) -> AsyncIterator[list[Json]]:
        """Pages of the agents' details, with their routing statuses in [start, end). Raises as conversations()."""
        query = {"interval": _interval(max(start, end - MAX_INTERVAL), end), "order": "asc"}
        async for page in self._pages(_USERS_DETAILS, query, "userDetails", "userId"):
            yield page

    async def agent_ids(self) -> list[str]:
        """Ids of all users. Raises as conversations()."""
        found: dict[str, None] = {}
        for number in range(1, _MAX_PAGES + 1):
            params = {"pageSize": _PAGE, "pageNumber": number}
            answer = await self._rest.request("GET", self._url + _USERS, scope=_READ_SCOPE, params=params)
            page = _object(answer, _USERS)
            users = _rows(page, "entities", _USERS)
            found |= dict.fromkeys(str(user["id"]) for user in users if isinstance(user, dict) and user.get("id"))
            if number >= _count(page, "pageCount", _USERS):
                return list(found)
        msg = f"{_USERS}: more than {_MAX_PAGES} pages"
        raise ServiceUnavailableError(msg)

    async def open_channel(self, topics: list[str]) -> Channel:
        """A new channel that is subscribed to the topics. Raises as conversations()."""
        answer = await self._rest.request("POST", self._url + _CHANNELS, scope=_CHANNEL_SCOPE, json={})
        page = _object(answer, _CHANNELS)
        try:
            channel = Channel(str(page["id"]), str(page["connectUri"]))
        except KeyError as missing:
            msg = f"{_CHANNELS}: no {missing} in the answer"
            raise ServiceUnavailableError(msg) from None
        url = f"{self._url}{_CHANNELS}/{channel.id}/subscriptions"
        try:
            await self._rest.request("PUT", url, scope=_CHANNEL_SCOPE, json=[{"id": topic} for topic in topics])
        except BaseException:
            # An organisation has few channels, and the oldest goes when one more is made.
            with suppress(CcaasError):
                await asyncio.shield(self.close_channel(channel))
            raise
        return channel

    async def close_channel(self, channel: Channel) -> None:
        """Give a channel back; an organisation has few."""
        await self._rest.request("DELETE", f"{self._url}{_CHANNELS}/{channel.id}", scope=_CHANNEL_SCOPE)

    async def _pages(self, path: str, query: dict[str, Json], rows_key: str, id_key: str) -> AsyncIterator[list[Json]]:
        """Every page; again from the first if rows may have moved between two of them. A row may come more than once.

        Rows that are added at the end do no harm. One that appears or vanishes before it shifts the rest by one, and
        not all of that shows in the counts. So several pages count as read when a pass saw nothing twice, as much as
        was promised, and all that the pass before it saw; a single page can't move.
        """
        before: set[str] | None = None
        for _ in range(_MAX_PASSES):
            seen: set[str] = set()
            rows_read = first_total = 0
            for number in range(1, _MAX_PAGES + 1):
                body = {**query, "paging": {"pageSize": _PAGE, "pageNumber": number}}
                page = _object(await self._rest.request("POST", self._url + path, scope=_READ_SCOPE, json=body), path)
                if number == 1:
                    first_total = _count(page, "totalHits", path)
                rows = _rows(page, rows_key, path)
                if rows:
                    yield rows
                rows_read += len(rows)
                ids = {str(row.get(id_key)) if isinstance(row, dict) else repr(row) for row in rows}
                is_new = not ids <= seen
                seen |= ids
                if len(rows) < _PAGE or not is_new:
                    break
            is_single = number == 1 and rows_read >= first_total
            is_whole = len(seen) == rows_read and rows_read >= first_total
            if is_single or (is_whole and before is not None and before <= seen):
                return
            if before is not None or not is_whole:
                log.info("pages changed while being read; read again", path=path, rows=rows_read, total=first_total)
            before = seen
        msg = f"{path}: the pages changed while being read, {_MAX_PASSES} times"
        raise ServiceUnavailableError(msg)


def _object(answer: httpx.Response, path: str) -> dict[str, Json]:
    try:
        page = answer.json()
    except ValueError:
        page = None
    if not isinstance(page, dict):
        msg = f"{path}: the answer is no JSON object"
        raise ServiceUnavailableError(msg)
    return page


def _count(page: dict[str, Json], key: str, path: str) -> int:
    count = page.get(key) or 0
    if not isinstance(count, int):
        msg = f"{path}: {key} is no whole number"
        raise ServiceUnavailableError(msg)
    return count


def _rows(page: dict[str, Json], key: str, path: str) -> list[Json]:
    rows = page.get(key) or []
    if not isinstance(rows, list):
        msg = f"{path}: {key} is no array"
        raise ServiceUnavailableError(msg)
    return rows


def _interval(start: datetime, end: datetime) -> str:
    return "/".join(
        instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") for instant in (start, end)
    )
