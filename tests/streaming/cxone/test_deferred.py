"""What was set aside, through the real receiver, simulator and bus."""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import process_deferred_webhooks as flow_module
from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.rest import RestClient
from streaming.settings import SpoolSettings
from streaming.spool.deferred import DeferredReader
from streaming.spool.schema import open_file, spool_files
from streaming.spool.writer import Deferral, SpoolWriter
from streaming.topics import ensure_topics
from streaming.vendors.cxone import deferred
from streaming.vendors.cxone.confirm import MAX_WINDOWS
from streaming.vendors.cxone.deferred import DeferredReport, TenantReport, process_deferred
from tests.conftest import Platform
from tests.devstack.simulators.support import CLIENT, Simulator, simulator
from tests.kafka import read_all, read_events
from tests.processes import HTTP, service, until
from tests.schemas.messages import cxone, raw
from tests.streaming.cxone.signing import KeyServer, SigningKey, sign_hmac
from tests.streaming.cxone.vendor_rest import VendorRest, contact, states
from tests.truth.trace_rows import call, write_trace

TOKEN = "s3cret-of-16-chars"
# The simulator asks the caller to come back much later: no client waits for that.
REST_DOWN = {"refuse": {"status": 503, "seconds": 600, "retry_after": 4000, "path": "/inContactAPI"}}
REST_UP = {"refuse": {"status": 503, "requests": 1, "path": "/nowhere"}}
NEVER = "http://127.0.0.1:1"
ROOT = Path(__file__).parents[3]


class Deferred:
    """A tenant whose webhooks are set aside, with all that belongs to it."""

    def __init__(self, platform: Platform, tenant: str) -> None:
        self.platform = platform
        self.tenant = tenant
        self.events_topic = f"ccaaus.events.cxone.{tenant}"
        self.dlq_topic = f"ccaaus.dlq.cxone.{tenant}"

    def process(self, later: timedelta = timedelta(0), **options: Any) -> TenantReport:
        """One run, as if so much later."""
        (report,) = self.run(later, **options).tenants
        return report

    def run(self, later: timedelta = timedelta(0), **options: Any) -> DeferredReport:
        return process_deferred(self.platform.settings(), now=datetime.now(UTC) + later, **options)

    def waiting(self, lane: str = "deferred") -> int:
        """Rows of a lane in all spools."""
        count = 0
        for path in spool_files(self.platform.folder / "spool"):
            database = open_file(path, durable=False)
            count += database.execute(f"SELECT count(*) FROM {lane}").fetchone()[0]
            database.close()
        return count

    def published(self) -> list[dict[str, Any]]:
        return read_events(self.platform, self.events_topic)

    def set_aside(self, requests: Sequence[tuple[bytes, dict[str, str]]], received_us: int | None = None) -> None:
        """Bodies and their signature headers, as the receiver keeps them."""

        async def append() -> None:
            writer = SpoolWriter(self.platform.folder / "spool", SpoolSettings(min_free_disk_bytes=0))
            at = received_us if received_us is not None else time.time_ns() // 1000
            stored = []
            for number, (body, headers) in enumerate(requests):
                wire = {"x-cxone-signature": "", "x-cxone-timestamp": ""}
                kept = json.dumps(wire | {name.lower(): text for name, text in headers.items()})
                stored.append(writer.append(self.tenant, body, at + number, Deferral("no such key", kept)))
            await asyncio.gather(*stored)
            writer.close()

        asyncio.run(append())


def signed(*bodies: bytes) -> list[tuple[bytes, dict[str, str]]]:
    """Well signed, though set aside: as after the secret was mended in the settings."""
    return [(body, sign_hmac("hmac-secret-0001", body)) for body in bodies]


def unsigned(*bodies: bytes) -> list[tuple[bytes, dict[str, str]]]:
    return [(body, {}) for body in bodies]


def add_tenant(platform: Platform, name: str, **connection: Any) -> Deferred:
    defaults = {
        "token_url": f"{NEVER}/t", "api_url": NEVER, "client_id": CLIENT[0], "client_secret": CLIENT[1],
        "webhook_tokens": [TOKEN], "jwks_url": f"{NEVER}/jwks",
    }  # fmt: skip
    made = Deferred(platform, platform.add_tenant("cxone", name, **defaults | connection))
    ensure_topics(platform.settings().kafka, platform.settings().tenants)
    return made


