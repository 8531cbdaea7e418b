"""The Genesys simulator's REST queries against what its stream says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.simulators.agents import StatusChange, status_changes
from devstack.simulators.clock import ReplayClock
from devstack.simulators.details import conversation
from devstack.simulators.misbehaviour import Misbehaviour
from devstack.simulators.queries import Pages
from devstack.simulators.trace import read_trace
from devstack.simulators.users import Users
from tests.devstack.simulators.support import SHIPPED, Simulator, simulator, sse
from tests.truth.trace_rows import call, clock, write_trace

CONVERSATIONS = "/api/v2/analytics/conversations/details/query"
STATUSES = "/api/v2/analytics/users/details/query"
DAY = "1999-01-05T00:00:00Z/1999-01-06T00:00:00Z"


def query(sim: Simulator, interval: str = DAY, *, path: str = CONVERSATIONS, **more: Any) -> httpx.Response:
    return sim.http.post(path, json={"interval": interval, **more}, headers=sim.bearer())


def found(sim: Simulator, interval: str = DAY, **more: Any) -> list[str]:
    """The last part of the conversation ids, which is the call's id."""
    answer = query(sim, interval, **more).raise_for_status().json()
    return [each["conversationId"].rpartition("-")[2] for each in answer.get("conversations", [])]


def ms(text: str) -> int:
    assert text.endswith("Z")
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Simulator]:
    """Answered 10:00:00 to 10:01:11, abandoned 10:05:00 to 10:05:30, never queued, and one of the next day."""
    rows = [
        call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", customer_id="77"),
        call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", server="NO_SERVER"),
        call(exit_at="10:06:00", ivr=10, outcome="HANG", call_id="3", server="NO_SERVER"),
        call(exit_at="9:00:00", talk=60, call_id="4", date="990106"),
    ]
    with simulator("genesys", tmp_path, write_trace(tmp_path / "trace.tsv", rows), "--date-shift-days", 0) as made:
        yield made


