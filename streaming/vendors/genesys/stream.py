"""One connection to the event stream (server-sent events, WHATWG HTML §9.2), from a cursor onwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from httpx_sse import EventSource

from streaming.errors import CcaasError, ServiceUnavailableError
from streaming.oauth import TokenSource
from streaming.rest import retry_after
from streaming.vendors.genesys.connection import GenesysConnection
from streaming.vendors.genesys.transport import Attempt, Frame

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Larger events are dead letters."""

# A dead letter can hold so much; the rest of a longer frame is not kept, so that one without an end fills no memory.
_MAX_FRAME_BYTES = 15 * 1024 * 1024
_DETAIL_BYTES = 200
_REMEDY: dict[int, str] = {httpx.codes.FORBIDDEN: "the client lacks the scope streaming:read; grant it at the vendor"}
# How long the vendor may take to answer; a place in the pool is held meanwhile.
_ANSWER_TIMEOUT_S = 15.0
CURSOR = re.compile(r"[\x21-\x7e]{1,1024}")
"""What can go into a Last-Event-ID header."""

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class StreamRefusedError(CcaasError):
    """The vendor did not open the stream.

    Attributes:
        status: HTTP status.
        retry_after: Seconds that the vendor asks to wait, None if it does not say.
    """

    def __init__(self, status: int, detail: str, retry_after: float | None) -> None:
        super().__init__(f"the stream is refused: {status} {detail}")
        self.status = status
        self.retry_after = retry_after


class SseTransport:
    """A tenant's server-sent stream.

    Args:
        http: Client of the stream pool.
        tokens: The tenant's.
        connection: Its endpoints.
    """

    name = "sse"
    resumes = True

    def __init__(self, http: httpx.AsyncClient, tokens: TokenSource, connection: GenesysConnection) -> None:
        assert connection.stream_url is not None  # GenesysConnection checks it  # noqa: S101
        self._http = http
        self._tokens = tokens
        self._url = connection.stream_url
        self._connection = connection

    @asynccontextmanager
    async def open(self, cursor: str | None, attempt: Attempt) -> AsyncIterator[AsyncIterator[Frame]]:
        """See :class:`~streaming.vendors.genesys.transport.Transport`."""
        token = await self._tokens.token()
        stream = open_stream(
            self._http,
            self._url,
            streams=self._connection.streams,
            token=token,
            cursor=cursor,
            idle_timeout=self._connection.heartbeat_timeout_seconds,
        )
        async with AsyncExitStack() as exits:
            try:
                async with attempt(), asyncio.timeout(_ANSWER_TIMEOUT_S):
                    frames = await exits.enter_async_context(stream)
            except StreamRefusedError as refusal:
                if refusal.status == httpx.codes.UNAUTHORIZED:
                    self._tokens.refuse(token)
                raise
            except TimeoutError:
                msg = f"the vendor does not answer within {_ANSWER_TIMEOUT_S:.0f} s"
                raise ServiceUnavailableError(msg) from None
            yield frames


@asynccontextmanager
async def open_stream(
    http: httpx.AsyncClient,
    url: str,
    *,
    streams: tuple[str, ...],
    token: str,
    cursor: str | None,
    idle_timeout: float,
) -> AsyncIterator[AsyncIterator[Frame]]:
    """The open stream: its frames after the cursor, until the vendor ends it.

    Args:
        http: Client of the stream pool.
        url: Stream endpoint.
        streams: Names of the streams wanted.
        token: Bearer token.
        cursor: Last event already dealt with; None begins where the vendor does.
        idle_timeout: Seconds without a byte after which the stream counts as dead.

    Raises:
        StreamRefusedError: another status than 200.
        httpx.HTTPError: the connection failed, broke or went silent.
    """
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", "Cache-Control": "no-store"}
    if cursor is not None:
        headers["Last-Event-ID"] = cursor
    timeout = httpx.Timeout(10.0, read=idle_timeout, pool=None)
    async with http.stream(
        "GET", url, params={"topics": ",".join(streams)}, headers=headers, timeout=timeout
    ) as response:
        if response.status_code != httpx.codes.OK:
            detail = _REMEDY.get(response.status_code) or await _beginning(response)
            raise StreamRefusedError(response.status_code, detail, retry_after(response))
        yield _frames(response, cursor or "")


async def _beginning(response: httpx.Response) -> str:
    async for chunk in response.aiter_bytes(_DETAIL_BYTES):
        return chunk.decode(errors="replace")
    return ""


async def _frames(response: httpx.Response, cursor: str) -> AsyncIterator[Frame]:
    source = EventSource(_Latin1(response))  # type: ignore[arg-type]  # the two attributes that it uses
    async for event in source.aiter_sse():
        if CURSOR.fullmatch(event.id):  # without an id, or with one that no header can carry, no cursor moves
            cursor = event.id
        if event.data:
            yield Frame(cursor, event.data.encode("latin-1"))


class _Latin1:
    """A response's bytes as Latin-1 text, one character a byte: what is not UTF-8 reaches the dead letter unchanged."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._response = response

    async def aiter_text(self) -> AsyncIterator[str]:
        pending = 0  # bytes since the last blank line
        tail = b""  # a blank line may lie across two chunks
        async for chunk in self._response.aiter_bytes():
            kept = chunk
            before = len(tail)
            ends = [end for match in _BLANK_LINE.finditer(tail + chunk) if (end := match.end() - before) > 0]
            tail = (tail + chunk)[-3:]
            if pending > _MAX_FRAME_BYTES:
                if not ends:
                    continue
                kept = b"\n\n" + chunk[ends[0] :]  # what came of the frame is a frame too, and too large
            pending = len(chunk) - ends[-1] if ends else pending + len(chunk)
            yield kept.decode("latin-1")
