"""Channels and WebSockets of the Genesys simulator."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.devstack.simulators.support import SHIPPED, Simulator, simulator, sse, until
from tests.truth.trace_rows import call, write_trace

CHANNELS = "/api/v2/notifications/channels"
KINDS = ("customer.start", "customer.end", "acd.start", "acd.end", "user.start", "user.end", "acw")
TOPICS = [f"v2.detail.events.conversation.{{id}}.{kind}" for kind in KINDS]
STATUS = "v2.users.ANAT.routingStatus"


def create(sim: Simulator) -> dict[str, str]:
    answer: dict[str, str] = sim.http.post(CHANNELS, headers=sim.bearer()).raise_for_status().json()
    return answer


def subscribe(sim: Simulator, channel: dict[str, str], topics: list[str], method: str = "PUT") -> httpx.Response:
    body = [{"id": topic} for topic in topics]
    return sim.http.request(method, f"{CHANNELS}/{channel['id']}/subscriptions", json=body, headers=sim.bearer())


@contextmanager
def opened(sim: Simulator, topics: list[str]) -> Iterator[ClientConnection]:
    channel = create(sim)
    subscribe(sim, channel, topics).raise_for_status()
    with connect(channel["connectUri"], proxy=None) as socket:
        yield socket


def messages(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """So many that are no heartbeats."""
    taken: list[dict[str, Any]] = []
    while len(taken) < count:
        message = json.loads(socket.recv(timeout=10))
        if message["topicName"] != "channel.metadata":
            taken.append(message)
    return taken


def goodbye(socket: ClientConnection) -> tuple[str, int | None]:
    """Topic of the last message, and the close code."""
    (last,) = messages(socket, 1)
    with pytest.raises(ConnectionClosed):
        socket.recv(timeout=10)
    return last["topicName"], socket.protocol.close_code


def status_of(uri: str) -> int:
    """Of the refused handshake."""
    with pytest.raises(InvalidStatus) as refused, connect(uri, proxy=None):
        pass
    return refused.value.response.status_code


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Simulator]:
    """One answered call: 9 messages, 3 of them statuses."""
    trace = write_trace(tmp_path / "trace.tsv", [call(exit_at="10:00:00", wait=17, talk=54, call_id="1")])
    with simulator("genesys", tmp_path, trace) as made:
        yield made


def test_the_shipped_day_comes_as_on_the_stream(tmp_path: Path) -> None:
    with simulator("genesys", tmp_path, SHIPPED) as sim:
        users = sim.http.get("/api/v2/users", params={"pageSize": 500}, headers=sim.bearer()).json()["entities"]
        topics = [*TOPICS, *(f"v2.users.{user['id']}.routingStatus" for user in users)]
        with opened(sim, topics) as socket:
            sim.start()
            total = sim.status()["total_native"]
            received = messages(socket, total)
        streamed = [json.loads(data) for data in sse(sim, total)]
    assert received == streamed


def test_only_what_is_subscribed(sim: Simulator) -> None:
    with opened(sim, [TOPICS[0], STATUS]) as socket:
        sim.start()
        kinds = [message["topicName"] for message in messages(socket, 4)]
    assert kinds == [STATUS, "v2.detail.events.conversation.AA0101-19990105-1.customer.start", STATUS, STATUS]


def test_nothing_is_told_again(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()
    with opened(sim, [*TOPICS, STATUS]) as socket:
        sim.misbehave(disconnect=True)
        assert goodbye(socket) == ("v2.system.socket_closing", 1001)


def test_put_replaces_and_post_adds(sim: Simulator) -> None:
    channel = create(sim)
    expires = datetime.fromisoformat(channel["expires"])
    assert timedelta(hours=23, minutes=59) < expires - datetime.now(UTC) <= timedelta(hours=24)

    def topics(answer: httpx.Response) -> list[str]:
        return [entity["id"] for entity in answer.raise_for_status().json()["entities"]]

    assert topics(subscribe(sim, channel, TOPICS[:2])) == TOPICS[:2]
    assert topics(subscribe(sim, channel, [TOPICS[2], TOPICS[0]], "POST")) == TOPICS[:3]
    assert topics(subscribe(sim, channel, [STATUS])) == [STATUS]
    for topic in ("v2.detail.events.conversation.{id}.acd", "v2.users.NOBODY.routingStatus", "x"):
        answer = subscribe(sim, channel, [topic])
        assert (answer.status_code, answer.json()["code"]) == (400, "notifications.topic.unknown")
    assert topics(subscribe(sim, channel, [], "POST")) == [STATUS], "what was refused changed nothing"


def test_a_channel_has_at_most_1000_topics(tmp_path: Path) -> None:
    agents = [f"A{n}" for n in range(1001)]
    rows = [call(talk=60, call_id=str(n), server=agent) for n, agent in enumerate(agents)]
    with simulator("genesys", tmp_path, write_trace(tmp_path / "trace.tsv", rows)) as sim:
        topics = [f"v2.users.{agent}.routingStatus" for agent in agents]
        channel = create(sim)
        assert subscribe(sim, channel, topics[:1000]).status_code == 200
        for method, more in (("POST", topics[1000:]), ("PUT", topics)):
            answer = subscribe(sim, channel, more, method)
            assert (answer.status_code, answer.json()["code"]) == (400, "notifications.too.many")


def test_heartbeats(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with simulator("genesys", tmp_path, trace, "--heartbeat-seconds", 0.05) as sim, opened(sim, []) as socket:
        for _ in range(3):
            assert json.loads(socket.recv(timeout=10)) == {
                "topicName": "channel.metadata",
                "eventBody": {"message": "WebSocket Heartbeat"},
            }


def test_an_order_to_disconnect_says_goodbye_and_leaves_the_channel(sim: Simulator) -> None:
    channel = create(sim)
    subscribe(sim, channel, TOPICS).raise_for_status()
    with connect(channel["connectUri"], proxy=None) as socket:
        until(lambda: sim.status()["sockets_open"] == 1)
        sim.misbehave(disconnect=True)
        assert goodbye(socket) == ("v2.system.socket_closing", 1001)
    until(lambda: sim.status()["sockets_open"] == 0)
    with connect(channel["connectUri"], proxy=None) as socket:
        sim.start()
        assert len(messages(socket, 6)) == 6


def test_a_second_connection_replaces_the_first(sim: Simulator) -> None:
    channel = create(sim)
    subscribe(sim, channel, TOPICS).raise_for_status()
    with connect(channel["connectUri"], proxy=None) as first, connect(channel["connectUri"], proxy=None) as second:
        assert goodbye(first) == ("v2.system.socket_closing", 1001)
        sim.start()
        assert len(messages(second, 6)) == 6
        assert sim.status()["sockets_open"] == 1


def test_a_channel_ends_with_its_life(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with simulator("genesys", tmp_path, trace, "--channel-seconds", 0.3) as sim:
        channel = create(sim)
        with connect(channel["connectUri"], proxy=None) as socket:
            assert goodbye(socket) == ("v2.system.socket_closing", 1001)
        until(lambda: subscribe(sim, channel, TOPICS).status_code == 404)
        assert status_of(channel["connectUri"]) == 404


def test_deleted_and_unknown_channels(sim: Simulator) -> None:
    channel = create(sim)
    with connect(channel["connectUri"], proxy=None) as socket:
        answer = sim.http.delete(f"{CHANNELS}/{channel['id']}", headers=sim.bearer())
        assert answer.status_code == 204
        assert goodbye(socket) == ("v2.system.socket_closing", 1001)
    assert status_of(channel["connectUri"]) == 404
    assert sim.http.delete(f"{CHANNELS}/{channel['id']}", headers=sim.bearer()).status_code == 404
    assert subscribe(sim, channel, TOPICS).status_code == 404
    assert status_of(f"{sim.url.replace('http', 'ws')}/channels/guess") == 404


def test_a_client_has_at_most_20_channels(sim: Simulator) -> None:
    channels = [create(sim) for _ in range(21)]
    assert subscribe(sim, channels[0], TOPICS).status_code == 404, "the oldest went"
    assert subscribe(sim, channels[1], TOPICS).status_code == 200
    assert sim.status()["channels"] == 20


def test_refusals_on_request(sim: Simulator) -> None:
    channel = create(sim)
    sim.misbehave(refuse={"status": 503, "requests": 2, "path": "/channels"})
    assert [status_of(channel["connectUri"]) for _ in range(2)] == [503, 503]
    with connect(channel["connectUri"], proxy=None):
        pass
    sim.misbehave(refuse={"status": 500, "requests": 1, "path": CHANNELS})
    assert subscribe(sim, channel, TOPICS).status_code == 500
    assert sim.status()["refused"] == {"503": 2, "500": 1}


def test_many_sockets_get_everything(sim: Simulator) -> None:
    channels = [create(sim) for _ in range(20)]
    sockets = []
    for channel in channels:
        subscribe(sim, channel, [*TOPICS, STATUS]).raise_for_status()
        sockets.append(connect(channel["connectUri"], proxy=None))
    sim.start()
    received = [messages(socket, 9) for socket in sockets]
    assert all(each == received[0] for each in received)
    for socket in sockets:
        socket.close()


def test_sigterm_ends_it_even_with_open_sockets(sim: Simulator) -> None:
    with opened(sim, TOPICS) as socket:
        sim.process.send_signal(signal.SIGTERM)
        assert goodbye(socket) == ("v2.system.socket_closing", 1001)
    assert sim.process.wait(10) == 0
