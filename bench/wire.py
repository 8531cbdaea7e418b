"""A minimal HTTP/1.1 client connection: keep-alive, one outstanding request, as little work as Python allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

Answered = Callable[["Connection", int, bytes], None]


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        answered: called with the connection, the status and the body of each answer.
        lost: called when the connection ends, whoever ends it.
    """

    def __init__(self, answered: Answered, lost: Callable[[Connection], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self.began = 0
        """The caller's: when the outstanding request began, ns."""

    def send(self, request: bytes) -> None:
        """Send a request; the one before must have been answered."""
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        end = data.find(b"\r\n\r\n")
        begin = end + 4
        if end < 0 or len(data) < (stop := begin + _content_length(data[:end])):
            self._partial = data
            return
        self._partial = b""
        self._answered(self, int(data[9:12]), data[begin:stop])


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if not found:
        msg = f"an answer without Content-Length: {head[:200]!r}"
        raise ValueError(msg)
    return int(rest.partition(b"\r\n")[0])
