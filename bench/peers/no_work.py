"""Peer of ``ack``: the receiver's own server, reading the body and answering at once. What the server alone allows.

``python -m bench.peers.no_work PORT``.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

_BODY = b'{"status":"accepted"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _BODY})


async def _serve(port: int) -> None:
    # As streaming/vendors/cxone/serve.py runs it.
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, backlog=1024, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.stop()  # type: ignore[no-untyped-call]
    await serving


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
