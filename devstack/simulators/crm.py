"""A CRM as a process: ``python -m devstack.simulators.crm --log FILE``.

- ``POST /v1/activities``: an event, with ``Idempotency-Key``. 200 ``{"status": "applied"}`` once its effect is on disk,
  ``{"status": "duplicate"}`` if the key had one before. 400 for what is no activity, 401 for another bearer token than
  ``--token``.
- ``POST /control/misbehave``: see :class:`devstack.simulators.crm_faults.Orders`.
- ``GET /control/status``: effects, calls, answers since the start by status (``lost``: none was given), and
  how many calls are stalled now.
- ``GET /control/states?vendor&tenant_id``: what conversations and agents look like.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from devstack.simulators.control import PREFIX, parse, problem
from devstack.simulators.crm_faults import Faults, Orders
from devstack.simulators.crm_log import Call, Effect, EffectLog, Entity
from devstack.simulators.serving import Simulator, run

PATH = "/v1/activities"
_JSON = (b"content-type", b"application/json")


class Committer:
    """Writes calls in the order in which they come; those that wait share a transaction.

    Args:
        log: Where to.
    """

    def __init__(self, log: EffectLog) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="effects")
        self._waiting: list[tuple[Call, asyncio.Future[bool]]] = []
        self._some = asyncio.Event()

    async def write(self, call: Call) -> bool:
        """Whether the effect is new; returns once it is on disk."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, done))
        self._some.set()
        return await done

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            batch, self._waiting = self._waiting, []
            new = await self._ask(self._log.write, [call for call, _ in batch])
            for (_, done), is_new in zip(batch, new, strict=True):
                if not done.done():  # its client may have gone
                    done.set_result(is_new)

    async def read(self, method: str, *arguments: Any) -> Any:
        """A reading method of the log's, called in its thread."""
        return await self._ask(getattr(self._log, method), *arguments)

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, method, *arguments)


class Activities:
    """The endpoint, as plain ASGI: thousands of calls a second.

    Args:
        committer: For the effects.
        faults: What goes wrong.
        token: Bearer token wanted, None for any.
    """

    def __init__(self, committer: Committer, faults: Faults, token: str | None) -> None:
        self._committer = committer
        self._faults = faults
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self.answers: Counter[str] = Counter()
        self.stalled = 0
        """Calls that wait for an order to end."""
        self._released = asyncio.Event()

    def obey(self, orders: Orders) -> None:
        """Change what goes wrong."""
        self._faults.obey(orders)
        if not self._faults.orders.stall:
            self.release()

    def release(self) -> None:
        """Answer the calls that were stalled."""
        self._released.set()
        self._released = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        headers = dict(scope["headers"])
        body = await _body(receive)
        if self._authorization is not None and headers.get(b"authorization") != self._authorization:
            await self._answer(send, 401, b'{"error":"unauthorized"}')
            return
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        effect = _effect(key, body)
        if effect is None:
            await self._answer(send, 400, b'{"error":"no activity, or another key than its event_id"}')
            return
        await self._decide(key, effect, receive, send)

    async def _decide(self, key: str, effect: Effect, receive: Receive, send: Send) -> None:
        fault, status = self._faults.next(key)
        orders = self._faults.orders
        has_effect = fault in {None, "fail_after"}
        if fault == "stall":
            await self._stall(receive)
        elif orders.latency_ms:
            await asyncio.sleep(orders.latency_ms / 1000)
        is_new = await self._committer.write(Call(key, effect if has_effect else None))
        if fault is None:
            await self._answer(send, 200, b'{"status":"applied"}' if is_new else b'{"status":"duplicate"}')
        elif fault == "fail_after":
            await self._lose(send)
        elif fault in {"garbage", "error_body"}:
            await self._answer(send, 200, b"<html>" if fault == "garbage" else b'{"error":"internal"}')
        else:
            after = [] if orders.retry_after is None else [(b"retry-after", orders.retry_after.encode())]
            await self._answer(send, status, b'{"error":"ordered"}', after)

    async def _stall(self, receive: Receive) -> None:
        """Until the order ends or the client has gone."""
        waits = [asyncio.ensure_future(self._released.wait()), asyncio.ensure_future(_disconnected(receive))]
        self.stalled += 1
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self.stalled -= 1
        for wait in waits:
            wait.cancel()

    async def _lose(self, send: Send) -> None:
        """An answer that never arrives: more is promised than comes, so the server cuts the connection."""
        self.answers["lost"] += 1
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, (b"content-length", b"100")]})

    async def _answer(
        self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self.answers[str(status)] += 1
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *(headers or [])]})
        await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _effect(key: str, body: bytes) -> Effect | None:
    """What an activity does; None if it is none."""
    try:
        said = orjson.loads(body)
        kind = "agent" if "agent_id" in said else "conversation"
        timestamp, step, event_id = said["version"]
        entity = Entity(said["vendor"], said["tenant_id"], kind, said[f"{kind}_id"])
        effect = Effect(entity, said["event_type"], int(timestamp), int(step), dict(said["fields"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return effect if key and key == event_id == said["event_id"] else None


def make(arguments: argparse.Namespace) -> Simulator:
    """The simulator."""
    log = EffectLog(arguments.log)
    committer = Committer(log)
    faults = Faults(arguments.seed, log.asked())
    activities = Activities(committer, faults, arguments.token)

    async def misbehave(request: Request) -> Response:
        orders = parse(Orders, await request.body())
        if isinstance(orders, Response):
            return orders
        activities.obey(orders)
        return JSONResponse(faults.orders.model_dump(mode="json"))

    async def status(_: Request) -> Response:
        counts = await committer.read("counts")
        return JSONResponse({**counts, "answers": dict(activities.answers), "stalled": activities.stalled})

    async def states(request: Request) -> Response:
        asked = request.query_params
        found = await committer.read("states", asked.get("vendor"), asked.get("tenant_id"))
        return JSONResponse([{**entity._asdict(), "fields": fields} for entity, fields in found.items()])

    control = Starlette(
        routes=[
            Route(f"{PREFIX}/misbehave", misbehave, methods=["POST"]),
            Route(f"{PREFIX}/status", status, methods=["GET"]),
            Route(f"{PREFIX}/states", states, methods=["GET"]),
        ]
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == PATH:
            await activities(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PATH:
            await problem(405, "method.not.allowed", "POST an activity")(scope, receive, send)
        else:
            await control(scope, receive, send)

    counts = log.counts()
    return Simulator(app, [committer.run], activities.release, f"{counts['effects']} effects in {arguments.log}")


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to end."""
    parser = argparse.ArgumentParser(description="CRM simulator")
    parser.add_argument("--log", type=Path, required=True, help="SQLite file of the effects; made if it is not there")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 lets the system choose")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is bound")
    parser.add_argument("--token", help="bearer token wanted; default: any")
    parser.add_argument("--seed", type=int, default=0, help="of what goes wrong on request")
    return run("crm", make, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
