"""A CRM that fails, loses answers, refuses, stalls or talks nonsense."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import MutableMapping
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from schemas.canonical import EventType
from streaming.crm.fold import Change
from tests.conftest import Platform
from tests.kafka import read_all
from tests.streaming.crm.support import Crm, CrmPath


def events_of(logs: list[MutableMapping[str, Any]]) -> set[str]:
    return {line["event"] for line in logs}


@pytest.mark.parametrize(
    "orders",
    [{"fail_before": 0.05, "garbage": 0.05, "error_body": 0.05}, {"fail_after": 0.1, "retry_after": "0"}],
    ids=["without effect", "answers lost"],
)
def test_calls_that_fail_are_made_again(path: CrmPath, orders: dict[str, Any]) -> None:
    path.crm.misbehave(seed=7, **orders)
    path.send(*path.lives(150))
    with path.member():
        path.wait_until_read()
    path.assert_exactly_once()
    asked = path.crm.asked()
    assert max(asked.values()) > 1, "some failed"
    assert path.letters() == []


def test_what_the_crm_refuses_is_a_dead_letter_and_the_rest_goes_on(path: CrmPath) -> None:
    events = path.lives(50)
    refused = events[::10]
    path.crm.misbehave(refuse=[event["event_id"] for event in refused])
    path.send(*events)
    with path.member():
        path.wait_until_read()
    path.assert_exactly_once(refused=[event["event_id"] for event in refused])
    letters = path.letters()
    assert [letter["ccaas.error.reason"] for letter in letters] == [b"crm_422"] * len(refused)
    assert {letter["__connect.errors.stage"] for letter in letters} == {b"crm-sync"}
    assert {letter["__connect.errors.topic"] for letter in letters} == {path.tenant.events_topic.encode()}
    origins = {(letter["__connect.errors.partition"], letter["__connect.errors.offset"]) for letter in letters}
    assert len(origins) == len(refused)
    with sqlite3.connect(path.platform.folder / "state.db") as state:
        told = state.execute("SELECT tenant_id, what FROM drift WHERE kind = 'failure'").fetchall()
    assert set(told) == {(path.tenant.tenant_id, "crm-sync crm_422")}


def test_a_dead_letter_topic_that_goes_away_meanwhile_is_made_again(path: CrmPath) -> None:
    admin = AdminClient(path.settings.kafka.client_config())
    topic = path.tenant.dlq_topic
    refused = [path.event(EventType.STARTED, number)["event_id"] for number in range(2)]
    path.crm.misbehave(refuse=refused)
    path.send(path.event(EventType.STARTED, 0))
    with path.member():
        path.wait_until_read()
        admin.delete_topics([topic])[topic].result(30)
        path.until(lambda: topic not in admin.list_topics(timeout=30).topics, 30, "it is gone")
        path.send(path.event(EventType.STARTED, 1), path.event(EventType.STARTED, 2))
        path.wait_until_read(90)
    (letter,) = read_all(path.platform, topic)
    assert (letter.key() or b"").decode() == refused[1]
    assert path.crm.keys() == {path.sent[2]["event_id"]}


def test_a_stalled_crm_is_waited_for(platform: Platform, crm: Crm) -> None:
    path = CrmPath(platform, crm, timeout_seconds=0.7, deadline_seconds=1)
    path.crm.misbehave(stall=True)
    path.send(*path.lives(50))
    with closing(path), path.member() as logs:
        path.until(lambda: "events wait for the CRM" in events_of(logs), 60, "the member says so")
        assert path.lag() == len(path.sent)
        path.crm.misbehave(stall=False)
        path.wait_until_read()
    path.assert_exactly_once()
    assert path.letters() == []


def test_an_event_on_which_the_crm_always_fails_holds_up_its_partition_only(path: CrmPath) -> None:
    events = path.lives(60)
    poison = events[3]
    path.crm.misbehave(refuse=[poison["event_id"]], refuse_status=503)
    for place, event in enumerate(events):
        path.send(event, partition=0 if event is poison else place % 3)
    behind = [event for place, event in enumerate(events) if place % 3 == 0 and place > 3]
    with path.member() as logs:
        # Everything but the poison is told to the CRM; of its partition only what lies before it is committed.
        path.until(lambda: len(path.crm.keys()) == len(events) - 1, 60, "all others")
        path.until(lambda: path.lag() == 1 + len(behind), 60, "other partitions are committed")
        later = path.event(EventType.STARTED, 999)
        path.send(later, partition=1)
        path.until(lambda: {later["event_id"]} <= path.crm.keys(), 60, "others go on")
        assert "events wait for the CRM" in events_of(logs)
        path.crm.misbehave(refuse=[])
        path.wait_until_read(90)
    path.assert_exactly_once()
    assert path.letters() == []
    told = [path.crm.asked()[event["event_id"]] for event in behind]
    assert set(told) == {1}, "what the CRM had acknowledged was not told again although it was read again"


@pytest.mark.parametrize(("status", "setting"), [(401, "crm.token"), (302, "crm.url")])
def test_a_wrong_setting_is_told_and_no_event_pays_for_it(path: CrmPath, status: int, setting: str) -> None:
    path.crm.misbehave(statuses=[status] * 10_000)
    path.send(*path.lives(5))
    with path.member() as logs:
        path.until(lambda: "events wait for the CRM" in events_of(logs), 60, "the member says so")
        path.crm.misbehave(statuses=[])
        path.wait_until_read()
    said = next(line for line in logs if line["event"] == "events wait for the CRM")
    assert said["error"].startswith(f"the CRM answers {status}: mend {setting}")
    assert said["log_level"] == "error"
    assert "s3cret" not in str(logs)
    path.assert_exactly_once()
    assert path.letters() == []


def test_the_crm_may_be_killed_and_come_back(path: CrmPath) -> None:
    path.crm.misbehave(latency_ms=5)
    path.send(*path.lives(200))
    with path.member():
        path.until(lambda: len(path.crm.keys()) > 100, 60, "in the middle")
        path.crm.kill()
        path.crm.start()
        path.wait_until_read()
    path.assert_exactly_once()


def test_records_that_are_no_events(path: CrmPath) -> None:
    """Each becomes a dead letter with its bytes; old and far-off times are times."""
    old = {**path.event(EventType.QUEUED, 1, queue_id="q"), "timestamp": 0}
    far = {**path.event(EventType.STARTED, 2), "timestamp": 4_070_908_800_000}
    nobody = {**path.event(EventType.STARTED, 3), "payload": {}}
    odd = {**path.event(EventType.STARTED, 4), "event_id": "not\nfor a header"}
    unknown = {**path.event(EventType.STARTED, 5), "event_type": "conversation.renamed"}
    path.send_raw(None, b"tombstone")
    path.send_raw(b"\0\x00\x0f\xff\xffwhatever", b"unknown schema")
    path.send_raw(b"{}", b"json")
    path.send_raw(path.encode(nobody), b"nobody's")  # type: ignore[arg-type]  # a TypedDict, spread
    path.send_raw(path.encode(odd), b"odd key")  # type: ignore[arg-type]
    path.send(old, far, unknown)  # type: ignore[arg-type]
    with path.member():
        path.wait_until_read()
    path.assert_exactly_once()
    reasons = Counter(letter["ccaas.error.reason"] for letter in path.letters())
    assert reasons == {b"undecodable": 2, b"unknown_schema": 1, b"missing_field": 1, b"out_of_range": 1}
    states = {entity.id: fields for entity, fields in path.crm.states().items()}
    assert states["c-1"] == {"status": "queued", "queue_id": "q", "queued_at": "0"}
    assert states["c-2"]["started_at"] == "4070908800000"
    assert "c-5" not in states
    assert {Change.read(message.value() or b"").event_type for message in path.changes()} >= {"conversation.renamed"}
