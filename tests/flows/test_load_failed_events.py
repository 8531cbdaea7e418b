"""The flow that counts dead letters and shows what broke, without a Prefect server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from prefect.logging import disable_run_logger

import flows.load_failed_events as module
from flows.load_failed_events import load_failed_events
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError
from streaming.topics import ensure_topics
from tests.conftest import Platform
from warehouse.ledger import LoadResult


def test_what_broke_within_a_day_is_shown_at_once(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant_id = platform.add_tenant("cxone", "south")
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    settings = platform.settings()
    ensure_topics(settings.kafka, settings.tenants)
    tables: dict[str, list[dict[str, Any]]] = {}
    pictures: dict[str, bytes] = {}
    results: list[LoadResult] = []
    due = datetime.now(UTC)
    monkeypatch.setattr(module, "scheduled_time", lambda: due)
    monkeypatch.setattr(module, "run_id", lambda: "run")
    monkeypatch.setattr(module, "show_result", results.append)
    monkeypatch.setattr(module, "show_table", tables.__setitem__)
    monkeypatch.setattr(module, "show_picture", lambda key, png, _: pictures.update({key: png}))
    producer = Producer(settings.kafka.client_config())
    error = BadEventError("contactId: missing", reason="missing_field", path="contactId")
    yesterday = str(int((due - timedelta(days=2)).timestamp() * 1000)).encode()
    for age in (None, yesterday):
        headers = dead_letter_headers(error, stage="normalise", transport="webhook")
        producer.produce(
            settings.tenants[0].dlq_topic, b'{"eventType": "CALL_ENDED"}',
            headers=[(key, age if age and key == "ccaas.error.time" else value) for key, value in headers],
        )  # fmt: skip
    assert producer.flush(20) == 0
    with disable_run_logger():
        assert load_failed_events.fn() >= 2
    assert [result.dataset for result in results] == ["failed_events"]
    (row,) = [row for row in tables["what-broke"] if row["tenant"] == tenant_id]
    assert (row["dead letters"], row["still open"], row["field"], row["event type"]) == (
        1,
        1,
        "contactId",
        "CALL_ENDED",
    )
    assert pictures["failures-per-hour"].startswith(b"\x89PNG")
    # Within the time for which readers keep their copy, too: a person looks because something broke just now.
    producer.produce(
        settings.tenants[0].dlq_topic, b"{", headers=dead_letter_headers(error, stage="sink", transport="kafka")
    )
    assert producer.flush(20) == 0
    with disable_run_logger():
        load_failed_events.fn()
    assert len([row for row in tables["what-broke"] if row["tenant"] == tenant_id]) == 2