class Replayed(Deferred):
    """A tenant of the simulator; the real receiver takes its webhooks."""

    def __init__(self, platform: Platform, tenant: str, sim: Simulator) -> None:
        super().__init__(platform, tenant)
        self.sim = sim

    def replay(self) -> dict[str, Any]:
        self.sim.start()
        return self.sim.wait_done()


@pytest.fixture
def replayed(platform: Platform) -> Iterator[Replayed]:
    """Three calls: answered, abandoned in the queue, hung up before."""
    rows = [
        call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", customer_id="77", line="AA0201"),
        call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", server="NO_SERVER", line="AA0202"),
        call(exit_at="10:06:00", ivr=10, outcome="HANG", call_id="3", server="NO_SERVER", line="AA0202"),
    ]
    trace = write_trace(platform.folder / "trace.tsv", rows)
    receiver = f"http://127.0.0.1:{platform.ports['receiver']}"
    with ExitStack() as running:
        sim = running.enter_context(
            simulator(
                "cxone", platform.folder, trace, "--tenant", f"south-{platform.suffix}", "--target", receiver,
                "--webhook-token", TOKEN, "--skew-seconds", 1,
            )
        )  # fmt: skip
        made = add_tenant(
            platform, "south", token_url=f"{sim.url}/auth/token", api_url=sim.url, jwks_url=f"{sim.url}/auth/jwks"
        )
        process = running.enter_context(service("cxone-receiver", platform.config, platform.ports["receiver"]))
        until(lambda: "signing keys in force" in process.log.read_text(), what="the receiver has keys")
        yield Replayed(platform, made.tenant, sim)


def test_keys_rotated_without_overlap_while_their_endpoint_is_down(replayed: Replayed) -> None:
    sim = replayed.sim
    sim.misbehave(jwks="down")
    sim.misbehave(rotate_keys={"overlap_seconds": 0})
    expected = replayed.replay()["expected"]
    expected.pop("agent.status_changed")
    assert (replayed.waiting(), replayed.waiting("event")) == (9, 0)

    sim.misbehave(**REST_DOWN)
    report = replayed.process()
    assert isinstance(report.error, ServiceUnavailableError)
    assert (report.verified, report.confirmed, report.waiting, replayed.waiting()) == (0, 0, 9, 9)

    sim.misbehave(jwks="good")  # REST is still down: signatures alone are enough
    report = replayed.process()
    assert report == TenantReport(replayed.tenant, verified=9, events=11)
    assert Counter(event["event_type"] for event in replayed.published()) == expected
    assert {event["metadata"]["ccaas.recovered"] for event in replayed.published()} == {"deferred"}
    headers = dict(read_all(replayed.platform, replayed.events_topic)[0].headers() or [])
    assert headers["ccaas.transport"] == b"webhook"
    assert replayed.waiting() == 0
    assert replayed.run().tenants == []
    assert len(replayed.published()) == 11
    assert read_all(replayed.platform, replayed.dlq_topic) == []

    # The processor's fetch reaches the receiver through the state database: nothing more is set aside.
    url = f"http://127.0.0.1:{replayed.platform.ports['receiver']}/metrics"
    assert 'answer="deferred"' in HTTP.get(url).text
    log = replayed.platform.folder / "cxone-receiver.log"
    until(lambda: "state database" in log.read_text(), 30, "the receiver has the new keys")


