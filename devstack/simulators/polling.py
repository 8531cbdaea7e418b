"""CXone's polled lists: ``updatedSince&until&skip&top`` over rows that lie in order of time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.clock import ReplayClock
from devstack.simulators.control import problem
from devstack.simulators.instants import instant, iso, iso_seconds
from devstack.simulators.oauth import Client
from devstack.simulators.queries import Pages

MAX_PAGE = 10_000

_Instant = Annotated[int, BeforeValidator(lambda text: instant(str(text)))]
_Row = TypeVar("_Row")


class _Query(BaseModel):
    since_ms: Annotated[_Instant, Field(alias="updatedSince")] = 0
    until_ms: Annotated[_Instant | None, Field(alias="until")] = None
    skip: Annotated[int, Field(ge=0)] = 0
    top: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE


class PolledList(Generic[_Row]):
    """One list of the API: the rows in [updatedSince, lastPollTime).

    ``lastPollTime`` is the simulated now; later pages pass the first one's as ``until`` and so read one stable
    snapshot. 204 if no row is left.

    Args:
        name: Of the rows in the answer.
        rows: By time.
        at_ms: A row's time, epoch ms.
        show: A row as the answer has it; gets the request's query.
        clock: Its now bounds what is told.
        pages: Cuts the answers.
        whole_seconds: Whether ``lastPollTime`` is cut to the second.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[_Row],
        *,
        at_ms: Callable[[_Row], int],
        show: Callable[[_Row, Mapping[str, str]], dict[str, Any]],
        clock: ReplayClock,
        pages: Pages,
        whole_seconds: bool = False,
    ) -> None:
        self._name = name
        self._rows = rows
        self._times = [at_ms(row) for row in rows]
        self._show = show
        self._clock = clock
        self._pages = pages
        self._tick_ms, self._iso = (1000, iso_seconds) if whole_seconds else (1, iso)

    async def endpoint(self, request: Request, _client: Client) -> Response:
        """``GET``: one page."""
        try:
            query = _Query.model_validate(dict(request.query_params))
        except ValidationError:
            text = (
                "updatedSince, until: ISO 8601 with an offset (+ as %2B); skip: 0 or more; "
                f"top: 1 to {MAX_PAGE}; whole numbers"
            )
            return problem(400, "bad.request", text)
        now_ms = self._clock.now_ms()
        until_ms = now_ms if query.until_ms is None else min(query.until_ms, now_ms)
        until_ms -= until_ms % self._tick_ms
        begin = bisect_left(self._times, query.since_ms)
        end = max(begin, bisect_left(self._times, until_ms))
        page, total = self._pages.cut(self._rows[begin:end], query.skip, query.top)
        if not page:
            return Response(status_code=204)
        rows = [self._show(row, request.query_params) for row in page]
        return JSONResponse({"lastPollTime": self._iso(until_ms), "totalRecords": total, self._name: rows})
