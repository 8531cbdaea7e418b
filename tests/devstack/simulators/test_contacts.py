"""The CXone simulator's contacts over REST, its scopes and limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.devstack.simulators.support import SHIPPED, Receiver, Simulator, cxone_target, simulator
from tests.truth.trace_rows import call, clock, write_trace

REST = "/inContactAPI/services/v30.0"
COMPLETED = f"{REST}/contacts/completed"
STATES = f"{REST}/contacts/state-history"
AGENTS = f"{REST}/agents/state-history"
WEBHOOKS = "/ic3api/v2/integrations/webhooks"


def get(sim: Simulator, path: str, **params: Any) -> httpx.Response:
    return sim.http.get(path, params=params, headers=sim.bearer())


def read(sim: Simulator, path: str, name: str, **params: Any) -> list[dict[str, Any]]:
    """All pages, as `until` of the first one's lastPollTime keeps them."""
    rows: list[dict[str, Any]] = []
    while (answer := get(sim, path, skip=len(rows), **params)).status_code == 200:
        document = answer.json()
        rows += document[name]
        params["until"] = document["lastPollTime"]
    assert answer.status_code == 204
    return rows


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text), "whole seconds"
    return round(datetime.fromisoformat(text).timestamp())


ROWS = [
    call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", customer_id="77", line="AA0201"),
    call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", server="NO_SERVER", line="AA0202"),
    call(exit_at="10:06:00", ivr=10, outcome="HANG", call_id="3", server="NO_SERVER", line="AA0202"),
]


@pytest.fixture
def sim(tmp_path: Path, receiver: Receiver) -> Iterator[Simulator]:
    trace = write_trace(tmp_path / "trace.tsv", ROWS)
    with simulator("cxone", tmp_path, trace, *cxone_target(receiver)) as made:
        yield made


def test_completed_contacts(sim: Simulator) -> None:
    assert get(sim, COMPLETED).status_code == 204, "nothing before the start"
    sim.start()
    sim.wait_done()
    answer = get(sim, COMPLETED).json()
    assert (answer["lastPollTime"], answer["totalRecords"]) == ("1999-01-05T10:06:01Z", 3)
    answered, abandoned, never_queued = answer["completedContacts"]
    acw = "ACWSeconds" if "ACWSeconds" in answered else "acwSeconds"
    assert answered == {
        "contactId": "AA0201-19990105-1", "masterContactId": "AA0201-19990105-1",
        "contactStartDate": "1999-01-05T09:59:50Z", "skillId": "PS", "agentId": "ANAT", "inQueueSeconds": 17,
        "agentSeconds": 54, "holdSeconds": 0, acw: 0, "abandoned": False, "totalDurationSeconds": 81,
        "mediaTypeName": "Call", "isOutbound": False, "fromAddress": "77", "toAddress": "AA0201",
        "endReason": "Contact Ended",
    }  # fmt: skip
    assert (abandoned["abandoned"], abandoned["inQueueSeconds"], abandoned["skillId"]) == (True, 30, "PS")
    assert not {"agentId"} & set(abandoned)
    assert (never_queued["abandoned"], never_queued["inQueueSeconds"]) == (True, 0)
    assert not {"agentId", "skillId"} & set(never_queued)