def test_what_was_signed_wrongly_is_confirmed_by_rest_and_what_was_forged_is_a_dead_letter(replayed: Replayed) -> None:
    replayed.sim.misbehave(wrong_key=1.0)
    replayed.replay()
    forged = [
        raw(cxone("CALL_STARTED", contactId="AA0201-19990105-1", timestamp="1999-01-05T11:30:00Z")),
        raw(cxone("CALL_STARTED", contactId="nobody", timestamp="1999-01-05T09:59:50Z")),
        raw([cxone("CALL_STARTED", contactId="AA0201-19990105-1", timestamp="1999-01-05T09:59:50Z"), cxone("WHAT")]),
    ]
    url = f"http://127.0.0.1:{replayed.platform.ports['receiver']}/cxone/webhook/{replayed.tenant}"
    for body in forged:
        bearer = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        answer = HTTP.post(url, content=body, headers=bearer | SigningKey("k").sign(body))
        assert answer.json() == {"status": "deferred"}
    assert replayed.waiting() == 12

    assert replayed.process() == TenantReport(replayed.tenant, confirmed=9, waiting=3, events=11)
    assert {event["metadata"]["ccaas.recovered"] for event in replayed.published()} == {"deferred"}
    assert replayed.process(timedelta(hours=71)).waiting == 3
    replayed.sim.misbehave(**REST_DOWN)
    assert replayed.process(timedelta(hours=73)).waiting == 3, "nothing expires unexamined"
    replayed.sim.misbehave(**REST_UP)
    assert replayed.process(timedelta(hours=73)) == TenantReport(replayed.tenant, expired=3)
    assert len(replayed.published()) == 11
    letters = read_all(replayed.platform, replayed.dlq_topic)
    assert [letter.value() for letter in letters] == forged
    headers = dict(letters[0].headers() or [])
    assert headers["__connect.errors.stage"] == b"signature"
    assert headers["ccaas.error.reason"] == b"untrusted"
    assert headers["ccaas.error.transport"] == b"webhook"
    message = str(headers["__connect.errors.exception.message"])
    assert "'k' is not among" in message
    assert "in 72 h" in message
    assert (replayed.waiting(), replayed.run().tenants) == (0, [])


def test_the_window_of_a_signature_lies_around_the_arrival(platform: Platform) -> None:
    keys = KeyServer()
    key = SigningKey("k")
    keys.keys = [key.jwk()]
    rest = VendorRest()
    made = add_tenant(platform, "south", jwks_url=keys.url, api_url=rest.url, token_url=f"{rest.url}/token")
    day = 86_400
    arrived_us = time.time_ns() // 1000 - day * 1_000_000
    in_time, late = (raw(cxone("CALL_STARTED", contactId=name)) for name in ("in-time", "late"))
    made.set_aside([(in_time, key.sign(in_time, age=day + 10))], arrived_us)
    made.set_aside([(late, key.sign(late, age=day + 400))], arrived_us)
    assert made.process() == TenantReport(made.tenant, verified=1, waiting=1, events=1)
    (event,) = made.published()
    assert event["payload"]["conversation_id"] == "in-time"
    keys.close()
    rest.close()


def test_a_signed_body_that_is_no_event_is_a_dead_letter_of_normalisation(platform: Platform) -> None:
    made = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    good, bad = cxone("CALL_STARTED"), {"eventType": "CALL_STARTED", "contactId": "c-2"}
    made.set_aside(signed(raw([good, bad]), raw(cxone("QUEUE_ENTERED"))))
    assert made.process() == TenantReport(made.tenant, verified=2, events=2)
    (letter,) = read_all(platform, made.dlq_topic)
    assert letter.value() == raw([good, bad])
    assert dict(letter.headers() or [])["__connect.errors.stage"] == b"normalise"


def forged_flood(count: int) -> list[bytes]:
    """Unknown contacts and true ones at wrong times, all over the calendar."""
    day = datetime(2026, 11, 23, tzinfo=UTC)
    return [
        raw(
            cxone(
                "CALL_STARTED",
                contactId=f"c-{number % 7}",
                timestamp=(day - timedelta(hours=17 * number)).isoformat(),
                fromAddr="x" * 100,
            )
        )
        for number in range(count)
    ]


def test_a_flood_of_forged_events_costs_bounded_work_and_lets_the_true_one_through(platform: Platform) -> None:
    rest = VendorRest()
    rest.completed, rest.states = [contact(1)], states(1)
    made = add_tenant(
        platform, "south", api_url=rest.url, token_url=f"{rest.url}/token", rest_requests_per_minute=60_000
    )
    arrived_us = int(datetime(2026, 11, 23, 9, 5, tzinfo=UTC).timestamp() * 1e6)
    true = raw(cxone("CALL_STARTED", contactId="c-1", masterContactId="m-1", timestamp="2026-11-23T09:00:01.500Z"))
    made.set_aside(unsigned(*forged_flood(1_500), true, *forged_flood(500)), arrived_us)
    now = datetime(2026, 11, 23, 10, tzinfo=UTC)
    report = process_deferred(platform.settings(), now=now).tenants[0]
    assert report == TenantReport(made.tenant, confirmed=1, waiting=2_000, events=1)
    assert len(rest.requests) <= 2 * MAX_WINDOWS
    (event,) = made.published()
    assert event["payload"]["conversation_id"] == "c-1"
    # With hardly any time each run still examines the oldest.
    expired = process_deferred(platform.settings(), now=now + timedelta(days=4), max_seconds=0).tenants[0]
    assert (expired.expired, expired.waiting) == (500, 1_500)
    rest.close()


