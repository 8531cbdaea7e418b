"""What members serve: JSON over HTTP, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.canonical import EventType
from tests.conftest import Platform
from tests.processes import HTTP, until
from tests.streaming.wfm.browser import browser
from tests.streaming.wfm.members import Bus, Members
from tests.warehouse.events import event, status

NASTY = "<img src=x onerror=\"document.title='broken into'\">"


@pytest.fixture
def bus(platform: Platform) -> Bus:
    return Bus(platform)


@pytest.fixture
def url(bus: Bus) -> Iterator[str]:
    members = Members(bus.platform, 1)
    with members.running():
        yield f"http://127.0.0.1:{members.port}"


def queued(now: datetime, name: str, queue: str = "sales") -> Any:
    return event(EventType.QUEUED, now, name, queue=queue, media="VOICE")


def test_the_page_shows_and_follows(bus: Bus, url: str, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    bus.publish(
        [
            queued(now - timedelta(seconds=100), "c1"),
            queued(now - timedelta(seconds=10), "c2"),
            queued(now - timedelta(seconds=10), "c3", NASTY),
            status(now - timedelta(seconds=90), "anna", "IDLE"),
            status(now - timedelta(seconds=90), NASTY, "OFF_QUEUE"),
        ]
    )
    with browser(tmp_path / "profile") as page:
        page.open(f"{url}/#genesys%2F{bus.tenant.tenant_id}")

        def queues() -> list[list[str]]:
            return [row.split("\t") for row in page.texts("#queues tr")[1:]]

        wanted = [[NASTY, "VOICE", "1"], ["sales", "VOICE", "2"]]
        until(lambda: [row[:3] for row in queues()] == wanted, what="queues")
        assert page.texts("h1") == ["Live queues and agents"]
        assert page.texts("#state") == ["live"]
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.title") == "Live queues and agents"
        assert [row.split("\t")[:2] for row in page.texts("#agents tr")[1:]] == [["anna", "IDLE"], [NASTY, "OFF_QUEUE"]]
        minutes, seconds = queues()[1][3].split(":")
        assert int(minutes) * 60 + int(seconds) >= 100
        page.evaluate("window.same = true")
        bus.publish(
            [
                event(EventType.ASSIGNED, now, "c1", queue="sales", agent="anna", media="VOICE", wait_ms=100_000),
                status(now, "anna", "INTERACTING"),
            ]
        )
        until(lambda: queues()[1][2:5:2] == ["1", "1"], what="one waits, one is in progress")
        until(lambda: page.texts("#agents tr")[1].split("\t")[:2] == ["anna", "INTERACTING"], what="anna talks")
        assert page.evaluate("window.same") is True, "it refreshed without being loaded anew"
        # Nothing but this page was asked for: it stands alone.
        names = page.evaluate("performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)")
        assert set(names) == {url}


def test_json(bus: Bus, url: str) -> None:
    bus.publish(
        [
            event(EventType.QUEUED, "09:00:00", "c1", queue="sales", media="VOICE"),
            event(EventType.ASSIGNED, "09:00:10", "c1", queue="sales", agent="anna", media="VOICE"),
            event(EventType.HANDLED, "09:10:00", "c1", queue="sales", agent="anna", media="VOICE", talk_ms=590_000),
            status("08:59:00", "anna", "IDLE"),
            status("09:00:10", "anna", "INTERACTING"),
            status("09:10:00", "anna", "IDLE"),
            event(EventType.QUEUED, "09:16:00", "c2", queue="sales", media="VOICE"),
        ]
    )
    bus.everywhere(event(EventType.STARTED, "09:20:00", "c3"))
    path = f"{url}/api/live/genesys/{bus.tenant.tenant_id}"

    def ask(query: str = "") -> dict[str, Any]:
        answer = HTTP.get(path + query)
        body: dict[str, Any] = answer.json()
        return body if answer.status_code == 200 else {"newest_event_ms": 0, "queue_intervals": []}

    until(lambda: ask()["queue_intervals"] and ask()["queue_intervals"][-1]["closed"], what="an interval is over")
    live = ask()
    assert live["is_replay"]
    assert 0 <= live["now_ms"] - live["newest_event_ms"] < 60_000, "in a replay now is the time that is replayed"
    assert live["interval_start"] == "1999-01-04T09:15:00Z"
    (queue,) = live["queues"]
    assert (queue["waiting"], queue["in_progress"], queue["offered"], queue["answered"]) == (1, 0, 1, 0)
    assert queue["longest_wait_ms"] == live["now_ms"] - queue["waiting_since_ms"]
    (interval,) = live["queue_intervals"]
    assert (interval["answered"], interval["service_level"], interval["aht_ms"]) == (1, 1.0, 590_000)
    (agent,) = live["agents"]
    assert (agent["status"], agent["interacting_ms"], agent["occupancy"]) == ("IDLE", 0, 0.0)
    (worked,) = live["agent_intervals"]
    assert (worked["interacting_ms"], worked["idle_ms"]) == (590_000, 310_000)
    assert live["agents_by_status"]["IDLE"] == 1
    assert ask("?intervals=0")["queue_intervals"] == []
    assert {"vendor": "genesys", "tenant_id": bus.tenant.tenant_id} in HTTP.get(f"{url}/api/tenants").json()


def test_what_is_not_there_says_what_is(bus: Bus, url: str) -> None:
    known = {"vendor": "genesys", "tenant_id": bus.tenant.tenant_id}
    until(lambda: known in HTTP.get(f"{url}/api/tenants").json(), what="the tenant is known")
    answer = HTTP.get(f"{url}/api/live/genesys/%3Cscript%3E")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert known in answer.json()["tenants"]
    assert HTTP.get(f"{url}/api/live/genesys/{bus.tenant.tenant_id}?intervals=many").status_code == 400
    assert HTTP.get(f"{url}/etc/passwd").status_code == 404
    assert HTTP.head(url).headers["content-security-policy"].startswith("default-src 'none'")
