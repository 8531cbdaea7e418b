"""The flow around replays: parameters, tenants, artifacts and the event, without a Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from tenacity import wait_none

import flows.dlq_reprocess as module
from flows.dlq_reprocess import PARKED, ReprocessFailedError, dlq_reprocess
from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.reprocess.report import TenantReport
from streaming.reprocess.run import reprocess
from tests.conftest import Platform
from tests.flows.shown import Shown
from tests.schemas.messages import cxone
from tests.streaming.reprocess.letters import CXONE, Letters

RENAME = {"op": "rename", "path": "contactID", "to": "contactId"}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    made = Shown()
    monkeypatch.setattr(module, "show_table", made.table)
    monkeypatch.setattr(module, "create_markdown_artifact", made.text)
    monkeypatch.setattr(module, "emit_event", made.event)
    monkeypatch.setattr(module, "run_id", lambda: "the-run")
    monkeypatch.setattr(module._replay.retry, "wait", wait_none())
    with disable_run_logger():
        yield made


class Tenants:
    """Tenants of the configuration in force."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def add(self, name: str) -> Letters:
        self._platform.add_tenant("cxone", name, **CXONE)
        return Letters(self._platform, "cxone", name)


@pytest.fixture
def tenants(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Tenants:
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    return Tenants(platform)


def renamed(number: int, **fields: Any) -> dict[str, Any]:
    return cxone("CALL_STARTED", contactId=..., contactID=f"c-{number}", **fields)


def test_a_dry_run_is_the_default_and_shows_before_and_after(tenants: Tenants, shown: Shown) -> None:
    south = tenants.add("south")
    south.put(*map(renamed, range(3)), renamed(3, timestamp="never"))
    key = f"cxone/{south.tenant.tenant_id}"
    assert dlq_reprocess.fn(fixups=[RENAME]) == {key: 3}
    assert south.events() == []
    rows = [
        (row["failed for"], row["field"], row["now"], row["fails now for"], row["because of"], row["dead letters"])
        for row in shown.tables["dlq-reprocess"]
    ]
    assert rows == [
        ("missing_field", "contactId", "would pass", "", "", 3),
        ("missing_field", "contactId", "would fail again", "wrong_type", "timestamp", 1),
    ]
    assert "3 would pass, 1 would fail again, 0 would be parked, 0 left alone (dry run" in shown.markdown
    assert "| rename `contactID` | 4 |" in shown.markdown

    assert dlq_reprocess.fn(fixups=[RENAME], dry_run=False) == {key: 3}
    assert len(south.events()) == 3
    assert "3 replayed, 1 failed again" in shown.markdown
    assert south.replays()[0].run_id == "the-run"
    assert shown.events == []


def test_what_is_left_alone_is_told_with_its_why(tenants: Tenants, shown: Shown) -> None:
    south = tenants.add("south")
    south.put(renamed(1))
    south.put_raw(b"x", [])
    south.settle()
    dlq_reprocess.fn(due_only=True, dry_run=False)
    told = {row["left alone, since"]: row["dead letters"] for row in shown.tables["dlq-reprocess-left-alone"]}
    assert told == {"not due yet": 1, "written by somebody else": 1}


def test_what_is_parked_raises_an_event_but_not_in_a_dry_run(tenants: Tenants, shown: Shown) -> None:
    south = tenants.add("south")
    south.put({"eventType": "CALL_STARTED"}, attempt=4)
    dlq_reprocess.fn()
    assert shown.events == []
    dlq_reprocess.fn(dry_run=False)
    (event,) = shown.events
    assert (event["event"], event["payload"]) == (PARKED, {"parked": 1, "replayed": 0})
    assert event["resource"]["prefect.resource.id"] == f"ccaas.tenant.cxone.{south.tenant.tenant_id}"
    dlq_reprocess.fn(dry_run=False)
    assert len(shown.events) == 1, "once"


def test_a_wrong_fix_up_of_one_tenant_does_not_stop_the_others(tenants: Tenants, shown: Shown) -> None:
    south, west = tenants.add("south"), tenants.add("west")
    south.put(renamed(1))
    west.put(cxone("CALL_STARTED"))
    name = f"{west.tenant.vendor}/{west.tenant.tenant_id}"
    with pytest.raises(ReprocessFailedError, match=f"1 of 2 tenants not done: {name}: fixups: fix-up"):
        dlq_reprocess.fn(fixups=[RENAME], dry_run=False)
    assert (len(south.events()), west.events()) == (1, [])
    assert {row["tenant"] for row in shown.tables["dlq-reprocess"]} == {south.tenant.tenant_id}


def test_a_service_that_is_down_for_a_moment_is_tried_again_and_counted_once(
    tenants: Tenants, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    south = tenants.add("south")
    south.put(*map(renamed, range(5)))
    attempts: list[TenantReport] = []

    def fails_after_it_committed(*args: Any, **options: Any) -> TenantReport:
        attempts.append(reprocess(*args, **options))
        if len(attempts) == 1:
            msg = "Kafka"
            raise ServiceUnavailableError(msg)
        return attempts[-1]

    monkeypatch.setattr(module, "reprocess", fails_after_it_committed)
    assert dlq_reprocess.fn(fixups=[RENAME], dry_run=False) == {f"cxone/{south.tenant.tenant_id}": 5}
    assert len(attempts) == 2
    assert len(south.events()) == 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tenant": "nobody"}, "tenant: the settings have no 'nobody'"),
        ({"vendor": "nobody"}, "vendor: "),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"fixups": [RENAME, {"op": "mend"}]}, "fix-up 2"),
    ],
)
def test_parameters_that_make_no_sense(
    parameters: dict[str, Any], message: str, tenants: Tenants, shown: Shown
) -> None:
    tenants.add("south")
    with pytest.raises(ConfigurationError, match=message):
        dlq_reprocess.fn(**parameters)


def test_parameters_as_the_ui_gives_them() -> None:
    dlq_reprocess.validate_parameters(
        {"vendor": "", "start": "2026-11-23T09:00:00Z", "fixups": [RENAME], "dry_run": False, "due_only": True}
    )