def test_one_tenants_trouble_harms_no_other(platform: Platform) -> None:
    broken = add_tenant(platform, "broken")
    broken.set_aside(unsigned(raw(cxone("CALL_STARTED"))))
    good = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    body = raw(cxone("CALL_STARTED"))
    good.set_aside(signed(body))
    gone = Deferred(platform, "gone-from-the-settings")
    gone.set_aside(unsigned(body))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.vendors.cxone.contacts.RestClient", functools.partial(RestClient, attempts=1))
        report = good.run()
    found = {tenant.tenant_id: tenant for tenant in report.tenants}
    assert found[good.tenant].verified == 1
    assert found[gone.tenant].waiting == 1
    assert isinstance(found[gone.tenant].error, ConfigurationError)
    assert found[broken.tenant].waiting == 1
    assert isinstance(found[broken.tenant].error, ServiceUnavailableError)
    with pytest.raises(ServiceUnavailableError, match=broken.tenant):
        report.check()
    with pytest.raises(ConfigurationError, match=f"no cxone/{gone.tenant}.*add the tenant again"):
        DeferredReport([found[gone.tenant]]).check()


def test_a_spool_of_another_layout_is_left_out_and_said(platform: Platform) -> None:
    made = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    made.set_aside(signed(raw(cxone("CALL_STARTED"))))
    database = sqlite3.connect(platform.folder / "spool" / "receiver-900.db")
    database.executescript("CREATE TABLE event (x); PRAGMA user_version=1;")
    database.close()
    report = made.run()
    assert [item.verified for item in report.tenants] == [1]
    with pytest.raises(ConfigurationError, match=r"receiver-900\.db.*layout 1"):
        report.check()


def entered(second: float) -> bytes:
    at = f"2026-11-23T09:00:{second:06.3f}Z"
    return raw(cxone("QUEUE_ENTERED", contactId="c-1", masterContactId="m-1", skillId="PS", timestamp=at))


def test_what_rest_tells_once_is_published_once_in_one_run_or_several(platform: Platform) -> None:
    rest = VendorRest()
    rest.completed, rest.states = [contact(1)], states(1)
    made = add_tenant(platform, "south", api_url=rest.url, token_url=f"{rest.url}/token")
    arrived_us = int(datetime(2026, 11, 23, 9, 5, tzinfo=UTC).timestamp() * 1e6)
    made.set_aside(unsigned(entered(1.2), entered(2.2), entered(3.2)), arrived_us)
    early = timedelta(0) - (datetime.now(UTC) - datetime(2026, 11, 23, 10, tzinfo=UTC))
    report = made.process(early)
    assert (report.confirmed, report.waiting) == (1, 2)
    made.set_aside(unsigned(entered(4.2), entered(1.2)), arrived_us)
    report = made.process(early)
    assert (report.confirmed, report.waiting) == (1, 3), "a copy of what was published, and no other"
    assert len({event["event_id"] for event in made.published()}) == 1
    rest.close()


