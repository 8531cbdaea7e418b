"""Webhook to landing zone through the real processes, killed on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import duckdb
import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.kafka import read_all, read_events
from tests.processes import ServiceProcess, service, until
from tests.schemas.messages import cxone, ended, raw
from tests.streaming.cxone.signing import sign_hmac

HEADERS = {"Authorization": "Bearer s3cret-of-16-chars", "Content-Type": "application/json"}


class CxonePath:
    def __init__(self, platform: Platform, services: dict[str, ServiceProcess], tenant: str) -> None:
        self.platform = platform
        self.services = services
        self.tenant = tenant
        self.events_topic = f"ccaaus.events.cxone.{tenant}"
        self.dlq_topic = f"ccaaus.dlq.cxone.{tenant}"
        self.http = httpx.Client(timeout=20)

    def post(self, body: bytes) -> int:
        url = f"http://127.0.0.1:{self.platform.ports['receiver']}/cxone/webhook/{self.tenant}"
        return self.http.post(url, content=body, headers=HEADERS | sign_hmac("hmac-secret-0001", body)).status_code

    def post_until_accepted(self, body: bytes) -> None:
        """As the vendor retries; the connection may break while the receiver is killed."""
        until(lambda: self.post(body) == 200, 30, "accepted")

    def landed(self) -> list[tuple[str, int]]:
        """Event id and number of copies in the landing zone."""
        folder = self.platform.folder / "landing"
        files = [str(path) for path in folder.glob("raw/*/*.parquet") if not path.name.startswith(".tmp-")]
        if not files:
            return []
        query = "SELECT event_id, count(*) FROM read_parquet($1) GROUP BY event_id"
        return duckdb.execute(query, [files]).fetchall()


@pytest.fixture
def path(platform: Platform) -> Iterator[CxonePath]:
    tenant = platform.add_tenant(
        "cxone", "south", token_url="http://127.0.0.1:1/t", api_url="http://127.0.0.1:1", client_id="i",
        client_secret="s", webhook_tokens=["s3cret-of-16-chars"], signature="hmac", hmac_secret="hmac-secret-0001",
    )  # fmt: skip
    with ExitStack() as services:
        running = {
            name: services.enter_context(service(name, platform.config, platform.ports[port]))
            for name, port in (
                ("cxone-receiver", "receiver"),
                ("cxone-publisher", "cxone_publisher"),
                ("analytics-sink", "analytics_sink"),
            )
        }
        made = CxonePath(platform, running, tenant)
        yield made
        made.http.close()


def test_events_dead_letters_and_headers_on_the_bus(path: CxonePath) -> None:
    array = [ended(contactId="x"), {"bad": 1}]
    for body in (raw(cxone("QUEUE_ENTERED")), raw(array), b"\xff garbage", b"[]"):
        assert path.post(body) == 200
    until(lambda: len(read_all(path.platform, path.events_topic)) == 3, what="events on the bus")
    until(lambda: len(read_all(path.platform, path.dlq_topic)) == 3, what="dead letters")
    events = read_events(path.platform, path.events_topic)
    assert sorted(event["event_type"] for event in events) == [
        "conversation.ended",
        "conversation.handled",
        "conversation.queued",
    ]
    record = read_all(path.platform, path.events_topic)[0]
    headers = dict(record.headers() or [])
    assert headers["ccaas.transport"] == b"webhook"
    assert abs(int(headers["ccaas.received_at"]) / 1e6 - time.time()) < 120
    assert record.key().decode() in {event["event_id"] for event in events}
    assert abs(record.timestamp()[1] / 1000 - time.time()) < 120, "the record's time is the publishing time"
    letters = {letter.value(): letter for letter in read_all(path.platform, path.dlq_topic)}
    assert set(letters) == {raw(array), b"\xff garbage", b"[]"}
    element = dict(letters[raw(array)].headers() or [])
    assert element["ccaas.error.path"] == b"[1].eventType"
    garbage = letters[b"\xff garbage"]
    reason = dict(garbage.headers() or [])
    assert garbage.key() is None
    assert reason["__connect.errors.stage"] == b"normalise"
    assert reason["__connect.errors.exception.class.name"] == b"BadEventError"
    assert reason["ccaas.error.reason"] == b"unparsable"
    assert "__connect.errors.topic" not in reason


def test_bad_input_is_an_event_or_a_dead_letter_and_the_next_goes_on(path: CxonePath) -> None:
    good = cxone("QUEUE_ENTERED")
    deep = b'{"d":' * 1_000 + b"1" + b"}" * 1_000
    room = 1_048_576 - len(raw(good | {"contactId": "full", "note": ""}))
    become_events = {
        "many": raw(good | {"contactId": "many"} | {f"key{number}": number for number in range(10_000)}),
        "deep": raw(good | {"contactId": "deep", "nested": 0}).replace(b'"nested": 0', b'"nested": ' + deep),
        "ours": raw(good | {"contactId": "ours", "ccaas.native_type": "forged", "ccaas.recovered": "reconciled"}),
        "nulls": raw(good | {"contactId": "nulls", "agentId": None, "mediaType": None, "fromAddr": None}),
        "full": raw(good | {"contactId": "full", "note": "x" * room}),
    }
    become_dead_letters = {
        raw(good).replace(b"c-1", b"\xff\xfe"): b"unparsable",
        raw(good).replace(b'"c-1"', b"NaN"): b"unparsable",
        raw(ended(agentSeconds="100")): b"wrong_type",
        raw(dict.fromkeys(good)): b"missing_field",
        raw(good | {"contactId": None}): b"missing_field",
        raw(good | {"timestamp": "yesterday"}): b"wrong_type",
    }
    assert len(become_events["full"]) == 1_048_576
    assert path.post(become_events["full"] + b" ") == 413
    for body in (*become_dead_letters, *become_events.values()):
        assert path.post(body) == 200
        assert path.post(raw(good)) == 200
    last = len(become_events) + 1
    until(lambda: len({item.key() for item in read_all(path.platform, path.events_topic)}) == last, 60, what="events")
    until(lambda: len(read_all(path.platform, path.dlq_topic)) == len(become_dead_letters), what="dead letters")
    events = {event["payload"]["conversation_id"]: event for event in read_events(path.platform, path.events_topic)}
    assert events.keys() == become_events.keys() | {"c-1"}
    assert len(events["many"]["metadata"]) > 10_000
    assert events["ours"]["metadata"]["ccaas.native_type"] == "QUEUE_ENTERED"
    assert events["ours"]["metadata"]["cxone.ccaas.recovered"] == "reconciled"
    assert "ccaas.recovered" not in events["ours"]["metadata"]
    assert len(events["full"]["metadata"]["cxone.note"]) == room
    letters = read_all(path.platform, path.dlq_topic)
    assert {bytes(item.value() or b""): dict(item.headers() or [])["ccaas.error.reason"] for item in letters} == (
        become_dead_letters
    )


def test_kill_9_of_every_service_loses_and_doubles_nothing(path: CxonePath) -> None:
    count = 400
    killed = threading.Event()

    def kill_and_restart() -> None:
        for name in ("cxone-publisher", "cxone-receiver", "analytics-sink"):
            time.sleep(0.5)
            path.services[name].kill()
            path.services[name].start()
        killed.set()

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    for number in range(count):
        path.post_until_accepted(raw(cxone("QUEUE_ENTERED", contactId=f"c-{number}")))
    killer.join()
    until(lambda: len(path.landed()) >= count, 60, "all landed")
    landed = path.landed()
    ids = {event["event_id"] for event in read_events(path.platform, path.events_topic)}
    assert len(ids) == count
    assert {event_id for event_id, _ in landed} == ids
    # The sink reads each record of the bus once, killed or not: copies can only come from the bus.
    assert sum(copies for _, copies in landed) == len(read_all(path.platform, path.events_topic))


def test_an_undecodable_record_does_not_stop_the_sink(path: CxonePath) -> None:
    producer = Producer({"bootstrap.servers": path.platform.stack.bootstrap_servers})
    producer.produce(path.events_topic, key=b"k", value=b"not avro", headers=[("theirs", b"1"), ("null", None)])
    producer.produce(path.events_topic, key=b"tombstone", value=None)
    producer.flush(10)
    assert path.post(raw(cxone("QUEUE_ENTERED"))) == 200
    until(lambda: len(path.landed()) == 1, 30, "the good one landed")
    until(lambda: len(read_all(path.platform, path.dlq_topic)) == 2, 30, "dead letters")
    letter = next(item for item in read_all(path.platform, path.dlq_topic) if item.key() == b"k")
    headers = dict(letter.headers() or [])
    assert (letter.value(), headers["theirs"], headers["null"]) == (b"not avro", b"1", None)
    assert headers["__connect.errors.topic"] == path.events_topic.encode()
    assert headers["__connect.errors.offset"].isdigit()


def test_kafka_down_for_a_while_means_waiting_and_no_dead_letter(path: CxonePath) -> None:
    assert path.post(raw(cxone("QUEUE_ENTERED", contactId="before"))) == 200
    until(lambda: len(path.landed()) == 1, 30, "landed before")
    broker = path.platform.stack.kafka
    assert broker is not None
    broker.kill()
    try:
        for number in range(20):
            assert path.post(raw(cxone("QUEUE_ENTERED", contactId=f"during-{number}"))) == 200
        time.sleep(1)
    finally:
        broker.start()
    until(lambda: len(path.landed()) == 21, 150, "landed after")
    assert read_all(path.platform, path.dlq_topic) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_tenant_whose_topic_is_gone_stops_no_other_and_goes_on_when_it_is_back(path: CxonePath) -> None:
    other = path.platform.add_tenant(
        "cxone", "west", token_url="http://127.0.0.1:1/t", api_url="http://127.0.0.1:1", client_id="i",
        client_secret="s", webhook_tokens=["s3cret-of-16-chars"], signature="hmac", hmac_secret="hmac-secret-0001",
    )  # fmt: skip
    for name in ("cxone-receiver", "cxone-publisher"):
        path.services[name].stop()
        path.services[name].start()
        path.services[name].wait_alive()
    west = CxonePath(path.platform, path.services, other)
    assert path.post(raw(cxone("QUEUE_ENTERED", contactId="before"))) == 200
    until(lambda: len(read_all(path.platform, path.events_topic)) == 1, what="before")
    admin = AdminClient({"bootstrap.servers": path.platform.stack.bootstrap_servers})
    admin.delete_topics([path.events_topic])[path.events_topic].result(20)

    assert path.post(raw(cxone("QUEUE_ENTERED", contactId="gone"))) == 200
    for number in range(5):
        assert west.post(raw(cxone("QUEUE_ENTERED", contactId=f"w-{number}"))) == 200
    until(lambda: len(read_all(west.platform, west.events_topic)) == 5, 20, "the other tenant goes on")

    ensure_topics(path.platform.settings().kafka, path.platform.settings().tenants)
    until(lambda: len(read_all(path.platform, path.events_topic)) == 1, 150, "it goes on where it stood")
    west.http.close()
