"""What the vendors call their queues and agents over REST; agents' names in the trace are their ids too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.control import problem
from devstack.simulators.oauth import Client
from devstack.simulators.polling import MAX_PAGE
from devstack.simulators.queries import Pages
from devstack.simulators.trace import NO_SERVER, Call

# The services of the trace, see data/README.md.
_SERVICES = {
    "PS": "Regular activity",
    "PE": "Regular activity in English",
    "NW": "Prospective customers",
    "NE": "Stock exchange",
    "IN": "Internet assistance",
    "TT": "Call-back",
}
_DIVISION = "Retail banking"

Row = dict[str, Any]


class _ByNumber(BaseModel):
    size: Annotated[int, Field(alias="pageSize", ge=1, le=500)] = 25
    number: Annotated[int, Field(alias="pageNumber", ge=1)] = 1


class _BySkip(BaseModel):
    skip: Annotated[int, Field(ge=0)] = 0
    top: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    fields: str = ""


class GenesysQueues:
    """``GET /api/v2/routing/queues``.

    Args:
        calls: The queues are those that they ask for.
        pages: Cuts the answers.
    """

    def __init__(self, calls: Iterable[Call], pages: Pages) -> None:
        self._queues = [
            {"id": queue, "name": _SERVICES.get(queue, queue), "division": {"id": "d-1", "name": _DIVISION}}
            for queue in _queue_ids(calls)
        ]
        self._pages = pages

    async def listing(self, request: Request, _client: Client) -> Response:
        """One page."""
        try:
            wanted = _ByNumber.model_validate(dict(request.query_params))
        except ValidationError:
            return problem(400, "bad.request", "pageSize: 1 to 500; pageNumber: 1 or more")
        page, total = self._pages.cut(self._queues, (wanted.number - 1) * wanted.size, wanted.size)
        place = {"pageSize": wanted.size, "pageNumber": wanted.number, "pageCount": -(-total // wanted.size)}
        return JSONResponse({"entities": [*page], "total": total, **place})


class CxoneList:
    """``GET …/skills`` or ``GET …/agents``: ``fields``, ``skip``, ``top``; 204 if no row is left.

    Args:
        name: Of the rows in the answer.
        rows: All of them.
        pages: Cuts the answers.
    """

    def __init__(self, name: str, rows: Sequence[Row], pages: Pages) -> None:
        self._name = name
        self._rows = rows
        self._pages = pages

    async def endpoint(self, request: Request, _client: Client) -> Response:
        """One page."""
        try:
            query = _BySkip.model_validate(dict(request.query_params))
        except ValidationError:
            return problem(400, "bad.request", f"skip: 0 or more; top: 1 to {MAX_PAGE}; whole numbers")
        page, total = self._pages.cut(self._rows, query.skip, query.top)
        if not page:
            return Response(status_code=204)
        wanted = {field for field in query.fields.split(",") if field}
        rows = [{name: value for name, value in row.items() if not wanted or name in wanted} for row in page]
        return JSONResponse({"totalRecords": total, self._name: rows})


def cxone_skills(calls: Iterable[Call], pages: Pages) -> CxoneList:
    """The skills that the calls ask for."""
    rows: list[Row] = [
        {
            "skillId": skill,
            "skillName": _SERVICES.get(skill, skill),
            "mediaTypeName": "Call",
            "campaignName": _DIVISION,
            "isActive": True,
        }
        for skill in _queue_ids(calls)
    ]
    return CxoneList("skills", rows, pages)


def cxone_agents(calls: Iterable[Call], pages: Pages) -> CxoneList:
    """The agents who took the calls."""
    names = {call.agent_id for call in calls if call.agent_id is not None and call.agent_id != NO_SERVER}
    rows: list[Row] = [
        {"agentId": name, "firstName": name.title(), "lastName": "", "teamName": "Telephone centre", "isActive": True}
        for name in sorted(names)
    ]
    return CxoneList("agents", rows, pages)


def _queue_ids(calls: Iterable[Call]) -> list[str]:
    return sorted({call.queue_id for call in calls if call.queued_ms is not None})