def test_an_answered_conversation(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()
    answer = query(sim, paging={"pageSize": 1, "pageNumber": 1}).json()
    (told,) = answer["conversations"]
    assert answer["totalHits"] == 3
    customer, acd, agent = told.pop("participants")
    assert told == {
        "conversationId": "AA0101-19990105-1", "conversationStart": "1999-01-05T09:59:50.000Z",
        "conversationEnd": "1999-01-05T10:01:11.000Z", "originatingDirection": "inbound",
        "divisionIds": told["divisionIds"],
    }  # fmt: skip
    assert [each["purpose"] for each in (customer, acd, agent)] == ["customer", "acd", "agent"]
    assert agent["userId"] == "ANAT"
    for each in (customer, acd, agent):
        (session,) = each["sessions"]
        assert (session["mediaType"], session["direction"]) == ("voice", "inbound")
        assert (session["ani"], session["dnis"]) == ("tel:77", "tel:AA0101")
    assert customer["sessions"][0]["segments"] == [
        {
            "segmentType": "interact", "segmentStart": "1999-01-05T09:59:50.000Z",
            "segmentEnd": "1999-01-05T10:01:11.000Z", "disconnectType": "peer", "conference": False,
        },
    ]  # fmt: skip
    assert acd["sessions"][0]["segments"] == [
        {
            "segmentType": "interact", "segmentStart": "1999-01-05T10:00:00.000Z",
            "segmentEnd": "1999-01-05T10:00:17.000Z", "disconnectType": "transfer", "queueId": "PS",
        },
    ]  # fmt: skip
    assert agent["sessions"][0]["segments"] == [
        {
            "segmentType": "interact", "segmentStart": "1999-01-05T10:00:17.000Z",
            "segmentEnd": "1999-01-05T10:01:11.000Z", "disconnectType": "peer", "queueId": "PS",
        },
    ]  # fmt: skip
    assert "metrics" not in customer["sessions"][0]
    assert acd["sessions"][0]["metrics"] == [{"name": "tAcd", "emitDate": "1999-01-05T10:00:17.000Z", "value": 17_000}]
    assert [(each["name"], each["value"]) for each in agent["sessions"][0]["metrics"]] == [
        ("tTalk", 54_000),
        ("tHandle", 54_000),
    ]


def test_an_abandoned_and_a_never_queued_conversation(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()
    _, abandoned, never_queued = query(sim).json()["conversations"]
    customer, acd = abandoned["participants"]
    assert customer["sessions"][0]["segments"][0]["disconnectType"] == "client"
    assert acd["sessions"][0]["segments"][0]["disconnectType"] == "client"
    assert [(each["name"], each["value"]) for each in acd["sessions"][0]["metrics"]] == [
        ("tAcd", 30_000),
        ("tAbandon", 30_000),
    ]
    assert [each["purpose"] for each in never_queued["participants"]] == ["customer"]


def test_the_days_that_the_interval_touches(sim: Simulator) -> None:
    assert query(sim).json() == {"totalHits": 0}, "nothing has happened before the start"
    sim.start()
    sim.wait_done()
    assert found(sim) == ["1", "2", "3"]
    assert found(sim, "1999-01-05T20:00:00Z/1999-01-06T00:00:00Z") == ["1", "2", "3"], "the day, not the hours"
    assert found(sim, "1999-01-05T20:00:00Z/1999-01-06T10:00:00Z") == ["1", "2", "3", "4"]
    assert found(sim, "1999-01-06T00:00:00Z/1999-01-06T10:00:00Z") == ["4"]
    assert found(sim, "1999-01-05T00:00:00Z/1999-01-05T10:04:50Z") == ["1"], "half-open: began before the end"
    assert found(sim, "1999-01-04T00:00:00Z/1999-01-05T00:00:00Z") == []
    assert found(sim, order="desc") == ["3", "2", "1"]
    assert found(sim, "1999-01-05T12:00:00+02:00/1999-01-05T12:05:00+02:00") == ["1", "2"]


def test_filters_by_the_end(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()

    def ended(value: str) -> list[dict[str, Any]]:
        end: dict[str, str] = {"type": "dimension", "dimension": "conversationEnd"}
        predicates = [end | {"operator": "matches", "value": value}, end | {"operator": "notExists"}]
        return [{"type": "or", "predicates": predicates}]

    first = ended("1999-01-05T10:00:00Z/1999-01-05T10:05:30Z")
    assert found(sim, conversationFilters=first) == ["1"], "half-open"
    both = ended("1999-01-05T10:01:11Z/1999-01-05T10:05:31Z")
    assert found(sim, conversationFilters=both) == ["1", "2"]


def test_pages(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()

    def page(number: int) -> dict[str, Any]:
        answer: dict[str, Any] = query(sim, paging={"pageSize": 2, "pageNumber": number}).json()
        return answer

    assert [len(page(number).get("conversations", [])) for number in (1, 2)] == [2, 1]
    assert page(3) == {"totalHits": 3}, "beyond the end there are no rows at all"


def test_only_what_has_happened_is_told(tmp_path: Path) -> None:
    rows = [call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1")]
    (one,) = read_trace(write_trace(tmp_path / "trace.tsv", rows), ivr="AA01")

    def told(after_s: float) -> tuple[list[str], bool, list[bool], list[bool]]:
        made = conversation(one, one.started_ms + round(after_s * 1000))
        sessions = [each["sessions"][0] for each in made["participants"]]
        return (
            [each["purpose"] for each in made["participants"]],
            "conversationEnd" in made,
            ["segmentEnd" in session["segments"][0] for session in sessions],
            ["metrics" in session for session in sessions],
        )

    assert told(0.001) == (["customer"], False, [False], [False])
    assert told(10) == (["customer"], False, [False], [False])
    assert told(10.001) == (["customer", "acd"], False, [False, False], [False, False])
    everybody = ["customer", "acd", "agent"]
    assert told(27.001) == (everybody, False, [False, True, False], [False, True, False])
    assert told(81) == (everybody, False, [False, True, False], [False, True, False])
    assert told(81.001) == (everybody, True, [True, True, True], [False, True, True])


def test_open_conversations_while_the_clock_runs(tmp_path: Path) -> None:
    """One call a second of the simulated day, each 1,000 s long: some are open at any time."""
    rows = [call(exit_at=clock(36_000 + n), ivr=10, talk=1000, call_id=str(n)) for n in range(4000)]
    not_over = {"type": "or", "predicates": [_predicate("notExists")]}
    trace = write_trace(tmp_path / "trace.tsv", rows)
    with simulator("genesys", tmp_path, trace, "--rest-per-minute", 1_000_000) as sim:
        sim.start(speed=20_000)
        seen = 0
        while sim.status()["state"] != "done":
            answer = query(sim, conversationFilters=[not_over]).json()
            for each in answer.get("conversations", []):
                assert "conversationEnd" not in each
            seen += answer["totalHits"]
        assert seen
        assert found(sim, conversationFilters=[not_over]) == []


def _predicate(operator: str, **more: str) -> dict[str, str]:
    return {"type": "dimension", "dimension": "conversationEnd", "operator": operator, **more}


def test_the_shipped_day_is_the_same_by_rest_as_on_the_stream(tmp_path: Path) -> None:
    """Each conversation event of the stream can be told from REST, with its ids, times and durations."""
    with simulator("genesys", tmp_path, SHIPPED) as sim:
        sim.misbehave(drop=0.5, kinds=["customer.start", "acd.end"])  # what REST must not care about
        sim.start()
        status = sim.wait_done()
        streamed = [json.loads(data) for data in sse(sim, status["sent_native"])]
        by_id: dict[str, dict[str, Any]] = {}
        number = 0
        while True:
            number += 1
            body = {"paging": {"pageSize": 100, "pageNumber": number}}
            answer = query(sim, "1999-01-06T00:00:00Z/1999-01-07T00:00:00Z", **body).json()
            if "conversations" not in answer:
                break
            by_id |= {each["conversationId"]: each for each in answer["conversations"]}
        assert len(by_id) == answer["totalHits"] == status["expected"]["conversation.started"]
    seen: dict[str, int] = defaultdict(int)
    for message in streamed:
        body, kind = message["eventBody"], ".".join(message["topicName"].split(".")[-2:])
        if "conversationId" not in body:
            continue
        seen[kind] += 1
        parts = {each["purpose"]: each for each in by_id[body["conversationId"]]["participants"]}
        role, _, which = kind.partition(".")
        part = parts["agent" if role == "user" else role]
        (session,) = part["sessions"]
        (segment,) = session["segments"]
        assert (part["participantId"], session["sessionId"]) == (body["participantId"], body["sessionId"])
        assert ms(segment["segmentStart" if which == "start" else "segmentEnd"]) == body["eventTime"]
        metrics = {each["name"]: each["value"] for each in session.get("metrics", [])}
        assert (session["ani"], session["dnis"]) == (body["ani"], body["dnis"])
        if role != "customer":
            assert segment["queueId"] == body["queueId"]
        if kind == "acd.end":
            assert metrics["tAcd"] == body["connectedDurationMs"]
            assert (segment["disconnectType"] == "transfer") == (body["acdOutcome"] == "ANSWERED")
            if body["acdOutcome"] == "ANSWERED":
                assert parts["agent"]["userId"] == body["answeredUserId"]
        if kind == "user.end":
            assert metrics["tTalk"] == body["interactingDurationMs"]
        if which == "end" and role != "acd":
            assert segment["disconnectType"].upper() == body["disconnectType"]
    assert {"customer.start", "customer.end", "acd.start", "acd.end", "user.start", "user.end"} == set(seen)


def test_wrong_queries(sim: Simulator) -> None:
    for wrong in (
        {"interval": "1999-01-05T00:00:00Z"},
        {"interval": "1999-01-05/1999-01-06"},
        {"interval": "1999-01-06T00:00:00Z/1999-01-05T00:00:00Z"},
        {"interval": "1999-01-01T00:00:00Z/1999-02-01T00:00:01Z"},
        {"paging": {"pageSize": 101, "pageNumber": 1}},
        {"paging": {"pageSize": 1, "pageNumber": 0}},
        {"order": "down"},
        {"conversationFilters": [{"type": "and", "predicates": [_predicate("notExists")]}]},
        {"conversationFilters": [{"type": "or", "predicates": [_predicate("matches")]}]},
        {"conversationFilters": [{"type": "or", "predicates": []}]},
        {"segmentFilters": []},
    ):
        answer = sim.http.post(CONVERSATIONS, json={"interval": DAY} | wrong, headers=sim.bearer())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad.request"), wrong
    month = query(sim, "1999-01-01T00:00:00Z/1999-02-01T00:00:00Z")
    assert month.status_code == 200, "31 days"


def test_statuses_are_those_of_the_stream(tmp_path: Path) -> None:
    with simulator("genesys", tmp_path, SHIPPED) as sim:
        sim.start()
        status = sim.wait_done()
        streamed = {
            (body["id"], body["routingStatus"]["startTime"], body["routingStatus"]["status"])
            for body in (json.loads(data)["eventBody"] for data in sse(sim, status["total_native"]))
            if "routingStatus" in body
        }
        answer = query(sim, "1999-01-06T00:00:00Z/1999-01-07T01:00:00Z", path=STATUSES, paging={"pageSize": 100})
        users = answer.json()["userDetails"]
        listed = sim.http.get("/api/v2/users", params={"pageSize": 5, "pageNumber": 2}, headers=sim.bearer()).json()
    told = {
        (user["userId"], each["startTime"], each["routingStatus"]) for user in users for each in user["routingStatus"]
    }
    assert told == streamed
    assert len(told) == status["expected"]["agent.status_changed"]
    for user in users:
        *over, last = user["routingStatus"]
        starts = [each["startTime"] for each in user["routingStatus"]]
        assert [each["endTime"] for each in over] == starts[1:]
        assert "endTime" not in last
    ids = sorted(user["userId"] for user in users)
    assert listed["entities"] == [{"id": user, "name": user} for user in ids[5:10]]
    assert (listed["total"], listed["pageNumber"], listed["pageCount"]) == (len(ids), 2, -(-len(ids) // 5))


def test_statuses_that_overlap_the_interval(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()

    def told(interval: str) -> list[tuple[str, str]]:
        answer = query(sim, interval, path=STATUSES).json()
        return [
            (each["startTime"][8:19], each["routingStatus"])
            for user in answer.get("userDetails", [])
            for each in user["routingStatus"]
        ]

    assert told("1999-01-05T10:00:17Z/1999-01-05T10:01:11Z") == [("05T10:00:17", "INTERACTING")]
    assert told("1999-01-05T10:01:00Z/1999-01-06T00:00:00Z") == [
        ("05T10:00:17", "INTERACTING"),
        ("05T10:01:11", "OFF_QUEUE"),
    ]
    assert told("1999-01-06T00:00:00Z/1999-01-06T00:00:01Z") == [("06T00:00:00", "OFF_QUEUE")], "told anew"
    assert told("1999-01-04T00:00:00Z/1999-01-05T00:00:00Z") == []
    beyond = query(sim, path=STATUSES, paging={"pageSize": 10, "pageNumber": 2}).json()
    assert beyond == {"totalHits": 1}


def test_a_status_not_yet_over_has_no_end(tmp_path: Path) -> None:
    rows = [call(exit_at="10:00:00", talk=60)]
    changes = status_changes(read_trace(write_trace(tmp_path / "trace.tsv", rows), ivr="AA01"))
    midnight, begun, over = (change.at_ms for change in changes)
    sim_clock = ReplayClock(midnight, over + 1000)
    users = Users(changes, sim_clock, Pages(Misbehaviour()))
    sim_clock.start(0)
    sim_clock.advance(begun + 1)
    rows_now = users._rows("ANAT", (midnight, over + 1000), sim_clock.now_ms())
    assert [(each["routingStatus"], "endTime" in each) for each in rows_now] == [
        ("OFF_QUEUE", True),
        ("INTERACTING", False),
    ]
    assert isinstance(changes[0], StatusChange)
    assert datetime.fromtimestamp(begun / 1000, UTC).hour == 10


def test_pages_that_change_while_they_are_read(tmp_path: Path) -> None:
    rows = [call(exit_at=clock(36_000 + n), ivr=10, talk=10, call_id=str(n)) for n in range(40)]
    with simulator("genesys", tmp_path, write_trace(tmp_path / "trace.tsv", rows)) as sim:
        sim.start()
        sim.wait_done()

        def read() -> tuple[list[str], set[int]]:
            ids: list[str] = []
            totals = set()
            for number in range(1, 9):
                answer = query(sim, paging={"pageSize": 5, "pageNumber": number}).json()
                ids += [each["conversationId"] for each in answer.get("conversations", [])]
                totals.add(answer["totalHits"])
            return ids, totals

        truth, totals = read()
        assert (len(set(truth)), totals) == (40, {40})
        sim.misbehave(pages="shuffle")
        once, totals = read()
        assert len(set(once)) < 40, "a row that moved to a page already read is missed"
        assert totals == {39, 40}
        union = set(once)
        for _ in range(20):
            union |= set(read()[0])
        assert union == set(truth), "who reads again finds it"
        sim.misbehave(pages="steady")
        assert read() == (truth, {40})


def test_the_rate_limit_says_when_to_come_again(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    with simulator("genesys", tmp_path, trace, "--rest-per-minute", 3) as sim:
        headers = sim.bearer()
        paths = (CONVERSATIONS, STATUSES, CONVERSATIONS, STATUSES)
        answers = [sim.http.post(path, json={"interval": DAY}, headers=headers) for path in paths]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json()["code"] == "too.many.requests"
        assert 50 < int(answers[-1].headers["Retry-After"]) <= 60
        assert sim.http.get("/api/v2/users", headers=headers).status_code == 200, "analytics only"
        assert sim.status()["refused"] == {"429": 1}


def test_scopes(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", [call()])
    asked = [
        ("GET", "/stream", "streaming:read"),
        ("POST", CONVERSATIONS, "conversation:view"),
        ("POST", STATUSES, "conversation:view"),
        ("GET", "/api/v2/users", "conversation:view"),
        ("POST", "/api/v2/notifications/channels", "integration:write"),
        ("DELETE", "/api/v2/notifications/channels/x", "integration:write"),
        ("PUT", "/api/v2/notifications/channels/x/subscriptions", "integration:write"),
        ("POST", "/api/v2/notifications/channels/x/subscriptions", "integration:write"),
    ]
    scopes = {scope for _, _, scope in asked}
    for lacking in sorted(scopes):
        with simulator("genesys", tmp_path, trace, "--scopes", " ".join(scopes - {lacking})) as sim:
            headers = sim.bearer()  # all that the client has
            for method, path, scope in asked:
                if scope == lacking:
                    answer = sim.http.request(method, path, headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (403, "missing.permissions"), path
                    assert scope in answer.json()["message"]
                elif path != "/stream":
                    assert sim.http.request(method, path, headers=headers).status_code != 403
                assert sim.http.request(method, path).status_code == 401
