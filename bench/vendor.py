"""Both vendors for ``latency``, in a process of their own: a stream and webhooks, at a steady rate.

``python -m bench.vendor PORT RECEIVER_PORT`` serves the vendors' paths and ``POST /run?rate=…&seconds=…&first=…``,
which sends and answers, when all is sent, with the number of events. Every event carries in fields that no rule maps
its number (``benchSeq``) and the time at which it was due (``benchDueNs``, monotonic ns: system-wide). Due, not sent:
a sender that is late because something before it blocks makes the figure worse, not better.

``POST /flood?rate=…&seconds=…`` sends webhooks of another tenant that are no events; all are signed before the first is
sent. Ask another process for it than for ``/run``, which it would delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from bench.messages import cxone, genesys, webhook_request
from bench.wire import Connection

# More than can be outstanding unless the receiver is stuck.
_CONNECTIONS = 64
_EXPECTED = b'{"status":"accepted"}'
_WAIT_SECONDS = 20.0
TENANT = "bench-latency"
BROKEN_TENANT = "bench-broken"
_KINDS = ("started", "queued", "assigned")


class Webhooks:
    """Sends webhooks over a bounded pool of connections; a webhook without a free one waits in line."""

    def __init__(self) -> None:
        self._free: list[Connection] = []
        self._line: deque[bytes] = deque()
        self._outstanding = 0
        self._settled = asyncio.Event()
        self._faults: list[str] = []

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECTIONS):
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), "127.0.0.1", port
            )
            self._free.append(connection)

    def send(self, request: bytes) -> None:
        self._outstanding += 1
        self._settled.clear()
        if self._free:
            self._free.pop().send(request)
        else:
            self._line.append(request)

    async def settle(self) -> None:
        """Wait until all are answered.

        Raises:
            RuntimeError: one was refused, or some are never answered.
        """
        if self._outstanding:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _WAIT_SECONDS)
        if self._outstanding or self._faults:
            msg = f"{self._outstanding} webhooks without an answer; {self._faults[:3]}"
            raise RuntimeError(msg)

    def close(self) -> None:
        for connection in self._free:
            connection.close()

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        self._outstanding -= 1
        if status != 200 or body != _EXPECTED:
            self._faults.append(f"{status} {body[:200]!r}")
        if self._line:
            connection.send(self._line.popleft())
        else:
            self._free.append(connection)
        if not self._outstanding:
            self._settled.set()

    def _lost(self, connection: Connection) -> None:
        if connection not in self._free:
            self._faults.append("the receiver closed a connection with a request on it")


class Stream:
    """The events of the stream so far; every reader goes on from its cursor."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._grown = asyncio.Event()

    def send(self, message: dict[str, Any]) -> None:
        number = len(self._frames)
        self._frames.append(b"id: %d\nevent: conversation\ndata: %s\n\n" % (number, orjson.dumps(message)))
        self._grown.set()

    async def read(self, after: str | None) -> AsyncIterator[bytes]:
        position = int(after) + 1 if after is not None else 0
        yield b": open\n\n"
        while True:
            self._grown.clear()
            if position < len(self._frames):
                found = self._frames[position:]
                position += len(found)
                yield b"".join(found)
            else:
                try:
                    await asyncio.wait_for(self._grown.wait(), 5)
                except TimeoutError:
                    yield b": heartbeat\n\n"


def make_app(receiver_port: int) -> FastAPI:
    """The vendors as an application."""
    app = FastAPI()
    stream = Stream()

    @app.get("/")
    async def alive() -> Response:
        return Response()

    @app.post("/token")
    async def token() -> dict[str, Any]:
        return {"access_token": "bench", "expires_in": 3600}

    @app.get("/inContactAPI/services/v30.0/agents/state-history")
    async def agent_states() -> Response:
        return Response(status_code=204)

    @app.get("/stream")
    async def read(request: Request) -> StreamingResponse:
        return StreamingResponse(stream.read(request.headers.get("last-event-id")), media_type="text/event-stream")

    @app.post("/run")
    async def run(rate: int, seconds: float, first: int) -> dict[str, int]:
        webhooks = Webhooks()
        await webhooks.connect(receiver_port)
        try:
            count = int(rate * seconds)
            await _send(stream, webhooks, rate, range(first, first + count))
            await webhooks.settle()
        finally:
            webhooks.close()
        return {"sent": count}

    @app.post("/flood")
    async def flood(rate: int, seconds: float) -> dict[str, int]:
        webhooks = Webhooks()
        await webhooks.connect(receiver_port)
        try:
            requests = [_broken(number) for number in range(int(rate * seconds))]
            async for number in _paced(rate, len(requests)):
                webhooks.send(requests[number])
            await webhooks.settle()
        finally:
            webhooks.close()
        return {"sent": len(requests)}

    return app


async def _paced(rate: int, count: int) -> AsyncIterator[int]:
    """Numbers from 0, each when it is due."""
    begin = time.monotonic_ns() + 50_000_000
    for number in range(count):
        if (left := begin + number * 1_000_000_000 // rate - time.monotonic_ns()) > 0:
            await asyncio.sleep(left / 1e9)
        yield number


def _broken(number: int) -> bytes:
    """A request that is well-formed and signed, and no event: a core field was renamed."""
    message = _cxone("queued", number, {})
    message["contact_id"] = message.pop("contactId")
    return webhook_request(BROKEN_TENANT, message)


async def _send(stream: Stream, webhooks: Webhooks, rate: int, numbers: range) -> None:
    """Events of both vendors in turn, each when it is due."""
    begin = time.monotonic_ns() + 50_000_000
    for index, number in enumerate(numbers):
        due = begin + index * 1_000_000_000 // rate
        if (left := due - time.monotonic_ns()) > 0:
            await asyncio.sleep(left / 1e9)
        stamp = {"benchSeq": number, "benchDueNs": due}
        kind = _KINDS[index // 2 % len(_KINDS)]
        if index % 2 == 0:
            stream.send(_genesys(kind, number, stamp))
        else:
            webhooks.send(webhook_request(TENANT, _cxone(kind, number, stamp)))


def _genesys(kind: str, number: int, stamp: dict[str, int]) -> dict[str, Any]:
    now_ms, queue = time.time_ns() // 1_000_000, {"queueId": "Q1"}
    if kind == "started":
        return genesys("customer.start", f"c-{number}", now_ms, **stamp)
    if kind == "queued":
        return genesys("acd.start", f"c-{number}", now_ms, **queue, **stamp)
    answered = {"acdOutcome": "ANSWERED", "answeredUserId": "AGENT1", "connectedDurationMs": 17_000}
    return genesys("acd.end", f"c-{number}", now_ms, **queue, **answered, **stamp)


def _cxone(kind: str, number: int, stamp: dict[str, int]) -> dict[str, Any]:
    now, skill = datetime.now(UTC), {"skillId": "S1"}
    if kind == "started":
        return cxone("CALL_STARTED", f"c-{number}", now, **stamp)
    if kind == "queued":
        return cxone("QUEUE_ENTERED", f"c-{number}", now, **skill, **stamp)
    return cxone("AGENT_ASSIGNED", f"c-{number}", now, agentId="AGENT1", **skill, **stamp)


if __name__ == "__main__":
    uvicorn.run(
        make_app(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
