"""Peer of ``ack``: the receiver's own server, reading the body and answering at once. What the server alone allows.

``python -m bench.peers.no_work PORT``.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from streaming.vendors.cxone.rsgi import HttpProtocol, Scope
from streaming.vendors.cxone.serve import server_of

_BODY = b'{"status":"accepted"}'
_HEADERS = [("content-type", "application/json")]


async def _answer(_scope: Scope, protocol: HttpProtocol) -> None:
    await protocol()
    protocol.response_bytes(200, _HEADERS, _BODY)


async def _serve(port: int) -> None:
    server = server_of(_answer, "127.0.0.1", port)
    serving = asyncio.create_task(server.serve())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.stop()  # type: ignore[no-untyped-call]
    await serving


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
