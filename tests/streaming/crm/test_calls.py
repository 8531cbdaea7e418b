"""What an answer means, and how calls are tried again: against a real server that answers as told."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import ValidationError

from streaming.crm.calls import Answers, Calls
from streaming.crm.client import Activity, CrmUnavailableError, HttpCrmClient, seconds_to_wait
from streaming.errors import BadEventError, ConfigurationError
from streaming.settings import CrmSettings

Answer = Callable[[int, dict[str, str], asyncio.StreamWriter], Awaitable[None]]
ACTIVITY = Activity("e-1", b'{"event_id": "e-1"}')


def answering(status: int, body: bytes = b"", **headers: str) -> Answer:
    async def answer(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
        out.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


class Server:
    """Answers each request as told, and remembers their headers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, str]] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/crm/"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, source: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await source.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in head[1:] if line)}
                await source.readexactly(int(headers["content-length"]))
                self.requests.append({"": head[0], **headers})
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    await self.answer(len(self.requests), headers, out)
                finally:
                    self._at_once -= 1
                await out.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            out.close()


@asynccontextmanager
async def client_of(server: Server, **settings: Any) -> AsyncIterator[HttpCrmClient]:
    client = HttpCrmClient(CrmSettings(**{"url": server.url, "token": "s3cret", "timeout_seconds": 10, **settings}))
    try:
        yield client
    finally:
        await client.close()


async def ask(answer: Answer, **settings: Any) -> Any:
    with closing(Server(answer)) as server:
        async with client_of(server, **settings) as client:
            return await client.send(ACTIVITY), server.requests


@pytest.mark.parametrize("done", ["applied", "duplicate"])
async def test_the_contract(done: str) -> None:
    said, (request,) = await ask(answering(200, json.dumps({"status": done}).encode()))
    assert said == done
    assert request[""] == "POST /crm/v1/activities HTTP/1.1"
    assert (request["idempotency-key"], request["authorization"]) == ("e-1", "Bearer s3cret")
    assert request["content-type"] == "application/json"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_the_service_fails(status: int) -> None:
    with pytest.raises(CrmUnavailableError, match=f"the CRM answers {status}") as error:
        await ask(answering(status, Retry_After="7"))
    assert error.value.retry_after == 7


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"null", b'["applied"]', b'{"status": "error"}', b'{"status": ["applied"]}', b"\xff"],
)
async def test_a_200_that_does_not_say_done_is_no_success(body: bytes) -> None:
    with pytest.raises(CrmUnavailableError, match="answers 200 without a status"):
        await ask(answering(200, body))


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "crm.token"), (403, "crm.token"), (404, "crm.url"), (405, "crm.url"), (307, "crm.url")],
)
async def test_a_wrong_setting_is_named(status: int, setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"answers {status}: mend {setting}"):
        await ask(answering(status, Location="/elsewhere"))


@pytest.mark.parametrize("status", [400, 409, 410, 413, 415, 422])
async def test_the_event_is_refused(status: int) -> None:
    with pytest.raises(BadEventError) as error:
        await ask(answering(status, b"personal data"))
    assert error.value.reason == f"crm_{status}"
    assert "personal" not in str(error.value)


