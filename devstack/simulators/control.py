"""``/control``: start, disturb and ask a simulator. Not part of any vendor's API."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from devstack.simulators.instants import iso
from devstack.simulators.misbehaviour import AT_ONCE, Misbehaviour, Orders
from devstack.simulators.replay import Replay

PREFIX = "/control"
_Model = TypeVar("_Model", bound=BaseModel)


class Start(BaseModel):
    """Body of ``POST /control/start``.

    ``speed``: simulated seconds in one of wall time, 0 as fast as possible. ``batch_ms``: events that come within so
    much wall time go into one webhook; vendors that stream ignore it.
    """

    model_config = ConfigDict(extra="forbid")

    speed: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    batch_ms: Annotated[int, Field(ge=0, le=60_000)] = 0


class Control:
    """The control API of one simulator.

    Args:
        replay: What it plays.
        misbehaviour: Its standing orders; those that it can't follow are refused with 400.
        status: What the vendor adds to the status.
        refused: Requests or deliveries refused, by status.
        may_start: A reason why the replay can't start yet, or None.
        begin: Called before the start.
        is_settled: Whether nothing is under way any more.
        at_once: What the vendor does for each order that is done at once.
        unable: Orders that make no sense here.
    """

    def __init__(
        self,
        replay: Replay,
        misbehaviour: Misbehaviour,
        *,
        refused: Counter[str],
        status: Callable[[], dict[str, Any]] = dict,
        may_start: Callable[[], str | None] = lambda: None,
        begin: Callable[[Start], None] = lambda _: None,
        is_settled: Callable[[], bool] = lambda: True,
        at_once: dict[str, Callable[[Orders], None]],
        unable: frozenset[str] = frozenset(),
    ) -> None:
        self._replay = replay
        self._misbehaviour = misbehaviour
        self._refused = refused
        self._status = status
        self._may_start = may_start
        self._begin = begin
        self._is_settled = is_settled
        self._at_once = at_once
        self._unable = unable

    def mount(self) -> Mount:
        """Its routes."""
        return Mount(
            PREFIX,
            routes=[
                Route("/start", self._start, methods=["POST"]),
                Route("/misbehave", self._misbehave, methods=["POST"]),
                Route("/status", self._show, methods=["GET"]),
            ],
        )

    async def _start(self, request: Request) -> Response:
        start = parse(Start, await request.body())
        if isinstance(start, Response):
            return start
        if self._replay.state != "idle":
            return problem(409, "already.started", "a simulator plays its trace once; start another process")
        if obstacle := self._may_start():
            return problem(409, "not.ready", obstacle)
        self._begin(start)
        self._replay.start(start.speed)
        return JSONResponse(self._report())

    async def _misbehave(self, request: Request) -> Response:
        orders = parse(Orders, await request.body())
        if isinstance(orders, Response):
            return orders
        if unable := orders.model_fields_set & self._unable:
            return problem(400, "not.supported", f"this simulator can't follow: {', '.join(sorted(unable))}")
        self._misbehaviour.obey(orders)
        for name, act in self._at_once.items():
            if getattr(orders, name) is not None:
                act(orders)
        return JSONResponse(self._misbehaviour.orders.model_dump(mode="json", exclude=set(AT_ONCE)))

    async def _show(self, _: Request) -> Response:
        return JSONResponse(self._report())

    def _report(self) -> dict[str, Any]:
        replay, tally = self._replay, self._replay.tally
        state = "running" if replay.state == "done" and not self._is_settled() else replay.state
        return {
            "state": state,
            "sim_now": iso(replay.clock.now_ms()),
            "speed": replay.clock.speed if replay.clock.is_started else None,
            "total_native": tally.total,
            "sent_native": tally.sent_native,
            "delivered": tally.sent_native,
            "refused": dict(self._refused),
            "given_up": 0,
            "retried": 0,
            **{fault: tally.faults[fault] for fault in _FAULTS},
            "expected": dict(sorted(tally.expected.items())),
            "sent": dict(sorted(tally.sent.items())),
            "missing": dict(sorted((+tally.missing).items())),
            **self._status(),
        }


_FAULTS = ("dropped", "duplicated", "delayed", "reordered", "changed", "wrongly_signed")


# The second one refuses a WebSocket's handshake.
_ANSWERS = frozenset({"http.response.start", "websocket.http.response.start"})


class RefusalMiddleware:
    """Answers instead of the application while it is ordered to; never on ``/control``.

    Args:
        app: The application.
        misbehaviour: Holds the order.
        refused: Counts the answers of 400 and above, ordered or not, by status.
    """

    def __init__(self, app: ASGIApp, misbehaviour: Misbehaviour, refused: Counter[str]) -> None:
        self._app = app
        self._misbehaviour = misbehaviour
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in {"http", "websocket"} or scope["path"].startswith(PREFIX + "/"):
            await self._app(scope, receive, send)
            return

        async def counting(message: Any) -> None:
            if message["type"] in _ANSWERS and message["status"] >= 400:
                self._refused[str(message["status"])] += 1
            await send(message)

        refuse = self._misbehaviour.refusal(scope["path"])
        if refuse is None:
            await self._app(scope, receive, counting)
            return
        headers = {} if refuse.retry_after is None else {"Retry-After": str(refuse.retry_after)}
        answer = problem(refuse.status, "misbehaving", "refused on request of /control/misbehave", headers)
        await answer(scope, receive, counting)


def parse(model: type[_Model], body: bytes) -> _Model | JSONResponse:
    """The JSON body as a model (an empty body has all defaults), or the 400 that says what is wrong with it."""
    try:
        return model.model_validate(json.loads(body or b"{}"))
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        parts = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults]
        return problem(400, "bad.request", "; ".join(parts))
    except ValueError as error:
        return problem(400, "bad.request", f"not JSON: {error}")


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error answer: a stable code and a sentence that says what to do."""
    return JSONResponse({"status": status, "code": code, "message": message}, status, headers)
