"""The CXone simulator as a process: webhooks to a real receiver, REST over HTTP."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from schemas.normalise import normaliser
from tests.devstack.simulators.support import (
    SHIPPED,
    Received,
    Receiver,
    Simulator,
    command,
    cxone_target,
    number,
    simulator,
    unpad,
    until,
)
from tests.truth.trace_rows import call, clock, write_trace

WEBHOOKS = "/ic3api/v2/integrations/webhooks"
HISTORY = "/inContactAPI/services/v30.0/agents/state-history"
PATH = "/cxone/webhook/bank-south"


def registration(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {
        "name": "bus",
        "url": f"{receiver.url}{PATH}",
        "events": ["CALL_STARTED", "CALL_ENDED", "QUEUE_ENTERED", "AGENT_ASSIGNED"],
        "authentication": {"type": "bearer", "token": "hook-token"},
        "retryPolicy": {"maxRetries": 5, "backoffMs": 10},
    } | more


def register(sim: Simulator, receiver: Receiver, **more: Any) -> httpx.Response:
    return sim.http.post(WEBHOOKS, json=registration(receiver, **more), headers=sim.bearer())


@pytest.fixture
def small_trace(tmp_path: Path) -> Path:
    rows = [
        call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", customer_id="77", line="AA0201"),
        call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", server="NO_SERVER", line="AA0202"),
        call(exit_at="10:06:00", ivr=10, outcome="HANG", call_id="3", server="NO_SERVER", line="AA0202"),
    ]
    return write_trace(tmp_path / "trace.tsv", rows)


@pytest.fixture
def busy_trace(tmp_path: Path) -> Path:
    """200 answered calls: 800 webhooks."""
    rows = [call(exit_at=clock(36_000 + 9 * n), wait=1 + n % 20, talk=30, line="AA0201") for n in range(200)]
    return write_trace(tmp_path / "busy.tsv", rows)


@pytest.fixture
def sim(tmp_path: Path, small_trace: Path) -> Iterator[Simulator]:
    with simulator("cxone", tmp_path, small_trace) as made:
        yield made


def jws_is_good(request: Received, keys: dict[str, dict[str, str]]) -> bool:
    """RFC 7515 §5.2 with the payload of Appendix F, by the primitives alone."""
    encoded_header, payload, signature = request.headers["x-cxone-signature"].split(".")
    assert payload == ""
    header = json.loads(unpad(encoded_header))
    assert abs(header["iat"] - time.time()) < 60
    key = keys.get(header["kid"])
    if key is None:
        return False
    signed = f"{encoded_header}.{base64.urlsafe_b64encode(request.body).decode().rstrip('=')}".encode()
    raw = unpad(signature)
    try:
        if header["alg"] == "ES256":
            point = ec.EllipticCurvePublicNumbers(number(key["x"]), number(key["y"]), ec.SECP256R1()).public_key()
            der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            point.verify(der, signed, ec.ECDSA(hashes.SHA256()))
        else:
            modulus = rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
            modulus.verify(raw, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def published(sim: Simulator) -> dict[str, dict[str, str]]:
    keys = sim.http.get("/auth/jwks").json()["keys"]
    assert all("d" not in key for key in keys), "private keys are not published"
    return {key["kid"]: key for key in keys}


def test_the_shipped_day_is_delivered_whole_signed_and_becomes_what_is_expected(
    tmp_path: Path, receiver: Receiver
) -> None:
    with simulator("cxone", tmp_path, SHIPPED, *cxone_target(receiver)) as sim:
        keys = published(sim)
        sim.start()
        status = sim.wait_done(60)
        assert status["expected"] == status["sent"]
        assert status["expected"].items() >= {
            "conversation.abandoned": 30, "conversation.assigned": 671, "conversation.ended": 721,
            "conversation.handled": 671, "conversation.queued": 701, "conversation.started": 721,
        }.items()  # fmt: skip
        assert status["delivered"] == len(receiver.requests) == 721 + 701 + 671 + 721
        rows = sim.http.get(HISTORY, headers=sim.bearer()).json()["agentStates"]
    assert {request.path for request in receiver.requests} == {PATH}
    assert {request.headers["authorization"] for request in receiver.requests} == {"Bearer hook-token"}
    assert all(jws_is_good(request, keys) for request in receiver.requests)
    assert len({event["eventId"] for event in receiver.events}) == len(receiver.requests)
    documents = receiver.events + [row | {"eventType": "AGENT_STATE"} for row in rows]
    canonical = [made for document in documents for made in normaliser("cxone").normalise_document(document, "t")]
    assert Counter(made["event_type"] for made in canonical) == status["expected"]
    assert len({made["event_id"] for made in canonical}) == len(canonical)


def test_bodies_of_a_call(sim: Simulator, receiver: Receiver) -> None:
    assert register(sim, receiver).status_code == 201
    sim.start()
    sim.wait_done()
    by_call: dict[str, dict[str, dict[str, Any]]] = {}
    for event in receiver.events:
        by_call.setdefault(event["contactId"][-1], {})[event["eventType"]] = event
    answered, abandoned, never_queued = by_call["1"], by_call["2"], by_call["3"]
    common = {
        "contactId": "AA0201-19990105-1", "masterContactId": "AA0201-19990105-1", "mediaType": "Call",
        "isOutbound": False, "fromAddr": "77", "toAddr": "AA0201",
    }  # fmt: skip
    assert [event.pop("eventId") for event in answered.values()]
    assert answered == {
        "CALL_STARTED": common | {"eventType": "CALL_STARTED", "timestamp": "1999-01-05T09:59:50.000Z"},
        "QUEUE_ENTERED": common
        | {"eventType": "QUEUE_ENTERED", "timestamp": "1999-01-05T10:00:00.000Z", "skillId": "PS"},
        "AGENT_ASSIGNED": common
        | {
            "eventType": "AGENT_ASSIGNED", "timestamp": "1999-01-05T10:00:17.000Z", "skillId": "PS", "agentId": "ANAT",
        },
        "CALL_ENDED": common
        | {
            "eventType": "CALL_ENDED", "timestamp": "1999-01-05T10:01:11.000Z", "skillId": "PS", "agentId": "ANAT",
            "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 54, "holdSeconds": 0, "acwSeconds": 0,
            "totalDurationSeconds": 81, "endReason": "Contact Ended",
        },
    }  # fmt: skip
    ended = abandoned["CALL_ENDED"]
    assert sorted(abandoned) == ["CALL_ENDED", "CALL_STARTED", "QUEUE_ENTERED"]
    assert (ended["abandoned"], ended["inQueueSeconds"], ended["skillId"], "agentId" in ended) == (
        True,
        30,
        "PS",
        False,
    )
    ended = never_queued["CALL_ENDED"]
    assert sorted(never_queued) == ["CALL_ENDED", "CALL_STARTED"]
    assert (ended["abandoned"], ended["inQueueSeconds"], "skillId" in ended) == (True, 0, False)
    assert sim.status()["sent"]["conversation.abandoned"] == 1


def test_rs256(tmp_path: Path, small_trace: Path, receiver: Receiver) -> None:
    with simulator("cxone", tmp_path, small_trace, *cxone_target(receiver), "--algorithm", "RS256") as sim:
        keys = published(sim)
        assert {(key["kty"], key["alg"]) for key in keys.values()} == {("RSA", "RS256")}
        sim.start()
        sim.wait_done()
    assert len(receiver.requests) == 9
    assert all(jws_is_good(request, keys) for request in receiver.requests)


def test_hmac(tmp_path: Path, small_trace: Path, receiver: Receiver) -> None:
    arguments = (*cxone_target(receiver), "--signature", "hmac", "--hmac-secret", "shared")
    with simulator("cxone", tmp_path, small_trace, *arguments) as sim:
        sim.start()
        sim.wait_done()
        assert sim.http.get("/auth/jwks").json() == {"keys": []}
        assert sim.http.post("/control/misbehave", json={"rotate_keys": {}}).status_code == 400
    assert len(receiver.requests) == 9
    for request in receiver.requests:
        timestamp = request.headers["x-cxone-timestamp"]
        assert abs(int(timestamp) - time.time()) < 60
        expected = hmac.new(b"shared", timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
        assert request.headers["x-cxone-signature"] == f"sha256={expected}"


def test_registering_again_changes_and_does_not_double(sim: Simulator, receiver: Receiver) -> None:
    assert sim.http.post(WEBHOOKS, json=registration(receiver)).status_code == 401
    first = register(sim, receiver)
    again = register(sim, receiver, events=["CALL_STARTED"])
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["events"] == ["CALL_STARTED"]
    sim.start()
    status = sim.wait_done()
    assert {event["eventType"] for event in receiver.events} == {"CALL_STARTED"}
    assert len(receiver.events) == 3
    assert status["missing"]["conversation.ended"] == 3


def test_registrations_are_shown_without_their_tokens(sim: Simulator, receiver: Receiver) -> None:
    assert sim.http.get(WEBHOOKS, headers=sim.bearer()).json() == {"webhooks": []}
    made = register(sim, receiver).json()
    answer = sim.http.get(WEBHOOKS, headers=sim.bearer())
    assert answer.json() == {"webhooks": [made]}
    assert (made["name"], made["url"], made["events"]) == ("bus", f"{receiver.url}{PATH}", sorted(made["events"]))
    assert "hook-token" not in answer.text


def test_a_new_token_is_carried_by_what_is_sent_and_retried_from_then_on(sim: Simulator, receiver: Receiver) -> None:
    policy = {"maxRetries": 20, "backoffMs": 10}
    register(sim, receiver, events=["CALL_STARTED"], retryPolicy=policy)

    def answer(_: int) -> tuple[int, None]:
        return (200 if receiver.requests[-1].headers["authorization"] == "Bearer newer" else 500), None

    receiver.answer = answer
    sim.start()
    until(lambda: len(receiver.requests) >= 3)
    register(sim, receiver, authentication={"token": "newer"}, events=["CALL_STARTED"], retryPolicy=policy)
    status = sim.wait_done()
    assert (status["delivered"], status["given_up"]) == (3, 0)
    assert {request.headers["authorization"] for request in receiver.requests} == {
        "Bearer hook-token",
        "Bearer newer",
    }


def test_wrong_registrations(sim: Simulator, receiver: Receiver) -> None:
    wrongs: list[dict[str, Any]] = [
        {"name": ""},
        {"url": "ftp://x/"},
        {"url": "http://[::1/"},
        {"events": []},
        {"events": ["CALL_LOST"]},
        {"authentication": {"token": ""}},
        {"authentication": {"token": "two\nlines"}},
        {"retryPolicy": {"maxRetries": -1}},
    ]
    for wrong in wrongs:
        answer = register(sim, receiver, **wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad.request"), wrong
    refused = sim.http.post("/control/start")
    assert (refused.status_code, refused.json()["code"]) == (409, "not.ready")


def test_refused_deliveries_are_retried_as_the_receiver_asks(sim: Simulator, receiver: Receiver) -> None:
    register(sim, receiver, events=["CALL_STARTED"], retryPolicy={"maxRetries": 5, "backoffMs": 1})
    receiver.answer = lambda number: (503, "1") if number < 3 else (500, "60") if number < 6 else (200, None)
    sim.start()
    status = sim.wait_done()
    assert status["refused"] == {"503": 3, "500": 3}
    assert (status["retried"], status["delivered"], status["given_up"]) == (6, 3, 0)
    assert status["sent"]["conversation.started"] == 3
    assert receiver.requests[3].at - receiver.requests[0].at >= 0.9, "Retry-After of a 503 is waited for"
    assert receiver.requests[-1].at - receiver.requests[3].at < 5, "that of a 500 is not"
    assert len({request.headers["x-cxone-signature"] for request in receiver.requests}) == 9, "signed anew each time"


def test_backoff_doubles_and_ends_in_giving_up(sim: Simulator, receiver: Receiver) -> None:
    register(sim, receiver, events=["CALL_STARTED"], retryPolicy={"maxRetries": 3, "backoffMs": 50})
    receiver.answer = lambda _: (500, None)
    sim.start()
    status = sim.wait_done()
    assert (status["given_up"], status["retried"], status["refused"]) == (3, 9, {"500": 12})
    assert status["missing"]["conversation.started"] == 3
    assert "conversation.started" not in status["sent"]
    body = receiver.requests[0].body
    times = [request.at for request in receiver.requests if request.body == body]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= least for gap, least in zip(gaps, (0.045, 0.095, 0.195), strict=True))


def test_no_receiver_counts_as_a_refused_connection(tmp_path: Path, small_trace: Path, receiver: Receiver) -> None:
    with simulator("cxone", tmp_path, small_trace) as sim:
        url = "http://127.0.0.1:9/hook"
        register(sim, receiver, url=url, retryPolicy={"maxRetries": 1, "backoffMs": 1})
        sim.start()
        status = sim.wait_done()
    assert status["refused"] == {"connection": 18}
    assert (status["given_up"], status["delivered"]) == (9, 0)


def test_batches_are_arrays(tmp_path: Path, busy_trace: Path, receiver: Receiver) -> None:
    with simulator("cxone", tmp_path, busy_trace, *cxone_target(receiver)) as sim:
        keys = published(sim)
        sim.start(batch_ms=50)
        status = sim.wait_done()
    assert status["delivered"] == len({event["eventId"] for event in receiver.events}) == 800
    assert len(receiver.requests) < 60
    assert all(1 <= len(request.events) <= 100 for request in receiver.requests)
    assert all(jws_is_good(request, keys) for request in receiver.requests)
    assert status["sent"] == status["expected"]


def test_wrong_and_unknown_keys_hit_the_same_events_under_the_same_seed(
    tmp_path: Path, busy_trace: Path, receiver: Receiver
) -> None:
    bad: list[list[str]] = []
    for seed in (1, 1, 2):
        receiver.requests.clear()
        with simulator("cxone", tmp_path, busy_trace, *cxone_target(receiver)) as sim:
            keys = published(sim)
            sim.misbehave(wrong_key=0.1, unknown_key=0.1, seed=seed)
            sim.start(batch_ms=20)
            status = sim.wait_done()
        assert status["sent"] == status["expected"]
        refused = [request for request in receiver.requests if not jws_is_good(request, keys)]
        named = {json.loads(unpad(request.headers["x-cxone-signature"].split(".")[0]))["kid"] for request in refused}
        assert len(named - set(keys)) == 1
        assert len(named & set(keys)) == 1
        bad.append(sorted(event["eventId"] for request in refused for event in request.events))
        assert len(bad[-1]) == status["wrongly_signed"] > 100
    assert bad[0] == bad[1] != bad[2]


def test_keys_rotate_with_overlap(tmp_path: Path, small_trace: Path, receiver: Receiver) -> None:
    with simulator("cxone", tmp_path, small_trace, *cxone_target(receiver)) as sim:
        (old,) = published(sim)
        sim.misbehave(rotate_keys={"overlap_seconds": 0.5})
        both = list(published(sim))
        assert len(both) == 2
        assert both[1] == old
        sim.start()
        sim.wait_done()
        time.sleep(0.6)
        keys = published(sim)
        assert list(keys) == [both[0]]
    assert all(jws_is_good(request, keys) for request in receiver.requests)


def test_the_key_endpoint_misbehaves(sim: Simulator) -> None:
    (good,) = sim.http.get("/auth/jwks").json()["keys"]
    sim.misbehave(jwks="empty")
    assert sim.http.get("/auth/jwks").json() == {"keys": []}
    sim.misbehave(jwks="bad_algorithm")
    unknown, symmetric = sim.http.get("/auth/jwks").json()["keys"]
    assert unknown == good | {"alg": "XX999"}
    assert (symmetric["kty"], symmetric["kid"]) == ("oct", good["kid"])
    sim.misbehave(jwks="down")
    assert sim.http.get("/auth/jwks").status_code == 503
    sim.misbehave(jwks="good")
    assert sim.http.get("/auth/jwks").json() == {"keys": [good]}


@pytest.mark.parametrize("order", [{"disconnect": True}, {"forget_cursors": True}, {"garbage": 1}])
def test_orders_of_a_stream_are_refused(sim: Simulator, order: dict[str, Any]) -> None:
    answer = sim.http.post("/control/misbehave", json=order)
    assert (answer.status_code, answer.json()["code"]) == (400, "not.supported")


def test_dropped_doubled_and_changed_webhooks_but_no_touched_history(
    tmp_path: Path, busy_trace: Path, receiver: Receiver
) -> None:
    with simulator("cxone", tmp_path, busy_trace, *cxone_target(receiver)) as sim:
        sim.misbehave(drop=0.1, duplicate=0.1, fields={"share": 0.1, "remove": ["contactId"]})
        sim.start(batch_ms=20)
        status = sim.wait_done()
        total = sim.http.get(HISTORY, headers=sim.bearer()).json()["totalRecords"]
    ids = Counter(event["eventId"] for event in receiver.events)
    assert 40 < status["dropped"] == 800 - len(ids)
    assert 40 < status["duplicated"] == sum(count == 2 for count in ids.values())
    assert status["delivered"] == sum(ids.values())
    changed = {event["eventId"] for event in receiver.events if "contactId" not in event}
    assert len(changed) == status["changed"] > 40
    assert Counter(status["sent"]) + Counter(status["missing"]) == Counter(status["expected"])
    assert status["sent"]["agent.status_changed"] == status["expected"]["agent.status_changed"] == total


def test_state_history_pages_of_a_stable_snapshot(tmp_path: Path, receiver: Receiver) -> None:
    arguments = (*cxone_target(receiver), "--date-shift-days", 9000, "--rest-per-minute", 1_000_000)
    with simulator("cxone", tmp_path, SHIPPED, *arguments) as sim:
        headers = sim.bearer()
        assert sim.http.get(HISTORY).status_code == 401
        assert sim.http.get(HISTORY, headers=headers).status_code == 204, "nothing before the start"
        sim.start(speed=30_000)
        rows: list[dict[str, str]] = []
        since: str | None = None
        snapshots = 0
        while True:
            state = sim.status()["state"]
            params: dict[str, Any] = {"skip": 0, "top": 50} | ({"updatedSince": since} if since else {})
            snapshot: list[dict[str, str]] = []
            while (answer := sim.http.get(HISTORY, params=params, headers=headers)).status_code == 200:
                page = answer.json()
                snapshot += page["agentStates"]
                assert len(page["agentStates"]) == min(50, page["totalRecords"] - params["skip"])
                assert all((since or "") <= row["startDate"] < page["lastPollTime"] for row in page["agentStates"])
                assert params.get("until", page["lastPollTime"]) == page["lastPollTime"]
                params |= {"until": page["lastPollTime"], "skip": params["skip"] + 50}
            assert answer.status_code == 204
            if snapshot:
                assert len(snapshot) == page["totalRecords"]
                since = page["lastPollTime"]
                snapshots += 1
            rows += snapshot
            if state == "done":
                break
        expected = sim.status()["expected"]["agent.status_changed"]
    assert snapshots > 3
    assert len(rows) == len({(row["agentId"], row["startDate"]) for row in rows}) == expected
    assert {row["agentStateName"] for row in rows} == {"Unavailable", "Available", "InboundContact"}
    assert rows[0]["startDate"] == f"{date(1999, 1, 6) + timedelta(days=9000)}T00:00:00.000Z"
    assert [row["startDate"] for row in rows] == sorted(row["startDate"] for row in rows)


def test_wrong_state_history_requests(sim: Simulator) -> None:
    for name, value in (
        ("updatedSince", "yesterday"),
        ("updatedSince", "2023-08-29T00:00:00"),
        ("until", "2023-08-29"),
        ("skip", "-1"),
        ("skip", "x"),
        ("top", "0"),
        ("top", "10001"),
    ):
        answer = sim.http.get(HISTORY, params={name: value}, headers=sim.bearer())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad.request"), (name, value)


def test_the_api_refuses_on_request_and_counts_it_apart(sim: Simulator) -> None:
    headers = sim.bearer()
    sim.misbehave(refuse={"status": 500, "requests": 2, "path": "/inContactAPI"})
    answers = [sim.http.get(HISTORY, headers=headers).status_code for _ in range(3)]
    assert answers == [500, 500, 204]
    status = sim.status()
    assert (status["refused"], status["api_refused"]) == ({}, {"500": 2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "nowhere", "--webhook-token", "x"), "--target nowhere"),
        (("--target", "http://127.0.0.1:1"), "--webhook-token"),
        (("--signature", "hmac"), "--hmac-secret"),
        (("--first-dates", "0"), "first dates"),
        (("--scopes", "event:read admin"), "--scopes: admin unknown"),
        (("--skew-seconds", "-1"), "--skew-seconds"),
        (("--rest-per-minute", "0"), "--rest-per-minute"),
    ],
)
def test_wrong_arguments_end_with_a_clear_message(small_trace: Path, arguments: tuple[str, ...], message: str) -> None:
    line = command("cxone", small_trace, *arguments)
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