def test_what_waits_in_a_spool_uses_up_what_rest_tells(platform: Platform) -> None:
    rest = VendorRest()
    rest.completed, rest.states = [contact(1)], states(1)
    made = add_tenant(platform, "south", api_url=rest.url, token_url=f"{rest.url}/token")

    async def receive() -> None:
        writer = SpoolWriter(platform.folder / "spool", SpoolSettings(min_free_disk_bytes=0))
        await writer.append(made.tenant, entered(1.2), time.time_ns() // 1000)
        writer.close()

    asyncio.run(receive())
    made.set_aside(unsigned(entered(3.2)))
    report = made.process()
    assert (report.confirmed, report.waiting) == (0, 1)
    rest.close()


def test_a_second_run_leaves_a_spool_alone_that_the_first_works_on(platform: Platform) -> None:
    made = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    body = raw(cxone("CALL_STARTED"))
    made.set_aside(signed(body))
    (path,) = spool_files(platform.folder / "spool")
    first = DeferredReader.claim(path)
    assert first is not None
    assert made.run() == DeferredReport([], [path.name])
    first.close()
    assert made.process().verified == 1


@pytest.mark.timeout(120)
def test_a_killed_run_is_repeated_with_the_same_ids(platform: Platform) -> None:
    made = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    count = 8_000
    made.set_aside(signed(*(raw(cxone("QUEUE_ENTERED", contactId=f"c-{number}")) for number in range(count))))
    program = (
        "from datetime import UTC, datetime\nfrom streaming.settings import load_settings\n"
        "from streaming.vendors.cxone.deferred import process_deferred\n"
        "process_deferred(load_settings(), now=datetime.now(UTC))\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        env={
            "CCAAS_CONFIG": str(platform.config),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        },
        stdout=subprocess.DEVNULL,
    )
    until(lambda: made.waiting() < count, what="it releases the first rows")
    run.kill()
    run.wait()
    left = made.waiting()
    assert left > 0, "it was killed on its way"
    report = made.process()
    assert (report.verified, report.waiting) == (left, 0)
    ids = Counter(event["event_id"] for event in made.published())
    assert len(ids) == count
    assert made.waiting() == 0


def test_kafka_that_acknowledges_nothing_keeps_the_rows(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_tenant(platform, "mac", signature="hmac", hmac_secret="hmac-secret-0001")
    body = raw(cxone("CALL_STARTED"))
    made.set_aside(signed(body))
    monkeypatch.setattr("streaming.vendors.cxone.release._ACK_TIMEOUT_S", 1.0)
    kafka = platform.stack.kafka
    assert kafka is not None

    def goes_down(*_: object) -> None:
        """Topics were there a moment ago."""
        kafka.kill()

    monkeypatch.setattr(deferred, "ensure_topics", goes_down)
    try:
        report = made.run()
        assert [item.waiting for item in report.tenants] == [1]
        with pytest.raises(ServiceUnavailableError, match="not acknowledged"):
            report.check()
    finally:
        kafka.start()
    monkeypatch.undo()
    assert made.waiting() == 1
    assert made.process().verified == 1
    assert len({event["event_id"] for event in made.published()}) == 1


def test_the_missing_scope_is_named(platform: Platform) -> None:
    trace = write_trace(platform.folder / "trace.tsv", [call(wait=17, talk=54, line="AA0201")])
    with simulator("cxone", platform.folder, trace, "--scopes", "webhook:manage") as sim:
        made = add_tenant(platform, "south", api_url=sim.url, token_url=f"{sim.url}/auth/token")
        made.set_aside(unsigned(raw(cxone("CALL_STARTED"))))
        report = made.run()
        with pytest.raises(ConfigurationError, match="event:read"):
            report.check()


def test_now_needs_a_zone(platform: Platform) -> None:
    with pytest.raises(ConfigurationError, match="now"):
        process_deferred(platform.settings(), now=datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_flow_shows_each_tenant_and_raises_an_event_for_dead_letters(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = VendorRest()
    made = add_tenant(platform, "south", api_url=rest.url, token_url=f"{rest.url}/token", deferred_limit_hours=0.0001)
    made.set_aside(unsigned(raw(cxone("CALL_STARTED"))), time.time_ns() // 1000 - 10_000_000)
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    shown: list[dict[str, Any]] = []
    emitted: list[dict[str, Any]] = []
    # Artifacts and events need a Prefect server.
    monkeypatch.setattr(flow_module, "show_table", lambda _key, rows: shown.extend(rows))
    monkeypatch.setattr(flow_module, "emit_event", lambda **event: emitted.append(event))
    assert flow_module.process_deferred_webhooks.fn() == {made.tenant: 0}
    (row,) = shown
    assert (row["tenant"], row["expired (dead letters)"], row["waiting"], row["trouble"]) == (made.tenant, 1, 0, "none")
    (event,) = emitted
    assert event["event"] == "ccaas.webhooks.deferred"
    assert event["payload"] == {"dead_letters": 1, "waiting": 0}
    assert flow_module.process_deferred_webhooks.fn() == {}
    assert len(emitted) == 1
    rest.close()
