"""The flow around reconciliation: windows, tenants, artifacts and the event, without a Prefect server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from tenacity import wait_none

import flows.cxone_reconcile as module
from flows.cxone_reconcile import MISSING, NOT_JUDGED, ReconcileFailedError, cxone_reconcile
from streaming.errors import ConfigurationError
from streaming.settings import load_settings
from streaming.vendors.cxone.progress import ReconciledThrough
from streaming.vendors.cxone.report import ReconcileReport
from tests.conftest import Platform
from tests.flows.shown import Shown
from tests.kafka import read_events
from tests.streaming.cxone.vendor_rest import VendorRest, contact, states

NINE = datetime(2026, 11, 23, 9, tzinfo=UTC)
LATER = NINE + timedelta(hours=1)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    made = Shown()
    monkeypatch.setattr(module, "show_table", made.table)
    monkeypatch.setattr(module, "create_markdown_artifact", made.text)
    monkeypatch.setattr(module, "emit_event", made.event)
    monkeypatch.setattr(module, "scheduled_time", lambda: NINE + timedelta(minutes=30))
    with disable_run_logger():
        yield made


@pytest.fixture
def vendor() -> Iterator[VendorRest]:
    made = VendorRest()
    made.completed, made.states = [contact(0)], states(0)
    yield made
    made.close()


@pytest.fixture
def add_tenant(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    def add(name: str, url: str) -> str:
        tenant = platform.add_tenant(
            "cxone", name, token_url=f"{url}/token", api_url=url, client_id="i", client_secret="s",
            webhook_tokens=["token-of-16-chars"], signature="hmac", hmac_secret="hmac-secret-0001",
        )  # fmt: skip
        monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
        return tenant

    return add


def test_a_scheduled_run_publishes_shows_and_raises_the_event(
    platform: Platform, vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown
) -> None:
    south, quiet = add_tenant("south", vendor.url), add_tenant("quiet", vendor.url)
    del quiet

    published = cxone_reconcile.fn(tenant=south)

    assert published == {south: 5}
    assert len(read_events(platform, f"ccaaus.events.cxone.{south}")) == 5
    (_, asked), *_ = vendor.requests
    assert (asked["updatedSince"], asked["until"]) == ("2026-11-23T07:15:00.000Z", "2026-11-23T09:25:00.000Z")
    rows = shown.tables["cxone-reconcile"]
    assert [(row["tenant"], row["missing"], row["by webhook"]) for row in rows] == [(south, 1, 0)] * 5
    assert "5 events expected, 5 missing (100.00%), 5 published" in shown.markdown
    assert "| more | 5 |" in shown.markdown or "| 1 day | 5 |" in shown.markdown
    (event,) = shown.events
    assert event["event"] == MISSING
    assert event["resource"]["prefect.resource.id"] == f"ccaas.tenant.cxone.{south}"
    assert (event["payload"]["missing"], event["payload"]["expected"]) == (5, 5)


def test_what_is_complete_raises_nothing(
    vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown
) -> None:
    south = add_tenant("south", vendor.url)
    cxone_reconcile.fn()
    shown.events.clear()
    assert cxone_reconcile.fn() == {south: 0}
    assert shown.events == []


def test_one_tenant_that_fails_does_not_stop_the_others(
    vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown
) -> None:
    refusing = VendorRest()
    refusing.status = 403
    try:
        north, south = add_tenant("north", refusing.url), add_tenant("south", vendor.url)
        with pytest.raises(ReconcileFailedError, match=f"1 of 2 tenants not reconciled: cxone/{north}: .*event:read"):
            cxone_reconcile.fn()
    finally:
        refusing.close()
    assert {row["tenant"] for row in shown.tables["cxone-reconcile"]} == {south}


def test_any_window_without_publishing(
    platform: Platform, vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown
) -> None:
    south = add_tenant("south", vendor.url)
    assert cxone_reconcile.fn(start=NINE, end=NINE + timedelta(hours=1), dry_run=True) == {south: 0}
    assert read_events(platform, f"ccaaus.events.cxone.{south}") == []
    assert "nothing published (dry run)" in shown.markdown


def asked_since(vendor: VendorRest) -> list[str]:
    return [query["updatedSince"] for path, query in vendor.requests if path == "completed"]


def test_the_time_of_runs_that_failed_is_made_up_for(
    vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(hours: float) -> None:
        vendor.requests.clear()
        monkeypatch.setattr(module, "scheduled_time", lambda: NINE + timedelta(hours=hours, minutes=5))

    add_tenant("south", vendor.url)
    at(0)
    cxone_reconcile.fn()
    at(0.25)
    cxone_reconcile.fn()
    assert asked_since(vendor) == ["2026-11-23T07:05:00.000Z"], "the windows of good runs overlap"
    monkeypatch.setattr("streaming.rest._MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(module._reconcile.retry, "wait", wait_none())  # type: ignore[attr-defined]
    vendor.status = 503
    at(6)
    with pytest.raises(ReconcileFailedError):
        cxone_reconcile.fn()
    vendor.status = 200
    at(10)
    cxone_reconcile.fn(dry_run=True)
    cxone_reconcile.fn(start=NINE, end=NINE + timedelta(hours=9))
    at(12)
    cxone_reconcile.fn()
    assert asked_since(vendor) == ["2026-11-23T09:15:00.000Z"], "where the last good scheduled run ended"
    at(13)
    cxone_reconcile.fn()
    assert asked_since(vendor) == ["2026-11-23T19:50:00.000Z"]
    at(24 * 30)
    cxone_reconcile.fn()
    (since,) = asked_since(vendor)
    assert since == "2026-12-20T09:00:00.000Z", "no further back than Kafka keeps events"


def test_a_list_that_never_stood_still_is_read_again_by_the_next_run(
    vendor: VendorRest, add_tenant: Callable[[str, str], str], shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = add_tenant("south", vendor.url)
    report = ReconcileReport(tenant, NINE, NINE, 0, {}, 0, steady=False)
    monkeypatch.setattr(module, "reconcile", lambda *_args, **_options: report)
    cxone_reconcile.fn()
    with ReconciledThrough(load_settings().state_url) as through:
        assert through.read(tenant) is None


def test_what_could_not_be_looked_for_is_an_event_of_scheduled_runs(
    add_tenant: Callable[[str, str], str], shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = add_tenant("south", "http://127.0.0.1:1")
    report = ReconcileReport(tenant, NINE, NINE, 3, {}, 0, not_judged=7)
    monkeypatch.setattr(module, "reconcile", lambda *_args, **_options: report)
    cxone_reconcile.fn(start=NINE, end=NINE + timedelta(hours=1))
    assert shown.events == []
    cxone_reconcile.fn()
    (event,) = shown.events
    assert (event["event"], event["payload"]["not_judged"]) == (NOT_JUDGED, 7)
    assert "7 events were not looked for" in shown.markdown


def test_how_far_is_reconciled_only_grows(tmp_path: Path) -> None:
    with ReconciledThrough(f"sqlite:///{tmp_path}/state.db") as through:
        assert through.read("south") is None
        for moved, stored in ((NINE, NINE), (NINE - timedelta(hours=1), NINE), (LATER, LATER)):
            through.move("south", moved)
            assert through.read("south") == stored
        assert through.read("north") is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"start": NINE}, "give both start and end"),
        ({"tenant": "nobody"}, "no 'nobody' of vendor 'cxone'"),
        ({"look_back_minutes": -1}, "look_back_minutes is -1"),
    ],
)
def test_parameters_that_make_no_sense(
    parameters: dict[str, Any], message: str, add_tenant: Callable[[str, str], str], shown: Shown
) -> None:
    add_tenant("south", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=message):
        cxone_reconcile.fn(**parameters)


def test_notes_say_what_was_not_done() -> None:
    report = ReconcileReport("south", NINE, NINE, 1, {}, 0, {}, bad_rows=2, not_judged=3, undecodable=4, steady=False)
    text = module._text(report, dry_run=False)
    for note in ("2 rows of REST", "3 events were not looked for", "4 records on the bus", "a later run finds"):
        assert note in text
