"""Frames of an event stream, over real HTTP from a server that sends what no vendor should."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from streaming.vendors.genesys.stream import StreamRefusedError, open_stream
from streaming.vendors.genesys.transport import Frame

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MIB = 1024 * 1024


def serve_once(answer: Callable[[socket.socket], None]) -> str:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(65536)
            answer(connection)

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/stream"


async def frames(body: bytes, cursor: str | None = None, head: bytes = HEAD) -> list[Frame]:
    url = serve_once(lambda connection: connection.sendall(head + body))
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        open_stream(http, url, streams=("conversation",), token="t", cursor=cursor, idle_timeout=5) as stream,
    ):
        return [frame async for frame in stream]


async def test_comments_and_line_ends_of_all_kinds() -> None:
    body = b": hello\n\nid: 1\ndata: a\n\nid: 2\r\ndata: b\r\n\r\nid: 3\rdata: c\r\r"
    assert await frames(body) == [Frame("1", b"a"), Frame("2", b"b"), Frame("3", b"c")]


async def test_half_a_frame_at_the_end_is_not_delivered() -> None:
    assert await frames(b"id: 1\ndata: a\n\nid: 2\ndata: ha") == [Frame("1", b"a")]


async def test_bytes_that_are_no_utf_8_stay_as_they_are() -> None:
    assert await frames(b"id: 1\ndata: \xff\xfe\x85\xc2\x85\n\n") == [Frame("1", b"\xff\xfe\x85\xc2\x85")]


async def test_a_frame_without_an_id_moves_no_cursor() -> None:
    assert await frames(b"data: a\n\nid: 7\ndata: b\n\ndata: c\n\n", cursor="6") == [
        Frame("6", b"a"),
        Frame("7", b"b"),
        Frame("7", b"c"),
    ]


async def test_a_frame_without_an_end_is_cut_and_the_next_is_read() -> None:
    endless = b"id: 1\ndata: " + b"x" * (20 * MIB) + b"\n\nid: 2\ndata: b\n\n"
    first, second = await frames(endless)
    assert first.cursor == "1"
    assert 15 * MIB <= len(first.data) < 16 * MIB
    assert second == Frame("2", b"b")


async def test_crlf_streams_are_not_cut() -> None:
    body = b"".join(b"id: %d\r\ndata: %s\r\n\r\n" % (number, b"y" * 60_000) for number in range(300))
    assert len(await frames(body)) == 300


async def test_a_refusal_says_status_and_when_to_come_again() -> None:
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\n"
    with pytest.raises(StreamRefusedError) as caught:
        await frames(b"slow", head=head)
    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)


async def test_blank_lines_in_chunks_of_their_own_lose_no_frame() -> None:
    """A server may flush line by line: its frames end where two chunks meet."""
    count = 400

    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked"))
        for number in range(count):
            for part in (b"id: %d\n" % number, b"data: %s\n" % (b"z" * 60_000), b"\n"):
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")

    url = serve_once(answer)
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        open_stream(http, url, streams=("conversation",), token="t", cursor=None, idle_timeout=5) as stream,
    ):
        cursors = [frame.cursor async for frame in stream if len(frame.data) == 60_000]
    assert cursors == [str(number) for number in range(count)]


@pytest.mark.parametrize("identifier", ["é".encode(), b"a b", b"x" * 2000, b"\x01"])
async def test_an_id_that_no_header_can_carry_moves_no_cursor(identifier: bytes) -> None:
    body = b"id: 7\ndata: a\n\nid: " + identifier + b"\ndata: b\n\n"
    assert [frame.cursor for frame in await frames(body)] == ["7", "7"]


async def test_a_missing_scope_is_named_whatever_the_vendor_says() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n"
    with pytest.raises(StreamRefusedError, match="lacks the scope streaming:read; grant it"):
        await frames(b"no", head=head)


@pytest.mark.parametrize("wait", [b"inf", b"-3", b"nan", b"tomorrow"])
async def test_a_nonsensical_wait_is_none(wait: bytes) -> None:
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: " + wait + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(StreamRefusedError) as caught:
        await frames(b"", head=head)
    assert caught.value.retry_after is None


async def test_a_stream_without_a_byte_is_found_dead() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"id: 1\ndata: a\n\n")
        time.sleep(3)

    async with httpx.AsyncClient(trust_env=False) as http:
        opened = open_stream(
            http, serve_once(answer), streams=("conversation",), token="t", cursor=None, idle_timeout=0.3
        )
        async with opened as stream:
            assert await anext(stream) == Frame("1", b"a")
            with pytest.raises(httpx.ReadTimeout):
                await anext(stream)
