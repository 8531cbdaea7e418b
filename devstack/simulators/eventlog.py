"""A stream of server-sent events (WHATWG HTML §9.2) that can be resumed after any of its events."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Message, Receive, Scope, Send

from devstack.simulators.garbage import Garbage
from devstack.simulators.replay import Release

# Frames of one write: a slow reader makes the writer wait after each.
_FRAMES_A_WRITE = 256
# Frames kept as bytes: many readers near the end of the log share them, an old position makes its own again.
_FRAMES_KEPT = 8192
_HEARTBEAT = b": heartbeat\n\n"
_CURSOR_DIGITS = 10


class UnknownCursorError(Exception):
    """The cursor is none of this log's."""


class Entry(NamedTuple):
    """One event of the log: on which stream it goes out, and under which topic it is subscribed."""

    stream: str
    topic: str
    release: Release


class EventLog:
    """All events released so far, in the order of their release. It grows no longer than the schedule and its doubles.

    A cursor is the log's epoch and the event's number in it, in hexadecimal of a fixed length: text that sorts as the
    events do. The epoch is random for each process, so a cursor of another run is unknown, never wrongly understood;
    forgetting all cursors is a new epoch.

    Args:
        render: The JSON message of an event.
        heartbeat: Silence after which a comment is sent, s.

    Attributes:
        garbage: Malformed frames to precede the next writes, of all readers together.
        readers: How many read it as server-sent events.
    """

    def __init__(self, render: Callable[[Release], bytes], *, heartbeat: float) -> None:
        self._render = render
        self._epoch = secrets.token_hex(4)
        self._begin = 0  # where who has no cursor begins
        self._entries: list[Entry] = []
        self._grown = asyncio.Event()
        self._cuts = 0
        self.garbage = Garbage()
        self.readers = 0
        self.heartbeat = heartbeat
        self._frame = lru_cache(maxsize=_FRAMES_KEPT)(self._make_frame)
        self.message = lru_cache(maxsize=_FRAMES_KEPT)(self._make_message)

    @property
    def end(self) -> int:
        """Position after the last event."""
        return len(self._entries)

    def topic(self, position: int) -> str:
        """Topic of the event at a position."""
        return self._entries[position].topic

    def grown(self) -> asyncio.Event:
        """Set when there is more, or readers are cut off. Ask for it before looking at :attr:`end`."""
        return self._grown

    def append(self, entry: Entry) -> None:
        """Add an event; readers see it after :meth:`publish`."""
        self._entries.append(entry)

    def publish(self) -> None:
        """Wake the readers."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def disconnect(self) -> None:
        """Cut every reader off, now and without a proper end."""
        self._cuts += 1
        self.publish()

    def forget(self) -> None:
        """Know none of the cursors given so far; who comes without one begins at the present end."""
        self._epoch = secrets.token_hex(4)
        self._begin = len(self._entries)
        self._frame.cache_clear()

    def position(self, cursor: str | None) -> int:
        """Where to read on after the cursor; without one at the beginning, or where cursors were forgotten.

        Raises:
            UnknownCursorError: see there.
        """
        if not cursor:
            return self._begin
        epoch, _, number = cursor.partition("-")
        try:
            position = int(number, 16)
        except ValueError:
            raise UnknownCursorError from None
        if epoch != self._epoch or not 1 <= position <= len(self._entries) or cursor != self._cursor(position):
            raise UnknownCursorError
        return position

    def _cursor(self, position: int) -> str:
        return f"{self._epoch}-{position:0{_CURSOR_DIGITS}x}"

    def _make_frame(self, index: int) -> bytes:
        head = f"id: {self._cursor(index + 1)}\nevent: {self._entries[index].stream}\ndata: "
        return head.encode() + self.message(index) + b"\n\n"

    def _make_message(self, index: int) -> bytes:
        return self._render(self._entries[index].release)

    async def read(self, position: int, streams: Collection[str]) -> AsyncIterator[bytes]:
        """Frames from a position on, as they come; ends when readers are cut off."""
        cuts = self._cuts
        yield _HEARTBEAT  # so that the reader knows at once that the stream stands
        while cuts == self._cuts:
            entries, grown = self._entries, self._grown
            frames: list[bytes] = []
            while position < len(entries) and len(frames) < _FRAMES_A_WRITE:
                if entries[position].stream in streams:
                    frames.append(self._frame(position))
                position += 1
            if frames:
                junk, cuts_off = self.garbage.before(frames[0])
                if cuts_off:
                    yield junk
                    return
                yield junk + b"".join(frames)
                continue
            try:
                await asyncio.wait_for(grown.wait(), self.heartbeat)
            except TimeoutError:
                yield _HEARTBEAT


class EventStream:
    """The ASGI answer that sends a log to one reader.

    Args:
        log: The log.
        position: Where to begin.
        streams: Streams wanted.
    """

    def __init__(self, log: EventLog, position: int, streams: Collection[str]) -> None:
        self._log = log
        self._position = position
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the reader leaves or is cut off (then the last chunk is missing, as after a failure)."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        left = asyncio.ensure_future(_until_left(receive))
        writing = asyncio.ensure_future(self._write(send))
        self._log.readers += 1
        try:
            await asyncio.wait({left, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._log.readers -= 1
            left.cancel()
            writing.cancel()
            outcomes = await asyncio.gather(left, writing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome

    async def _write(self, send: Send) -> None:
        async for frames in self._log.read(self._position, self._streams):
            await send({"type": "http.response.body", "body": frames, "more_body": True})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
