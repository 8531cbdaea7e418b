"""The Genesys simulator as a process, over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from schemas.normalise import normaliser
from tests.devstack.simulators.support import CLIENT, SHIPPED, Simulator, command, simulator, until
from tests.truth.trace_rows import call, clock, write_trace

SCOPE = "streaming:read"


@contextmanager
def stream(
    sim: Simulator, cursor: str | None = None, topics: str | None = None
) -> Iterator[Iterator[httpx_sse.ServerSentEvent]]:
    headers = sim.bearer(SCOPE) | ({"Last-Event-ID": cursor} if cursor else {})
    params = {"topics": topics} if topics else {}
    with httpx_sse.connect_sse(sim.http, "GET", "/stream", headers=headers, params=params) as source:
        source.response.raise_for_status()
        # A comment makes httpx-sse yield an event without data, which HTML §9.2.6 does not.
        yield (event for event in source.iter_sse() if event.data)


def take(sim: Simulator, count: int, cursor: str | None = None, topics: str | None = None) -> list[Any]:
    """So many events, then hang up."""
    if not count:
        return []
    events = []
    with stream(sim, cursor, topics) as incoming:
        for event in incoming:
            events.append(event)
            if len(events) == count:
                return events
    raise AssertionError(len(events))


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Simulator]:
    with simulator("genesys", tmp_path, SHIPPED) as sim:
        yield sim


@pytest.fixture
def two_calls(tmp_path: Path) -> Iterator[Simulator]:
    rows = [
        call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", customer_id="77"),
        call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", server="NO_SERVER"),
    ]
    trace = write_trace(tmp_path / "trace.tsv", rows)
    with simulator("genesys", tmp_path, trace, "--heartbeat-seconds", 0.1, "--date-shift-days", 365) as sim:
        yield sim


def test_the_shipped_day_is_streamed_whole_and_becomes_what_is_expected(day: Simulator) -> None:
    day.start()
    status = day.wait_done()
    assert status["expected"] == status["sent"] == {
        "agent.status_changed": 1230, "conversation.abandoned": 23, "conversation.assigned": 628,
        "conversation.connected": 628, "conversation.ended": 670, "conversation.handled": 628,
        "conversation.queued": 651, "conversation.started": 670,
    }  # fmt: skip
    events = take(day, status["total_native"])
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    canonical = [made for event in events for made in normaliser("genesys").normalise(event.data.encode(), "t")]
    assert Counter(made["event_type"] for made in canonical) == status["expected"]
    assert len({made["event_id"] for made in canonical}) == len(canonical)
    times = [made["timestamp"] for made in canonical]
    assert times == sorted(times)


def test_resume_continues_after_the_cursor_without_gap_or_double(day: Simulator) -> None:
    day.start()
    total = day.wait_done()["total_native"]
    seen = take(day, 100)
    while len(seen) < total:
        seen += take(day, min(1500, total - len(seen)), cursor=seen[-1].id)
    assert [event.id for event in seen] == [event.id for event in take(day, total)]


def test_messages_of_a_call(two_calls: Simulator) -> None:
    two_calls.start()
    events = [json.loads(event.data) | {"stream": event.event} for event in take(two_calls, 13)]
    conversation = "AA0101-20000105-1"
    kinds = [(event["stream"], event["topicName"].split(f"{conversation}.")[-1]) for event in events[1:9]]
    assert kinds == [
        ("conversation", "customer.start"),
        ("routing", "acd.start"),
        ("routing", "acd.end"),
        ("interaction", "user.start"),
        ("routing", "v2.users.ANAT.routingStatus"),
        ("interaction", "user.end"),
        ("conversation", "customer.end"),
        ("routing", "v2.users.ANAT.routingStatus"),
    ]
    bodies = {event["topicName"].rpartition(f"{conversation}.")[2]: event["eventBody"] for event in events}
    answered = bodies["acd.end"]
    assert answered.items() >= {
        "eventTime": 947066417000, "conversationId": conversation, "mediaType": "VOICE", "direction": "INBOUND",
        "ani": "tel:77", "dnis": "tel:AA0101", "queueId": "PS", "acdOutcome": "ANSWERED", "answeredUserId": "ANAT",
        "connectedDurationMs": 17_000,
    }.items()  # fmt: skip
    assert bodies["user.end"].items() >= {
        "eventTime": 947066417000 + 54_000, "userId": "ANAT", "queueId": "PS", "interactingDurationMs": 54_000,
        "heldDurationMs": 0, "alertingDurationMs": 0,
    }.items()  # fmt: skip
    assert "disconnectType" in bodies["user.end"]
    status = events[5]
    assert status["eventBody"] == {
        "id": "ANAT",
        "routingStatus": {"status": "INTERACTING", "startTime": "2000-01-05T10:00:17.000Z"},
    }
    assert (status["version"], list(status["metadata"])) == ("2", ["CorrelationId"])
    abandoned = next(event["eventBody"] for event in events if event["topicName"].endswith("-2.acd.end"))
    assert (abandoned["acdOutcome"], abandoned["connectedDurationMs"]) == ("ABANDON", 30_000)
    assert "answeredUserId" not in abandoned
    assert abandoned["ani"] == "anonymous"


def test_topics_choose_the_streams(two_calls: Simulator) -> None:
    two_calls.start()
    events = take(two_calls, 2, topics="interaction")
    assert {event.event for event in events} == {"interaction"}
    assert take(two_calls, 1, cursor=events[0].id, topics="interaction")[0].id == events[1].id


def test_tokens(two_calls: Simulator) -> None:
    http, path, grant = two_calls.http, "/login/oauth/token", {"grant_type": "client_credentials"}
    wrong = http.post(path, data=grant, auth=("client", "guess"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert http.post(path, data=grant).status_code == 401
    assert http.post(path, data=grant, headers={"Authorization": "Basic %%%"}).status_code == 401
    form = http.post(path, data=grant | {"client_id": CLIENT[0], "client_secret": CLIENT[1]}).json()
    assert (form["token_type"], form["expires_in"]) == ("bearer", 3600)
    assert form["scope"] == "conversation:view integration:write streaming:read"
    assert http.post(path, data={"grant_type": "password"}, auth=CLIENT).json()["error"] == "unsupported_grant_type"
    assert http.post(path, data=grant | {"scope": "admin"}, auth=CLIENT).json()["error"] == "invalid_scope"


def test_who_may_not_read_the_stream(two_calls: Simulator) -> None:
    http = two_calls.http
    assert http.get("/stream").status_code == 401
    assert http.get("/stream", headers={"Authorization": "Bearer guess"}).status_code == 401
    assert http.get("/stream", headers=two_calls.bearer("conversation:view")).status_code == 403
    assert http.get("/stream", params={"topics": "routing,x"}, headers=two_calls.bearer()).status_code == 400
    assert two_calls.status()["refused"] == {"401": 2, "403": 1, "400": 1}


def test_an_unknown_cursor_is_refused(two_calls: Simulator) -> None:
    two_calls.start()
    epoch = take(two_calls, 1)[0].id.partition("-")[0]
    for cursor in ("00000000-0000000001", "x", f"{epoch}-00000000ff", f"{epoch}-1", f"{epoch}-0000000000"):
        answer = two_calls.http.get("/stream", headers=two_calls.bearer() | {"Last-Event-ID": cursor})
        assert (answer.status_code, answer.json()["code"]) == (412, "cursor.unknown"), cursor


def test_a_token_expires(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with simulator("genesys", tmp_path, trace, "--expires-in", 0.3) as sim:
        headers = sim.bearer()
        with httpx_sse.connect_sse(sim.http, "GET", "/stream", headers=headers) as source:
            assert source.response.status_code == 200
        time.sleep(0.4)
        assert sim.http.get("/stream", headers=headers).status_code == 401


def test_a_silent_stream_has_heartbeats(two_calls: Simulator) -> None:
    with two_calls.http.stream("GET", "/stream", headers=two_calls.bearer()) as answer:
        lines = answer.iter_lines()
        assert [line for line, _ in zip(lines, range(6), strict=False)] == [": heartbeat", ""] * 3
    until(lambda: two_calls.status()["streams_open"] == 0)


def test_events_are_paced_by_the_speed(two_calls: Simulator) -> None:
    # From the first status at 0:00 to the last event at 10:05:30 are 36,330 s: 1.8165 s of wall time.
    arrived: list[float] = []
    with stream(two_calls) as incoming:
        began = time.monotonic()
        two_calls.start(speed=20_000)
        for _ in incoming:
            arrived.append(time.monotonic() - began)
            if len(arrived) == 13:
                break
    assert arrived[0] < 1.7
    assert arrived[1] >= (36_000 - 11) / 20_000
    assert 36_330 / 20_000 <= arrived[-1] < 36_330 / 20_000 + 5
    assert two_calls.wait_done()["sim_now"] == "2000-01-05T10:05:31.000Z"


def test_many_readers_get_everything(two_calls: Simulator) -> None:
    results: list[int] = []

    def read() -> None:
        results.append(len(take(two_calls, 13)))

    with httpx.Client(base_url=two_calls.url, limits=httpx.Limits(max_connections=None)) as http:
        two_calls.http = http
        readers = [threading.Thread(target=read) for _ in range(40)]
        for reader in readers:
            reader.start()
        until(lambda: two_calls.status()["streams_open"] == 40)
        two_calls.start()
        for reader in readers:
            reader.join(10)
    assert results == [13] * 40


def test_disconnect_cuts_every_reader_who_then_resumes(two_calls: Simulator) -> None:
    two_calls.start()
    seen = []
    with stream(two_calls) as incoming:
        for event in incoming:
            seen.append(event.id)
            if len(seen) == 13:
                break
        two_calls.misbehave(disconnect=True)
        with pytest.raises(httpx.RemoteProtocolError):
            next(incoming)
    assert two_calls.status()["streams_open"] == 0
    assert [event.id for event in take(two_calls, 3, cursor=seen[9])] == seen[10:]


def test_forgotten_cursors_are_unknown_and_the_stream_begins_at_the_end(two_calls: Simulator) -> None:
    two_calls.start()
    two_calls.wait_done()
    before = take(two_calls, 13)
    two_calls.misbehave(forget_cursors=True)
    for event in (before[0], before[-1]):
        answer = two_calls.http.get("/stream", headers=two_calls.bearer() | {"Last-Event-ID": event.id})
        assert (answer.status_code, answer.json()["code"]) == (412, "cursor.unknown")
    with two_calls.http.stream("GET", "/stream", headers=two_calls.bearer()) as answer:
        lines = [line for _, line in zip(range(4), answer.iter_lines(), strict=False)]
    assert lines == [": heartbeat", ""] * 2, "nothing of before"


def test_cursors_given_after_the_forgetting_are_known(tmp_path: Path) -> None:
    rows = [call(exit_at=clock(36_000 + n), ivr=10, talk=10, call_id=str(n)) for n in range(50)]
    with simulator("genesys", tmp_path, write_trace(tmp_path / "trace.tsv", rows)) as sim:
        sim.misbehave(forget_cursors=True)
        sim.start()
        total = sim.wait_done()["total_native"]
        events = take(sim, total)
        assert [event.id for event in take(sim, total - 20, cursor=events[19].id)] == [e.id for e in events[20:]]


def test_garbage_precedes_the_next_writes(two_calls: Simulator) -> None:
    """In turn: junk, an event without its id, no UTF-8, half an event and a cut."""
    two_calls.start()
    two_calls.wait_done()
    two_calls.misbehave(garbage=4)

    def first_frames(count: int) -> list[bytes]:
        with two_calls.http.stream("GET", "/stream", headers=two_calls.bearer()) as answer:
            received = b""
            for part in answer.iter_raw():
                received += part
                if received.count(b"\n\n") > count:
                    break
        return received.split(b"\n\n")[1 : 1 + count]  # after the heartbeat

    junk, clean = first_frames(2)
    assert junk.startswith(b": ")
    assert clean.startswith(b"id: ")
    without, clean = first_frames(2)
    assert without == clean.partition(b"\n")[2]
    (broken, after) = first_frames(2)
    with pytest.raises(UnicodeDecodeError):
        broken.decode()
    assert after == clean
    parts: list[bytes] = []
    with (
        two_calls.http.stream("GET", "/stream", headers=two_calls.bearer()) as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        parts.extend(answer.iter_raw())
    half = b"".join(parts)
    assert half.startswith(b": heartbeat\n\nevent: conversation\ndata: {")
    assert not half.endswith(b"\n")
    assert two_calls.status()["garbage"] == {"comment": 1, "without_id": 1, "no_utf8": 1, "half": 1}
    assert len(take(two_calls, 13)) == 13, "then all is well"


def test_refusals_on_request(two_calls: Simulator) -> None:
    two_calls.misbehave(refuse={"status": 429, "requests": 1, "retry_after": 7, "path": "/stream"})
    headers = two_calls.bearer()
    answer = two_calls.http.get("/stream", headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    two_calls.start()
    assert take(two_calls, 1)
    two_calls.misbehave(refuse={"status": 503, "seconds": 60})
    assert two_calls.http.get("/stream", headers=headers).status_code == 503
    assert two_calls.http.post("/login/oauth/token").status_code == 503
    assert two_calls.status()["refused"] == {"429": 1, "503": 2}


def test_dropped_doubled_and_changed_events(two_calls: Simulator) -> None:
    two_calls.misbehave(
        drop=1, kinds=["routingStatus"], duplicate=0, fields={"add": {"eventBody.new": 1}, "remove": ["version"]}
    )
    two_calls.misbehave(kinds=["routingStatus"])
    two_calls.start()
    status = two_calls.wait_done()
    assert (status["dropped"], status["missing"]) == (3, {"agent.status_changed": 3})
    assert "agent.status_changed" not in status["sent"]
    assert status["sent"]["conversation.ended"] == 2
    # kinds limited the fields too, to events that were all dropped
    assert all("new" not in json.loads(event.data)["eventBody"] for event in take(two_calls, 10))


def test_changed_fields_reach_the_reader(two_calls: Simulator) -> None:
    changes = {"add": {"eventBody.new": 1}, "remove": ["eventBody.ani"], "retype": ["eventBody.eventTime"]}
    two_calls.misbehave(fields=changes, duplicate=1, kinds=["customer.start"])
    two_calls.start()
    assert two_calls.wait_done()["changed"] == 2
    starts = [event for event in take(two_calls, 15) if "customer.start" in event.data]
    assert len(starts) == 4
    assert len({event.id for event in starts}) == 4, "a double has a cursor of its own"
    for event in starts:
        body = json.loads(event.data)["eventBody"]
        assert body["new"] == 1
        assert "ani" not in body
        assert isinstance(body["eventTime"], str)


def test_wrong_control_requests(two_calls: Simulator) -> None:
    for path, body, status, code in (
        ("start", '{"speed": -1}', 400, "bad.request"),
        ("start", '{"spede": 1}', 400, "bad.request"),
        ("start", "{", 400, "bad.request"),
        ("misbehave", '{"drop": 2}', 400, "bad.request"),
        ("misbehave", '{"rotate_keys": {}}', 400, "not.supported"),
        ("misbehave", '{"jwks": "down"}', 400, "not.supported"),
        ("misbehave", '{"garbage": 0}', 400, "bad.request"),
        ("misbehave", '{"pages": "gone"}', 400, "bad.request"),
    ):
        answer = two_calls.http.post(f"/control/{path}", content=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
    assert two_calls.status()["state"] == "idle"
    two_calls.start()
    again = two_calls.http.post("/control/start")
    assert (again.status_code, again.json()["code"]) == (409, "already.started")


def test_sigterm_ends_it_even_with_open_streams(two_calls: Simulator) -> None:
    with stream(two_calls) as incoming:
        until(lambda: two_calls.status()["streams_open"] == 1)
        two_calls.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            next(incoming)
    assert two_calls.process.wait(10) == 0


def run_once(trace: Path, *arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        command("genesys", trace, *arguments), capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stderr


def test_a_wrong_trace_ends_with_a_clear_message(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call(q_time="x")])
    code, text = run_once(trace)
    assert code == 2
    assert text.startswith(f"genesys simulator: {trace}, line 2, column q_time: 'x' is not whole seconds")
    assert "Traceback" not in text


def test_a_taken_port_ends_with_a_clear_message(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, text = run_once(trace, "--port", port)
    assert code == 2
    assert f"port {port} on 127.0.0.1" in text
    assert "--port" in text
    assert "Traceback" not in text


def test_a_port_file_that_cannot_be_written_ends_with_a_clear_message(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    code, text = run_once(trace, "--port-file", tmp_path / "none" / "port")
    assert code == 2
    assert "--port-file" in text
    assert "Traceback" not in text