async def test_an_answer_without_end_is_not_read_to_it() -> None:
    async def endless(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            out.write(b" " * 65536)
            await out.drain()

    with pytest.raises(CrmUnavailableError, match="without a status"):
        await ask(endless)


async def test_an_answer_that_drips_is_a_timeout() -> None:
    async def dripping(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            out.write(b" ")
            await out.drain()
            await asyncio.sleep(0.05)

    with pytest.raises(CrmUnavailableError, match="does not answer: TimeoutError"):
        await ask(dripping, timeout_seconds=0.5)


@pytest.mark.parametrize("noise", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"])
async def test_no_http_is_no_answer(noise: bytes) -> None:
    async def cut(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        out.write(noise)
        await out.drain()
        raise ConnectionResetError

    with pytest.raises(CrmUnavailableError, match="does not answer"):
        await ask(cut)


async def test_nobody_listens() -> None:
    client = HttpCrmClient(CrmSettings(url="http://127.0.0.1:1"))
    with pytest.raises(CrmUnavailableError, match="does not answer: ConnectError"):
        await client.send(ACTIVITY)
    await client.close()


def test_without_a_url_the_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"crm\.url is not set"):
        HttpCrmClient(CrmSettings())


def test_retry_after_in_either_form() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (seconds_to_wait(format_datetime(soon, usegmt=True)) or 0) <= 100
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [seconds_to_wait(text) for text in ("3", "0", None, "", "soon", "-1", "nan")] == [3, 0, *[None] * 5]


# A poll's calls

DONE = b'{"status": "applied"}'


def activities(count: int) -> list[Activity]:
    return [Activity(f"e-{number}", b"{}") for number in range(count)]


def several(server: Server, stop: threading.Event | None = None, **settings: Any) -> closing[Calls]:
    """For several polls; what should end before the deadline would outlast the test's own timeout."""
    patient = {"timeout_seconds": 1000, "deadline_seconds": 3000}
    section = CrmSettings(url=server.url).model_copy(update={**patient, **settings})
    return closing(Calls(HttpCrmClient(section), section, stop or threading.Event()))


def make(server: Server, count: int, stop: threading.Event | None = None, **settings: Any) -> Answers:
    """One poll's calls, as :func:`several`."""
    with several(server, stop, **settings) as calls:
        return calls.make(activities(count))


def test_no_more_calls_at_once_than_set() -> None:
    async def slow(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        await answering(200, DONE)(0, {}, out)

    with closing(Server(slow)) as server:
        answers = make(server, 60, concurrency=7)
        assert len(answers.taken) == 60
        assert server.most_at_once == 7


def test_while_the_crm_wants_no_calls_none_is_made() -> None:
    at: list[float] = []

    async def limited(number: int, headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        at.append(time.monotonic())
        await (answering(429, Retry_After="1") if number == 1 else answering(200, DONE))(number, headers, out)

    with closing(Server(limited)) as server:
        answers = make(server, 5, concurrency=1)
    assert len(answers.taken) == 5
    assert at[1] - at[0] >= 1


def test_a_crm_that_asks_to_wait_beyond_the_deadline_is_asked_nothing_in_later_polls_either() -> None:
    with closing(Server(answering(503, Retry_After="36000"))) as server, several(server, deadline_seconds=40) as calls:
        answers = calls.make(activities(20))
        assert (answers.taken, answers.refused) == (set(), {})
        assert 40 < answers.wait <= 300, "it is asked again after five minutes all the same"
        asked = len(server.requests)
        later = calls.make([Activity("another", b"{}")])
        assert len(server.requests) == asked
    assert 40 < later.wait <= answers.wait
    assert "asked for no calls" in str(later.fault)


def test_a_wrong_setting_ends_the_round() -> None:
    with closing(Server(answering(401))) as server:
        answers = make(server, 200, concurrency=2)
        assert len(server.requests) < 200
    assert isinstance(answers.fault, ConfigurationError)


def only_not(number: int, status: int, others_after: float = 0) -> Answer:
    """All events are taken but one."""

    async def answer(_number: int, headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        if headers["idempotency-key"] == f"e-{number}":
            await answering(status)(0, {}, out)
        else:
            await asyncio.sleep(others_after)
            await answering(200, DONE)(0, {}, out)

    return answer


@pytest.mark.parametrize("status", [302, 401, 403, 404, 405])
def test_what_only_one_event_is_answered_is_no_wrong_setting(status: int) -> None:
    """Though it is the first answer, and others take longer than the look at what came."""
    with closing(Server(only_not(0, status, others_after=0.2))) as server:
        answers = make(server, 20, concurrency=8)
    assert answers.taken == {f"e-{number}" for number in range(1, 20)}
    assert isinstance(answers.fault, ConfigurationError)


def test_an_event_that_always_fails_costs_later_polls_one_call() -> None:
    def asked() -> int:
        return sum(request["idempotency-key"] == "e-5" for request in server.requests)

    with closing(Server(only_not(5, 500))) as server, several(server) as calls:
        assert len(calls.make(activities(20)).taken) == 19
        # Seven would take 3 s at the least.
        assert 1 < (first := asked()) < 7
        for poll in range(1, 4):
            assert len(calls.make(activities(20)).taken) == 19
            assert asked() == first + poll
        server.answer = answering(200, DONE)
        assert len(calls.make(activities(20)).taken) == 20


def test_a_poll_does_not_last_until_the_loop_counts_as_stuck() -> None:
    with pytest.raises(ValidationError, match="deadline_seconds"):
        CrmSettings(deadline_seconds=41)


def test_the_end_of_the_service_ends_the_round() -> None:
    stop = threading.Event()

    async def never(_number: int, _headers: dict[str, str], _out: asyncio.StreamWriter) -> None:
        stop.set()
        await asyncio.sleep(3600)

    with closing(Server(never)) as server:
        answers = make(server, 5, stop)
    assert answers.taken == set()


def test_at_the_deadline_the_rest_is_left() -> None:
    async def some(_number: int, headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        if headers["idempotency-key"] in {"e-0", "e-1"}:
            await answering(200, DONE)(0, {}, out)
        else:
            await asyncio.sleep(3600)

    with closing(Server(some)) as server:
        answers = make(server, 5, deadline_seconds=2)
    assert answers.taken == {"e-0", "e-1"}


def test_calls_that_were_cut_off_at_any_point_leave_the_next_ones_room() -> None:
    """A pool whose connection counts as used for ever would be a call less from then on."""
    chance = random.Random(1)
    is_slow = True

    async def about_at_the_timeout(_number: int, _headers: dict[str, str], out: asyncio.StreamWriter) -> None:
        for part in (b"HTTP/1.1 200 x\r\n", b"Content-Length: 21\r\n\r\n", DONE[:5], DONE[5:]):
            if is_slow:
                await asyncio.sleep(chance.uniform(0, 0.03))
            out.write(part)

    with closing(Server(about_at_the_timeout)) as server:
        hasty = CrmSettings(url=server.url, timeout_seconds=0.05, deadline_seconds=2, concurrency=8)
        client = HttpCrmClient(hasty)
        calls = Calls(client, hasty, threading.Event())
        with closing(calls):
            for _ in range(3):
                calls.make(activities(200))
            is_slow = False
            client._timeout = 30
            assert len(calls.make(activities(100)).taken) == 100


def test_an_id_that_no_header_can_carry_is_refused() -> None:
    with closing(Server(answering(200, DONE))) as server:
        section = CrmSettings(url=server.url)
        with closing(Calls(HttpCrmClient(section), section, threading.Event())) as calls:
            answers = calls.make([Activity(text, b"{}") for text in ("a\nb", "", "é", "x" * 201, "good")])
        assert answers.taken == {"good"}
        assert {error.path for error in answers.refused.values()} == {"event_id"}
        assert len(server.requests) == 1