def test_the_window_goes_by_the_end(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()

    def ended(since: str, until: str) -> list[str]:
        params = {"updatedSince": f"1999-01-05T{since}Z", "until": f"1999-01-05T{until}Z"}
        return [row["contactId"][-1] for row in read(sim, COMPLETED, "completedContacts", **params)]

    assert ended("09:00:00", "10:01:11") == [], "half-open"
    assert ended("10:01:11", "10:05:30.900") == ["1"], "cut to the second"
    assert ended("10:01:11", "10:05:31") == ["1", "2"]
    assert ended("10:01:12", "11:00:00") == ["2", "3"]
    assert get(sim, COMPLETED, until="1999-01-05T10:05:30.900Z").json()["lastPollTime"] == "1999-01-05T10:05:30Z"


def test_fields_choose_the_columns(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()
    rows = get(sim, COMPLETED, fields="contactId, acwSeconds").json()["completedContacts"]
    assert all(sorted(map(str.lower, row)) == ["acwseconds", "contactid"] for row in rows)


def test_states_of_a_contact(sim: Simulator) -> None:
    sim.start()
    sim.wait_done()
    rows = read(sim, STATES, "contactStates")
    assert [(row["contactId"][-1], row["contactStateName"], row["stateStartDate"][11:]) for row in rows] == [
        ("1", "PreQueue", "09:59:50Z"),
        ("1", "InQueue", "10:00:00Z"),
        ("1", "Active", "10:00:17Z"),
        ("1", "EndContact", "10:01:11Z"),
        ("2", "PreQueue", "10:04:50Z"),
        ("2", "InQueue", "10:05:00Z"),
        ("2", "EndContact", "10:05:30Z"),
        ("3", "PreQueue", "10:05:50Z"),
        ("3", "EndContact", "10:06:00Z"),
    ]
    assert [("skillId" in row, "agentId" in row) for row in rows[:4]] == [
        (False, False),
        (True, False),
        (True, True),
        (True, True),
    ]
    assert "skillId" not in rows[-1]
    one = read(sim, STATES, "contactStates", updatedSince="1999-01-05T10:00:17Z", until="1999-01-05T10:01:11Z")
    assert [row["contactStateName"] for row in one] == ["Active"]


def test_rest_tells_the_truth_though_every_webhook_is_lost(tmp_path: Path, receiver: Receiver) -> None:
    with simulator("cxone", tmp_path, SHIPPED, *cxone_target(receiver)) as sim:
        sim.misbehave(drop=1)
        sim.start()
        status = sim.wait_done()
        contacts = read(sim, COMPLETED, "completedContacts", top=100)
        states = read(sim, STATES, "contactStates", top=1000)
    assert not receiver.requests
    expected = status["expected"]
    assert len(contacts) == len({row["contactId"] for row in contacts}) == expected["conversation.ended"]
    assert sum(row["abandoned"] and "skillId" in row for row in contacts) == expected["conversation.abandoned"]
    assert sum("agentId" in row for row in contacts) == expected["conversation.handled"]
    names = [row["contactStateName"] for row in states]
    assert names.count("PreQueue") == expected["conversation.started"]
    assert names.count("InQueue") == expected["conversation.queued"]
    assert names.count("Active") == expected["conversation.assigned"]
    assert names.count("EndContact") == expected["conversation.ended"]
    spellings = {"ACWSeconds" in row for row in contacts}
    assert spellings == {True, False}, "the vendor spells it either way"


def test_skew_moves_times_by_no_more_and_always_the_same(tmp_path: Path, receiver: Receiver) -> None:
    rows = [
        call(exit_at=clock(36_000 + 9 * n), ivr=10, wait=1 + n % 3, talk=30, call_id=str(n), line="AA0201")
        for n in range(100)
    ]
    trace = write_trace(tmp_path / "trace.tsv", rows)
    runs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
    for skew in (0, 2, 2):
        with simulator("cxone", tmp_path, trace, *cxone_target(receiver), "--skew-seconds", skew) as sim:
            sim.misbehave(drop=1)
            sim.start()
            sim.wait_done()
            runs.append((read(sim, COMPLETED, "completedContacts"), read(sim, STATES, "contactStates")))
    truth, skewed, again = runs
    assert skewed == again
    off: dict[str, set[int]] = {"start": set(), "state": set(), "queue": set(), "talk": set()}
    for right, told in zip(truth[0], skewed[0], strict=True):
        assert right["contactId"] == told["contactId"], "windows and order go by the truth"
        off["start"].add(seconds(told["contactStartDate"]) - seconds(right["contactStartDate"]))
        off["queue"].add(told["inQueueSeconds"] - right["inQueueSeconds"])
        off["talk"].add(told["agentSeconds"] - right["agentSeconds"])
        assert told["inQueueSeconds"] >= 0
        assert told["holdSeconds"] == 0, "what never was has no length"
    for right, told in zip(truth[1], skewed[1], strict=True):
        assert (right["contactId"], right["contactStateName"]) == (told["contactId"], told["contactStateName"])
        off["state"].add(seconds(told["stateStartDate"]) - seconds(right["stateStartDate"]))
    assert off["start"] == off["state"] == off["talk"] == {-2, -1, 0, 1, 2}
    assert off["queue"] <= {-2, -1, 0, 1, 2}


def test_pages_of_a_stable_snapshot_while_the_clock_runs(tmp_path: Path, receiver: Receiver) -> None:
    arguments = (*cxone_target(receiver), "--rest-per-minute", 1_000_000)
    with simulator("cxone", tmp_path, SHIPPED, *arguments) as sim:
        sim.start(speed=30_000)
        rows: list[dict[str, Any]] = []
        since, windows = "1999-01-01T00:00:00Z", 0
        while True:
            state = sim.status()["state"]
            first = get(sim, COMPLETED, updatedSince=since, top=20)
            if first.status_code == 200:
                until = first.json()["lastPollTime"]
                window = read(sim, COMPLETED, "completedContacts", updatedSince=since, until=until, top=20)
                assert len(window) == first.json()["totalRecords"]
                rows += window
                since, windows = until, windows + 1
            if state == "done":
                break
        expected = sim.status()["expected"]["conversation.ended"]
    assert windows > 3
    assert len(rows) == len({row["contactId"] for row in rows}) == expected


def test_pages_that_change_while_they_are_read(tmp_path: Path, receiver: Receiver) -> None:
    rows = [call(exit_at=clock(36_000 + n), ivr=10, talk=10, call_id=str(n), line="AA0201") for n in range(40)]
    trace = write_trace(tmp_path / "trace.tsv", rows)
    with simulator("cxone", tmp_path, trace, *cxone_target(receiver)) as sim:
        sim.start()
        sim.wait_done()
        truth = {row["contactId"] for row in read(sim, COMPLETED, "completedContacts", top=8)}
        assert len(truth) == 40
        sim.misbehave(pages="shuffle")
        once = {row["contactId"] for row in read(sim, COMPLETED, "completedContacts", top=8)}
        assert len(once) < 40
        union = set(once)
        for _ in range(20):
            union |= {row["contactId"] for row in read(sim, COMPLETED, "completedContacts", top=8)}
        assert union == truth, "who reads again finds it"


def test_wrong_requests(sim: Simulator) -> None:
    for path in (COMPLETED, STATES):
        for name, value in (
            ("updatedSince", "yesterday"),
            ("until", "2023-08-29T00:00:00"),
            ("skip", "-1"),
            ("top", "10001"),
        ):
            answer = get(sim, path, **{name: value})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad.request"), (path, name)


def test_the_rate_limit_does_not_say_when_to_come_again(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", ROWS)
    with simulator("cxone", tmp_path, trace, "--rest-per-minute", 3) as sim:
        answers = [get(sim, path) for path in (COMPLETED, STATES, AGENTS, COMPLETED)]
        assert [answer.status_code for answer in answers] == [204, 204, 204, 429]
        assert answers[-1].json()["code"] == "too.many.requests"
        assert "Retry-After" not in answers[-1].headers
        assert sim.http.get(WEBHOOKS, headers=sim.bearer()).status_code == 200


def test_scopes(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.tsv", ROWS)
    asked = [
        ("GET", COMPLETED, "event:read"),
        ("GET", STATES, "event:read"),
        ("GET", AGENTS, "event:read"),
        ("GET", WEBHOOKS, "webhook:manage"),
        ("POST", WEBHOOKS, "webhook:manage"),
    ]
    for lacking, has in (("event:read", "webhook:manage"), ("webhook:manage", "event:read")):
        with simulator("cxone", tmp_path, trace, "--scopes", has) as sim:
            headers = sim.bearer()  # all that the client has
            for method, path, scope in asked:
                answer = sim.http.request(method, path, headers=headers)
                if scope == lacking:
                    assert (answer.status_code, answer.json()["code"]) == (403, "missing.permissions"), path
                    assert scope in answer.json()["message"]
                else:
                    assert answer.status_code != 403
                assert sim.http.request(method, path).status_code == 401
