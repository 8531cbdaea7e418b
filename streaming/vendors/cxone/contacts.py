"""The vendor's REST lists of contacts: those that are over, and the states that they went through.

Source: NICE CXone Reporting API v30.0, ``contacts/completed`` and ``contacts/state-history``; rows lie in order of
time, instants and durations are whole seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import structlog

from streaming.errors import ServiceUnavailableError
from streaming.rest import RestClient
from streaming.vendors.cxone.access import rest_client
from streaming.vendors.cxone.connection import CxoneConnection

log = structlog.get_logger()

Json = Any

SCOPE = "event:read"
PAGE = 10_000
"""Rows of a page at most, the vendor's bound."""

_COMPLETED = "/inContactAPI/services/v30.0/contacts/completed"
_STATES = "/inContactAPI/services/v30.0/contacts/state-history"
# Rows of a page that the next one gives again: a row that vanished before it moves the others by one, not past a page.
_OVERLAP = 20
# A list that moved while it was read is read again, so often.
_MAX_SWEEPS = 4
# No list is so long; a vendor that ignores `skip` must not be asked for ever.
_MAX_PAGES = 10_000


def contacts_api(http: httpx.AsyncClient, connection: CxoneConnection) -> ContactsApi:
    """The lists of a tenant.

    Args:
        http: Pool for token and REST calls.
        connection: The tenant's.
    """
    return ContactsApi(rest_client(http, connection), connection.api_url)


class ContactsApi:
    """Reads both lists, page by page.

    Pages overlap, and a list that moved meanwhile (rows or ``totalRecords``) is read again, so a row may come several
    times, and one that is there throughout never fails to come. The caller keeps one of each.

    Args:
        rest: The tenant's REST access.
        api_url: Base address.
        page: Rows of a page.
    """

    def __init__(self, rest: RestClient, api_url: str, *, page: int = PAGE) -> None:
        self._rest = rest
        self._url = api_url.rstrip("/")
        self._page = page
        self._overlap = min(_OVERLAP, page // 2)
        self.steady = True
        """False once a list still moved when it was read for the last time: what appeared meanwhile may be missing."""

    def completed(self, since: datetime, until: datetime) -> AsyncIterator[list[Json]]:
        """Rows of contacts that ended in [since, until); a vendor that ignores ``until`` gives later ones too.

        Raises:
            ConfigurationError: credentials are wrong, or the scope ``event:read`` is missing.
            VendorRefusedError: the vendor finds fault with the request.
            ServiceUnavailableError: it does not answer, or with something else.
        """
        return self._list(_COMPLETED, "completedContacts", since, until)

    def states(self, since: datetime, until: datetime) -> AsyncIterator[list[Json]]:
        """Rows of states that began in [since, until). Raises as :meth:`completed`."""
        return self._list(_STATES, "contactStates", since, until)

    async def _list(self, path: str, name: str, since: datetime, until: datetime) -> AsyncIterator[list[Json]]:
        for _ in range(_MAX_SWEEPS):
            moved = False
            async for rows, is_moved in self._sweep(path, name, since, until):
                moved = moved or is_moved
                yield rows
            if not moved:
                return
            log.info("list moved while it was read; read again", list=name)
        self.steady = False
        log.warning("list never stood still; what appeared meanwhile is found by a later run", list=name)

    async def _sweep(
        self, path: str, name: str, since: datetime, until: datetime
    ) -> AsyncIterator[tuple[list[Json], bool]]:
        """All pages once; each with whether the list moved since the page before."""
        params: dict[str, str | int] = {"updatedSince": _iso(since), "until": _iso(until), "skip": 0, "top": self._page}
        # Of the page before, its two ends; one page at a time is in memory.
        head: list[Json] = []
        tail: list[Json] = []
        overlap = 0
        total: Any = None
        for number in range(_MAX_PAGES):
            page = await self._get(path, name, params)
            if page is None:
                if number:
                    yield [], True  # the rows that were to come again are gone
                return
            rows = page[name]
            if number == 0:
                # A stable snapshot: what the vendor learns from now on is outside.
                params["until"] = _iso(_earlier(until, page.get("lastPollTime")))
                total = page.get("totalRecords")
            elif rows == tail:
                return  # nothing new behind the overlap, whatever the total says
            elif rows[:overlap] == head and rows[-overlap:] == tail:
                msg = f"{path}: the page at skip={params['skip']} is the one before it; the vendor ignores skip"
                raise ServiceUnavailableError(msg)
            came_again = number == 0 or rows[:overlap] == tail
            # A vendor may give fewer rows than asked for; that alone does not end its list.
            is_last = _is_last(page.get("totalRecords"), int(params["skip"]) + len(rows), len(rows) < self._page)
            overlap = min(self._overlap, len(rows) // 2)
            head, tail = rows[:overlap], rows[len(rows) - overlap :]
            step = len(rows) - overlap
            yield rows, not came_again or page.get("totalRecords") != total
            if is_last:
                return
            del rows, page
            params["skip"] = int(params["skip"]) + step
        msg = f"{path}: more than {_MAX_PAGES} pages; give a shorter window"
        raise ServiceUnavailableError(msg)

    async def _get(self, path: str, name: str, params: dict[str, str | int]) -> dict[str, Any] | None:
        """One page; None if it has no rows."""
        answer = await self._rest.request("GET", self._url + path, scope=SCOPE, params=params)
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            page = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            page = None
        if not isinstance(page, dict) or not isinstance(page.get(name), list):
            msg = f"{path}: no {name} in the answer"
            raise ServiceUnavailableError(msg)
        return page if page[name] else None


def _is_last(total: Json, read: int, is_short: bool) -> bool:  # noqa: FBT001 (a fact, no switch)
    """By the vendor's total, if it tells one; else a page that is not full is the last."""
    return read >= total if isinstance(total, int) and not isinstance(total, bool) else is_short


def _earlier(until: datetime, polled: Json) -> datetime:
    """The vendor's now, if the window reaches past it."""
    try:
        return min(until, datetime.fromisoformat(polled))
    except (TypeError, ValueError):  # absent, no instant, or without an offset
        return until


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
