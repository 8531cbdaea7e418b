"""The vendor of ``flood``: thousands of event streams on a bare asyncio server, so that it is never the slow side.

``python -m bench.peers.streams_vendor PORT``. ``POST /disconnect`` cuts every stream at once; ``GET /report`` says how
many are open and when each attempt since then came (s).
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson
import uvloop

from bench.messages import genesys

_HEARTBEAT_S = 5.0
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Vendor:
    """All streams, and what became of them since the last cut."""

    def __init__(self) -> None:
        self.open: set[Peer] = set()
        self.cut_at = time.monotonic()
        self.attempts: list[float] = []
        self.opened: list[float] = []
        self.number = 0

    def disconnect(self) -> bytes:
        self.cut_at, self.attempts, self.opened = time.monotonic(), [], []
        cut = list(self.open)
        for peer in cut:
            peer.close()
        return orjson.dumps({"cut": len(cut)})

    def report(self) -> bytes:
        return orjson.dumps({"open": len(self.open), "attempts": self.attempts, "opened": self.opened})

    async def beat(self) -> None:
        """Heartbeats, spread over their interval."""
        while True:
            peers = list(self.open)
            for number, peer in enumerate(peers):
                peer.chunk(b": heartbeat\n\n")
                if number % 50 == 49:
                    await asyncio.sleep(_HEARTBEAT_S * 50 / max(len(peers), 1))
            await asyncio.sleep(0.5)


class Peer(asyncio.Protocol):
    """One connection; a request's head is small and comes in one piece."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by inheritance

    def connection_lost(self, _: Exception | None) -> None:
        self._vendor.open.discard(self)

    def data_received(self, data: bytes) -> None:
        vendor = self._vendor
        request = data.partition(b"\r\n")[0]
        if request.startswith(b"GET /stream"):
            now = time.monotonic() - vendor.cut_at
            vendor.attempts.append(now)
            vendor.opened.append(now)
            vendor.open.add(self)
            vendor.number += 1
            message = genesys("customer.start", f"c-{vendor.number}", time.time_ns() // 1_000_000)
            self._write(_STREAM)
            self.chunk(b"id: %d\nevent: conversation\ndata: %s\n\n" % (vendor.number, orjson.dumps(message)))
        elif request.startswith(b"POST /token"):
            self._answer(b'{"access_token":"bench","expires_in":3600}')
        elif request.startswith(b"POST /disconnect"):
            self._answer(vendor.disconnect())
        elif request.startswith(b"GET /report"):
            self._answer(vendor.report())
        elif request.startswith((b"GET ", b"POST ")):
            self._answer(b"{}")
        # Else it is a request's body, which comes in a segment of its own.

    def chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%s\r\n" % (len(data), data))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._write(head + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def _serve(port: int) -> None:
    vendor = Vendor()
    server = await asyncio.get_running_loop().create_server(lambda: Peer(vendor), "127.0.0.1", port, backlog=4096)
    async with server:
        await asyncio.gather(server.serve_forever(), vendor.beat())


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
