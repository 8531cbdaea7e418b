"""Reconciliation against the real simulator, Kafka and registry: exactly what never came is published, once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient

from schemas.canonical import RECOVERED_KEY
from schemas.normalise import normaliser
from schemas.registry import Registry
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, ConfigurationError, ServiceUnavailableError
from streaming.publisher import TRANSPORT, Publisher
from streaming.settings import Settings, Tenant
from streaming.spool.writer import Deferral, SpoolWriter
from streaming.topics import ensure_topics
from streaming.vendors.cxone.messages import normalise_body
from streaming.vendors.cxone.reconcile import reconcile
from streaming.vendors.cxone.report import ReconcileReport
from tests.conftest import Platform
from tests.devstack.simulators.support import CLIENT, Receiver, Simulator, simulator
from tests.kafka import read_all, read_events
from tests.streaming.cxone.vendor_rest import VendorRest, contact, states
from tests.truth.trace_rows import call, clock, write_trace

DAY = datetime(1999, 1, 5, tzinfo=UTC)
WINDOW = (DAY, DAY + timedelta(days=1))
Body = dict[str, Any]


class Bench:
    """A tenant of the session's Kafka whose vendor is the given URL."""

    def __init__(self, platform: Platform, url: str, name: str = "south", **connection: Any) -> None:
        self.platform = platform
        token_url = f"{url}/auth/token"
        tenant_id = platform.add_tenant(
            "cxone", name, token_url=token_url, api_url=url, client_id=CLIENT[0], client_secret=CLIENT[1],
            webhook_tokens=["token-of-16-chars"], signature="hmac", hmac_secret="hmac-secret-0001",
            rest_requests_per_minute=6000, **connection,
        )  # fmt: skip
        self.settings: Settings = platform.settings()
        (self.tenant,) = (found for found in self.settings.tenants if found.tenant_id == tenant_id)
        ensure_topics(self.settings.kafka, [self.tenant])

    def publish(self, *bodies: Body, **metadata: str) -> None:
        """As the publisher does with webhooks."""
        with closing(Registry(self.settings.registry)) as registry:
            publisher = Publisher(self.settings, registry.encoder(), "test")
            for body in bodies:
                events, failure = normalise_body(normaliser("cxone"), orjson.dumps(body), self.tenant.tenant_id)
                for event in events:
                    event["metadata"] |= metadata
                    publisher.publish(
                        self.tenant, event, publisher.encode(event), received_us=1, transport="webhook",
                        acknowledged=lambda: None,
                    )  # fmt: skip
                if failure is not None:
                    self._dead_letter(publisher, failure.value, failure.error)
            assert publisher.drain(10) == 0

    def dead_letter(self, body: Body, reason: str) -> None:
        with closing(Registry(self.settings.registry)) as registry:
            publisher = Publisher(self.settings, registry.encoder(), "test")
            self._dead_letter(publisher, orjson.dumps(body), BadEventError("x", reason=reason))
            assert publisher.drain(10) == 0

    def _dead_letter(self, publisher: Publisher, value: bytes, error: BadEventError) -> None:
        headers = dead_letter_headers(error, stage="normalise", transport="webhook")
        publisher.dead_letter(self.tenant, key=None, value=value, headers=headers, acknowledged=lambda: None)

    def run(self, window: tuple[datetime, datetime] = WINDOW, **options: Any) -> ReconcileReport:
        return reconcile(self.settings, self.tenant, *window, **options)

    def on_bus(self) -> list[Any]:
        return read_events(self.platform, self.tenant.events_topic)

    def recovered(self) -> list[Any]:
        return [event for event in self.on_bus() if event["metadata"].get(RECOVERED_KEY) == "reconciled"]


def canonical(bodies: list[Body], tenant: Tenant) -> list[Any]:
    vendor = normaliser("cxone")
    return [event for body in bodies for event in vendor.normalise_document(body, tenant.tenant_id)]


