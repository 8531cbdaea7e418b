"""Genesys users over REST: who they are, and which statuses they had."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.agents import StatusChange
from devstack.simulators.clock import ReplayClock
from devstack.simulators.control import parse, problem
from devstack.simulators.instants import iso
from devstack.simulators.oauth import Client
from devstack.simulators.queries import Pages, UsersQuery, hits


class _List(BaseModel):
    size: Annotated[int, Field(alias="pageSize", ge=1, le=500)] = 25
    number: Annotated[int, Field(alias="pageNumber", ge=1)] = 1


class Users:
    """The agents of the trace.

    Args:
        changes: Their statuses, by time.
        clock: Its now bounds what is told.
        pages: Cuts the answers.
    """

    def __init__(self, changes: list[StatusChange], clock: ReplayClock, pages: Pages) -> None:
        self._changes: dict[str, list[StatusChange]] = defaultdict(list)
        for change in changes:
            self._changes[change.agent_id].append(change)
        self.ids = sorted(self._changes)
        self._clock = clock
        self._pages = pages

    async def listing(self, request: Request, _client: Client) -> Response:
        """``GET /api/v2/users``: one page."""
        try:
            wanted = _List.model_validate(dict(request.query_params))
        except ValidationError:
            return problem(400, "bad.request", "pageSize: 1 to 500; pageNumber: 1 or more")
        page, total = self._pages.cut(self.ids, (wanted.number - 1) * wanted.size, wanted.size)
        entities = [{"id": user, "name": user} for user in page]
        count = -(-total // wanted.size)
        return JSONResponse(
            {"entities": entities, "pageSize": wanted.size, "pageNumber": wanted.number, "pageCount": count}
            | {"total": total}
        )

    async def statuses(self, request: Request, _client: Client) -> Response:
        """``POST /api/v2/analytics/users/details/query``: users with a status in the interval, one page of them."""
        query = parse(UsersQuery, await request.body())
        if isinstance(query, Response):
            return query
        now_ms = self._clock.now_ms()
        rows = {user: self._rows(user, query.interval, now_ms) for user in self.ids}
        found = [{"userId": user, "routingStatus": statuses} for user, statuses in rows.items() if statuses]
        if query.order == "desc":
            found.reverse()
        page, total = self._pages.numbered(found, query.paging)
        return JSONResponse(hits("userDetails", [*page], total))

    def _rows(self, user: str, interval: tuple[int, int], now_ms: int) -> list[dict[str, Any]]:
        """The user's statuses that overlap the interval and have begun, each as far as it is over."""
        begin_ms, end_ms = interval
        changes = self._changes[user]
        ends: list[int | None] = [*(change.at_ms for change in changes[1:]), None]
        rows = []
        for change, end in zip(changes, ends, strict=True):
            over_ms = end if end is not None and end < now_ms else None
            if change.at_ms < min(end_ms, now_ms) and (over_ms is None or over_ms > begin_ms):
                told = {} if over_ms is None else {"endTime": iso(over_ms)}
                rows.append({"startTime": iso(change.at_ms), **told, "routingStatus": change.status.value})
        return rows
