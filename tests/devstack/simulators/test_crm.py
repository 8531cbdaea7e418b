"""The simulated CRM: effects once by key and on disk, whatever it is ordered to do wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.simulators.crm_log import Call, Effect, EffectLog, Entity
from tests.devstack.simulators.support import until
from tests.streaming.crm.support import Crm


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Crm]:
    running = Crm(tmp_path)
    yield running
    running.close()


def activity(key: str, timestamp: int = 1, step: int = 0, conversation: str = "c", **fields: str) -> dict[str, Any]:
    return {
        "event_id": key, "vendor": "genesys", "tenant_id": "t", "conversation_id": conversation,
        "event_type": "conversation.queued", "timestamp": timestamp, "version": [timestamp, step, key],
        "fields": fields,
    }  # fmt: skip


def post(crm: Crm, body: Any, key: str | None = None, token: str = "s3cret", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": body["event_id"] if key is None else key}
    return httpx.post(
        f"{crm.url}/v1/activities", json=body, headers=headers, trust_env=False, **{"timeout": 20, **more}
    )


def test_a_key_has_its_effect_once(crm: Crm) -> None:
    first, again = post(crm, activity("k", queue_id="q")), post(crm, activity("k", queue_id="other"))
    assert (first.json(), again.json()) == ({"status": "applied"}, {"status": "duplicate"})
    assert (crm.keys(), crm.asked()) == ({"k"}, {"k": 2})
    assert crm.states() == {Entity("genesys", "t", "conversation", "c"): {"queue_id": "q"}}


def test_what_it_answered_outlives_kill_9(crm: Crm) -> None:
    async def many() -> list[int]:
        async with httpx.AsyncClient(trust_env=False, timeout=20, headers={"Authorization": "Bearer s3cret"}) as http:
            calls = [
                http.post(f"{crm.url}/v1/activities", json=activity(f"k-{n}"), headers={"Idempotency-Key": f"k-{n}"})
                for n in range(200)
            ]
            found = await asyncio.gather(*calls)
            crm.kill()
            return [answer.status_code for answer in found]

    assert set(asyncio.run(many())) == {200}
    crm.start()
    assert crm.keys() == {f"k-{number}" for number in range(200)}
    assert post(crm, activity("k-7")).json() == {"status": "duplicate"}


def test_its_state_is_the_newest_of_each_field(crm: Crm) -> None:
    post(crm, activity("a", 2, queue_id="new", status="queued"))
    post(crm, activity("b", 1, queue_id="old", agent_id="a"))
    post(crm, activity("c", 2, 4, status="assigned"))
    found = httpx.get(f"{crm.url}/control/states?vendor=genesys&tenant_id=t", trust_env=False).json()
    assert found == [
        {"vendor": "genesys", "tenant_id": "t", "kind": "conversation", "id": "c",
         "fields": {"agent_id": "a", "queue_id": "new", "status": "assigned"}}
    ]  # fmt: skip
    assert httpx.get(f"{crm.url}/control/states?tenant_id=u", trust_env=False).json() == []


def test_what_is_no_activity_is_refused(crm: Crm) -> None:
    assert post(crm, activity("k"), token="wrong").status_code == 401
    assert post(crm, activity("k"), key="another").status_code == 400
    assert post(crm, activity("k"), key="").status_code == 400
    wrong: list[Any] = [{"event_id": "k"}, [], {**activity("k"), "version": 1}, {**activity("k"), "fields": None}]
    for broken in wrong:
        assert post(crm, broken, key="k").status_code == 400
    assert httpx.get(f"{crm.url}/v1/activities", trust_env=False).status_code == 405
    assert crm.keys() == set()


@pytest.mark.parametrize(
    ("orders", "status", "body"),
    [
        ({"fail_before": 1, "retry_after": "3"}, 503, '{"error":"ordered"}'),
        ({"garbage": 1}, 200, "<html>"),
        ({"error_body": 1}, 200, '{"error":"internal"}'),
        ({"refuse": ["k"]}, 422, '{"error":"ordered"}'),
        ({"statuses": [418]}, 418, '{"error":"ordered"}'),
    ],
)
def test_an_ordered_fault_has_no_effect(crm: Crm, orders: dict[str, Any], status: int, body: str) -> None:
    crm.misbehave(**orders)
    answer = post(crm, activity("k"))
    assert (answer.status_code, answer.text) == (status, body)
    assert answer.headers.get("Retry-After") == orders.get("retry_after")
    assert (crm.keys(), crm.asked()) == (set(), {"k": 1})
    crm.misbehave(fail_before=0, garbage=0, error_body=0, refuse=[])
    assert post(crm, activity("k")).json() == {"status": "applied"}


def test_an_answer_may_be_lost_after_the_effect(crm: Crm) -> None:
    crm.misbehave(fail_after=1)
    with pytest.raises(httpx.RemoteProtocolError):
        post(crm, activity("k"))
    assert crm.keys() == {"k"}
    crm.misbehave(fail_after=0)
    assert post(crm, activity("k")).json() == {"status": "duplicate"}
    assert crm.status()["answers"] == {"lost": 1, "200": 1}


def test_stalled_calls_wait_for_the_order_to_end(crm: Crm) -> None:
    crm.misbehave(stall=True)
    with pytest.raises(httpx.ReadTimeout):
        post(crm, activity("k"), timeout=0.3)
    until(lambda: crm.status()["stalled"] == 0)  # its client has gone
    crm.misbehave(stall=False)
    assert post(crm, activity("k")).json() == {"status": "applied"}


def test_the_same_seed_hits_the_same_calls(crm: Crm) -> None:
    def failing(seed: int) -> list[int]:
        crm.misbehave(seed=seed, fail_before=0.3)
        return [number for number in range(100) if post(crm, activity(f"{seed}-{number}")).status_code == 503]

    hit = failing(1)
    assert 15 < len(hit) < 45
    crm.kill()
    crm.file.unlink()
    crm.start()
    assert failing(1) == hit


def test_a_call_counts_without_an_effect_and_states_are_apart_by_tenant(tmp_path: Path) -> None:
    with EffectLog(tmp_path / "log.db") as log:
        effect = Effect(Entity("genesys", "t", "agent", "a"), "agent.status_changed", 1, 9, {"status": "IDLE"})
        calls = [
            Call("x", None),
            Call("x", effect),
            Call("x", effect),
            Call("y", effect._replace(entity=Entity("cxone", "t", "agent", "a"))),
        ]
        assert log.write(calls) == [False, True, False, True]
        assert log.asked() == Counter({"x": 3, "y": 1})
        assert log.counts() == {"effects": 2, "effects_by_vendor": {"cxone": 1, "genesys": 1}, "calls": 4}
        assert list(log.states(vendor="cxone")) == [Entity("cxone", "t", "agent", "a")]
        assert len(log.states()) == 2