def bare(events: list[Any]) -> list[Any]:
    found = [{key: value for key, value in event.items() if key != "metadata"} for event in events]
    return sorted(found, key=lambda event: event["event_id"])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Forty calls within an hour: answered at once, after a wait, given up in the queue and before it."""
    rows = []
    for number in range(40):
        exit_at = clock(36_000 + number * 90)
        kinds: list[dict[str, Any]] = [
            {"wait": 17, "talk": 54},
            {"talk": 200},
            {"wait": 30, "outcome": "HANG", "server": "NO_SERVER"},
            {"outcome": "HANG", "server": "NO_SERVER"},
        ]
        rows.append(call(exit_at=exit_at, line="AA0201", call_id=str(number), **kinds[number % 4]))
    return write_trace(tmp_path / "trace.tsv", rows)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def play(trace: Path, tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., tuple[Simulator, list[Body]]]]:
    """Plays the whole trace; gives the simulator and the webhooks it sent."""
    running: list[Any] = []

    def start(*arguments: object, **misbehaviour: object) -> tuple[Simulator, list[Body]]:
        target = ("--target", receiver.url, "--webhook-token", "t", "--rest-per-minute", 6000)
        opened = simulator("cxone", tmp_path, trace, *target, *arguments)
        sim = opened.__enter__()
        running.append(opened)
        if misbehaviour:
            sim.misbehave(**misbehaviour)
        sim.start()
        sim.wait_done()
        return sim, receiver.events

    yield start
    for opened in running:
        opened.__exit__(None, None, None)


@pytest.fixture
def vendor() -> Iterator[VendorRest]:
    made = VendorRest()
    yield made
    made.close()


NINE = datetime(2026, 11, 23, 9, tzinfo=UTC)
HOUR = (NINE, NINE + timedelta(hours=1))


def webhooks(number: int) -> list[Body]:
    """What contact ``number`` of :func:`contact` should have sent, with ms."""
    head = {
        "contactId": f"c-{number}", "masterContactId": f"m-{number}", "mediaType": "Call", "isOutbound": False,
        "fromAddr": "1", "toAddr": "2",
    }  # fmt: skip
    place = {"skillId": "PS", "agentId": "ANNA"}
    summary = {
        "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 120, "holdSeconds": 10, "acwSeconds": 0,
        "totalDurationSeconds": 137, "endReason": "Contact Ended",
    }  # fmt: skip

    def at(seconds: int) -> str:
        return (NINE + timedelta(seconds=number + seconds, milliseconds=123)).isoformat()

    return [
        {"eventId": "e", "eventType": "CALL_STARTED", "timestamp": at(0), **head},
        {"eventId": "e", "eventType": "QUEUE_ENTERED", "timestamp": at(0), **head, "skillId": "PS"},
        {"eventId": "e", "eventType": "AGENT_ASSIGNED", "timestamp": at(17), **head, **place},
        {"eventId": "e", "eventType": "CALL_ENDED", "timestamp": at(137), **head, **place, **summary},
    ]


def test_what_was_dropped_comes_back_equal_and_only_once(platform: Platform, play: Callable[..., Any]) -> None:
    sim, sent = play(drop=0.25, duplicate=0.2, seed=3)
    bench = Bench(platform, sim.url)
    bench.publish(*sent)
    dropped = sim.status()["missing"]
    assert sum(dropped.values()) > 10

    report = bench.run()

    assert {kind: count.missing for kind, count in report.by_type.items() if count.missing} == dropped
    assert report.published == report.missing == sum(dropped.values())
    assert report.contacts == 40
    assert report.steady
    assert (report.bad_rows, report.not_judged, report.undecodable) == (0, 0, 0)
    assert sum(report.ages.values()) == report.missing == report.ages["more"]
    recovered = bench.recovered()
    assert Counter(event["event_type"] for event in recovered) == dropped
    assert all(dict(record.headers() or ())[TRANSPORT] in {b"rest", b"webhook"} for record in _records(bench))

    # Twice is nothing the second time.
    again = bench.run()
    assert (again.published, again.missing) == (0, 0)
    assert sum(count.recovered for count in again.by_type.values()) == report.missing
    assert len(bench.recovered()) == report.missing


def _records(bench: Bench) -> list[Any]:
    return read_all(bench.platform, bench.tenant.events_topic)


def test_all_that_rest_gives_equals_all_that_webhooks_give(platform: Platform, play: Callable[..., Any]) -> None:
    sim, sent = play()
    bench = Bench(platform, sim.url)

    report = bench.run()

    assert report.missing_share == 1
    assert bare(bench.on_bus()) == bare(canonical(sent, bench.tenant))


def test_nothing_is_published_that_the_bus_has_whatever_a_second_differs(
    platform: Platform, play: Callable[..., Any]
) -> None:
    sim, sent = play("--skew-seconds", 1, duplicate=0.3, seed=5)
    bench = Bench(platform, sim.url)
    bench.publish(*sent)

    report = bench.run()

    assert (report.missing, report.published, len(bench.recovered())) == (0, 0, 0)
    found = Counter({kind: count.pushed for kind, count in report.by_type.items()})
    sent_types = sim.status()["sent"]
    del sent_types["agent.status_changed"]
    assert found == sent_types


def test_a_dry_run_writes_nothing(platform: Platform, play: Callable[..., Any]) -> None:
    sim, _ = play()
    bench = Bench(platform, sim.url)

    report = bench.run(publish=False)

    assert report.missing == report.expected > 0
    assert report.published == 0
    assert sum(report.ages.values()) == report.missing
    assert bench.on_bus() == []


def test_only_contacts_that_ended_in_the_window_are_looked_at(platform: Platform, play: Callable[..., Any]) -> None:
    sim, sent = play()
    bench = Bench(platform, sim.url)
    half = (DAY + timedelta(hours=10), DAY + timedelta(hours=10, minutes=30))

    report = bench.run(half)

    ended = {
        body["contactId"]
        for body in sent
        if body["eventType"] == "CALL_ENDED" and half[0] <= datetime.fromisoformat(body["timestamp"]) < half[1]
    }
    assert 0 < len(ended) < 40
    assert report.contacts == len(ended)
    assert {event["payload"]["conversation_id"] for event in bench.on_bus()} == ended


def test_a_missing_scope_is_named_and_nothing_is_done(platform: Platform, play: Callable[..., Any]) -> None:
    sim, _ = play("--scopes", "webhook:manage")
    bench = Bench(platform, sim.url)
    with pytest.raises(ConfigurationError, match="event:read"):
        bench.run()
    assert bench.on_bus() == []


def test_rest_that_is_down_leaves_nothing_half_done(
    platform: Platform, vendor: VendorRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.rest._MAX_BACKOFF_S", 0.01)
    vendor.status = 503
    bench = Bench(platform, vendor.url)
    with pytest.raises(ServiceUnavailableError, match="503"):
        bench.run(HOUR)
    assert bench.on_bus() == []


def _spool(bench: Bench, pending: list[Body], deferred: list[Body]) -> None:
    async def fill() -> None:
        writer = SpoolWriter(bench.settings.spool_dir, bench.settings.spool)
        now_us = time.time_ns() // 1000
        stored = [writer.append(bench.tenant.tenant_id, orjson.dumps(body), now_us) for body in pending]
        stored += [
            writer.append(bench.tenant.tenant_id, orjson.dumps(body), now_us, Deferral("unknown_key", "{}"))
            for body in deferred
        ]
        for item in stored:
            await item
        await asyncio.to_thread(writer.close)

    asyncio.run(fill())


def test_spool_quarantine_and_dead_letters_are_subtracted(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed = [contact(number) for number in range(5)]
    vendor.states = [row for number in range(5) for row in states(number)]
    bench = Bench(platform, vendor.url)
    bench.publish(*webhooks(0))
    _spool(bench, webhooks(1), webhooks(2))
    unusable = [body | {"timestamp": "yesterday"} for body in webhooks(3)]
    bench.publish(*unusable)

    report = bench.run(HOUR)

    each = {"expected": 5, "pushed": 1, "in_spool": 1, "deferred": 1, "dead_letters": 1, "missing": 1, "recovered": 0}
    kinds = ("started", "queued", "assigned", "handled", "ended")
    assert {kind: {name: getattr(count, name) for name in each} for kind, count in report.by_type.items()} == {
        f"conversation.{kind}": each for kind in kinds
    }
    assert {event["payload"]["conversation_id"] for event in bench.recovered()} == {"c-4"}


def test_what_was_set_aside_long_ago_hides_nothing(platform: Platform, vendor: VendorRest) -> None:
    """Forged or not: REST itself says that it happened."""
    vendor.completed, vendor.states = [contact(2)], states(2)
    bench = Bench(platform, vendor.url)
    _spool(bench, [], webhooks(2))
    assert bench.run(HOUR).missing == 0
    report = bench.run(HOUR, now=datetime.now(UTC) + timedelta(minutes=61))
    assert (report.missing, report.published) == (5, 5)


def test_a_forged_end_hides_no_other_event_of_its_contact(platform: Platform, vendor: VendorRest) -> None:
    """A wrap-up that REST tells, and an unverified end that says there was none."""
    vendor.completed, vendor.states = [contact(0, acwSeconds=20)], states(0)
    bench = Bench(platform, vendor.url)
    _spool(bench, [], [webhooks(0)[3]])
    report = bench.run(HOUR)
    assert report.by_type["conversation.wrapup"].missing == 1


def test_a_dry_run_makes_no_topic(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed, vendor.states = [contact(0)], states(0)
    bench = Bench(platform, vendor.url)
    bench.tenant = bench.tenant.model_copy(update={"tenant_id": f"dry-{platform.suffix}"})
    assert bench.run(HOUR, publish=False).missing == 5
    topics = AdminClient(bench.settings.kafka.client_config()).list_topics(timeout=10).topics
    assert bench.tenant.events_topic not in topics


def test_a_contact_whose_first_states_are_out_of_reach_makes_no_phantom(platform: Platform, vendor: VendorRest) -> None:
    """Answered at 09:00:17, back from hold at 09:01:30; it is looked at from 09:00:54 on."""
    vendor.completed = [contact(0)]
    resumed = states(0)[2] | {"stateStartDate": "2026-11-23T09:01:30Z"}
    vendor.states = [*states(0)[:3], resumed, states(0)[3]]
    bench = Bench(platform, vendor.url, longest_contact_hours=0.02)
    report = bench.run((NINE + timedelta(seconds=126), NINE + timedelta(hours=1)))
    assert {kind for kind, count in report.by_type.items() if count.missing} == {
        "conversation.handled", "conversation.ended",
    }  # fmt: skip
    assert report.not_judged == 2, "its start and its first leg"


def test_a_dead_letter_that_nobody_vouches_for_hides_nothing(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed, vendor.states = [contact(0)], states(0)
    bench = Bench(platform, vendor.url)
    for body in webhooks(0):
        bench.dead_letter(body, "untrusted")
    assert bench.run(HOUR).missing == 5


def test_one_dead_letter_stands_for_one_event(platform: Platform, vendor: VendorRest) -> None:
    """Two entries into one queue, of which one is a dead letter and one never came."""
    again = states(0)[1] | {"stateStartDate": "2026-11-23T09:00:40Z"}
    vendor.completed, vendor.states = [contact(0)], [*states(0), again]
    bench = Bench(platform, vendor.url)
    first, queued, *rest = webhooks(0)
    bench.publish(first, *rest)
    bench.dead_letter(queued, "wrong_type")
    report = bench.run(HOUR)
    assert (report.by_type["conversation.queued"].dead_letters, report.by_type["conversation.queued"].missing) == (1, 1)


def test_entries_into_one_queue_within_seconds_are_counted(platform: Platform, vendor: VendorRest) -> None:
    """Three entries within the match, one of which came, twice."""
    entries = [states(0)[1] | {"stateStartDate": f"2026-11-23T09:00:{second:02d}Z"} for second in (1, 3)]
    vendor.completed, vendor.states = [contact(0)], [*states(0), *entries]
    bench = Bench(platform, vendor.url)
    bench.publish(*webhooks(0), webhooks(0)[1])
    assert bench.run(HOUR).by_type["conversation.queued"].missing == 2
    assert bench.run(HOUR).by_type["conversation.queued"].missing == 0


def test_a_webhook_that_came_is_believed_over_rest(platform: Platform, vendor: VendorRest) -> None:
    """REST rounds the wrap-up up; the webhook said that there was none."""
    vendor.completed, vendor.states = [contact(0, acwSeconds=1)], states(0)
    bench = Bench(platform, vendor.url)
    bench.publish(*webhooks(0))
    report = bench.run(HOUR)
    assert report.missing == 0
    assert "conversation.wrapup" not in report.by_type


def test_a_run_that_was_interrupted_is_completed_by_the_next(platform: Platform, vendor: VendorRest) -> None:
    """Of a rebuilt CALL_ENDED only the first event was published."""
    vendor.completed, vendor.states = [contact(0)], states(0)
    bench = Bench(platform, vendor.url)
    bench.run(HOUR)
    (ended,) = (event for event in bench.on_bus() if event["event_type"] == "conversation.ended")

    other = Bench(platform, vendor.url, "other")
    with closing(Registry(other.settings.registry)) as registry:
        publisher = Publisher(other.settings, registry.encoder(), "test")
        publisher.publish(
            other.tenant, ended, publisher.encode(ended), received_us=1, transport="rest", acknowledged=lambda: None
        )
        assert publisher.drain(10) == 0
    report = other.run(HOUR)

    assert report.by_type["conversation.handled"].missing == 1
    assert report.by_type["conversation.ended"].recovered == 1


def test_a_row_that_cannot_be_used_is_a_dead_letter_once(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed = [contact(0), contact(1, contactId=...), contact(2, inQueueSeconds="x")]
    vendor.states = [*states(0), states(1)[0] | {"contactStateName": 7}]
    bench = Bench(platform, vendor.url)

    report = bench.run(HOUR)

    assert (report.bad_rows, report.published) == (3, 5)
    letters = read_all(platform, bench.tenant.dlq_topic)
    headers = [dict(letter.headers() or ()) for letter in letters]
    assert {header["__connect.errors.stage"] for header in headers} == {b"reconcile"}
    assert {header["ccaas.error.transport"] for header in headers} == {b"rest"}
    assert sorted(header["ccaas.error.path"] for header in headers) == [
        b"contactId", b"contactStateName", b"inQueueSeconds",
    ]  # fmt: skip
    assert orjson.loads(letters[0].value() or b"") in [*vendor.completed, *vendor.states]

    assert bench.run(HOUR).bad_rows == 0
    assert len(read_all(platform, bench.tenant.dlq_topic)) == 3


def test_a_vendor_that_ignores_until_makes_no_event_missing_too_early(platform: Platform, vendor: VendorRest) -> None:
    vendor.knows_until = False
    vendor.completed = [contact(0), contact(1000)]
    vendor.states = states(0)
    bench = Bench(platform, vendor.url)
    bench.run((NINE, NINE + timedelta(minutes=10)))
    assert {event["payload"]["conversation_id"] for event in bench.recovered()} == {"c-0"}


def test_what_lies_before_the_look_back_is_not_judged(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed, vendor.states = [contact(0)], states(0)
    bench = Bench(platform, vendor.url, longest_contact_hours=0.01)
    report = bench.run((NINE + timedelta(minutes=2), NINE + timedelta(hours=1)))
    assert (report.not_judged, report.expected) == (2, 2), "its start and its first leg"


def test_two_runs_at_once_do_no_harm(platform: Platform, vendor: VendorRest) -> None:
    vendor.completed = [contact(number) for number in range(20)]
    vendor.states = [row for number in range(20) for row in states(number)]
    bench = Bench(platform, vendor.url)
    threads = [threading.Thread(target=bench.run, args=(HOUR,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event["event_id"] for event in bench.on_bus()}) == 100


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (NINE, NINE, "window_start .* is not before window_end"),
        (HOUR[1], HOUR[0], "window_start .* is not before window_end"),
        (NINE.replace(tzinfo=None), HOUR[1], "window_start is .* without a time zone"),
        (NINE, HOUR[1].replace(tzinfo=None), "window_end is .* without a time zone"),
    ],
)
def test_a_window_that_is_none_is_refused(platform: Platform, start: datetime, end: datetime, message: str) -> None:
    bench = Bench(platform, "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=message):
        bench.run((start, end))
