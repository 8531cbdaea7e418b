"""What a vendor does to its clients: outages, forgotten cursors, rubbish, missing scopes. Nothing is lost."""

from __future__ import annotations

import time

import pytest

from schemas.canonical import RECOVERED_KEY
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import HTTP, until
from tests.streaming.genesys.simulator import genesys_path


def test_while_the_breaker_is_open_rest_brings_the_events_and_the_stream_resumes(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=120)
        until(lambda: path.played() > 100, what="some events")
        path.misbehave(refuse={"path": "/stream", "status": 503, "seconds": 9})
        path.misbehave(disconnect=True)
        until(lambda: "recovered by REST" in path.ingest.log.read_text(), 20, "REST is polled")
        during = path.played()
        # All that has happened until now is on the bus although no stream is open.
        until(lambda: len(path.ids()) >= during, 10, "events by REST")
        assert path.status()["streams_open"] == 0
        events = path.wait_until_all_is_on_the_bus()
        assert {event["metadata"].get(RECOVERED_KEY) for event in events} == {None, "polled"}
        until(lambda: path.status()["streams_open"] == 1, 20, "the stream is back")
        # The stream brings again what REST brought; what the process remembers is not published again.
        assert len(events) <= len({event["event_id"] for event in events}) * 1.5
        assert read_all(platform, path.dlq_topic) == []


def test_rest_is_polled_for_as_long_as_the_outage_lasts(platform: Platform) -> None:
    """Also when attempts fail for much longer than the breaker waits, and the vendor asks to wait long."""
    platform.vendors["genesys"] = {"retry_backoff_ms": 3000, "breaker_reset_seconds": 0.5, "max_retries": 1}
    with genesys_path(platform) as path:
        path.start(speed=120)
        until(lambda: path.played() > 50, what="some events")
        path.misbehave(refuse={"path": "/stream", "status": 503, "seconds": 600, "retry_after": 300})
        path.misbehave(disconnect=True)
        for _ in range(4):
            happened = path.played()
            until(lambda happened=happened: len(path.ids()) >= happened, 20, "REST is polled again")  # type: ignore[misc]
            until(lambda happened=happened: path.played() > happened + 20, 20, "more events")  # type: ignore[misc]
        assert HTTP.get(path.ingest.health + "/readyz").status_code == 200


def test_the_gap_of_a_forgotten_cursor_is_filled_by_rest(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=240)
        until(lambda: path.played() > 100, what="some events")
        until(lambda: "event-time" in path.cursors(), 10, "event time stored")
        path.ingest.kill()
        at_kill = path.played()
        until(lambda: path.played() > at_kill + 150, 20, "events that nobody reads")
        path.misbehave(forget_cursors=True)
        path.ingest.start()
        path.wait_until_all_is_on_the_bus()
        assert "REST fills the gap" in path.ingest.log.read_text()
        until(lambda: path.cursors().get("gap") == "", 10, "the gap is closed")


def test_a_gap_survives_a_kill_while_it_is_filled(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=240)
        until(lambda: path.played() > 100, what="some events")
        until(lambda: "event-time" in path.cursors(), 10, "event time stored")
        path.ingest.kill()
        at_kill = path.played()
        until(lambda: path.played() > at_kill + 150, 20, "events that nobody reads")
        path.misbehave(forget_cursors=True)
        path.misbehave(refuse={"path": "/api/v2/analytics", "status": 503, "seconds": 600})
        path.ingest.start()
        until(lambda: path.cursors().get("gap"), 20, "the gap is noted")
        time.sleep(1)
        path.ingest.kill()
        path.misbehave(refuse={"path": "/api/v2/analytics", "status": 503, "requests": 1})
        path.ingest.start()
        path.wait_until_all_is_on_the_bus()


def test_malformed_frames_lose_nothing(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=240)
        for _ in range(3):
            path.misbehave(garbage=4)
            time.sleep(1)
        path.wait_until_all_is_on_the_bus()
        written = path.status()["garbage"]
        assert all(written[kind] for kind in ("comment", "without_id", "no_utf8", "half")), written
        # What can't be decoded is a dead letter, with the bytes as they came.
        assert b"\xff" in b"".join(message.value() or b"" for message in read_all(platform, path.dlq_topic))


def test_a_flood_of_disconnects_and_refusals(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=240)
        for status in (429, 401, 500):
            path.misbehave(refuse={"path": "/stream", "status": status, "requests": 2, "retry_after": 1})
            path.misbehave(disconnect=True)
            time.sleep(1.5)
        path.wait_until_all_is_on_the_bus()
        assert read_all(platform, path.dlq_topic) == []


def test_rest_pages_that_change_while_being_read_lose_nothing(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.misbehave(pages="shuffle")
        path.start(speed=240)
        until(lambda: path.played() > 100, what="some events")
        until(lambda: "event-time" in path.cursors(), 10, "event time stored")
        path.ingest.kill()
        until(lambda: path.status()["state"] == "done", 60, "trace played")
        path.misbehave(forget_cursors=True)
        path.ingest.start()
        path.wait_until_all_is_on_the_bus()
        assert "pages changed while being read" in path.ingest.log.read_text()


@pytest.mark.parametrize(
    ("scopes", "transport", "missing"),
    [
        ("conversation:view integration:write", "sse", "streaming:read"),
        ("streaming:read conversation:view", "websocket", "integration:write"),
        ("streaming:read integration:write", "websocket", "conversation:view"),
    ],
)
def test_a_missing_scope_is_named(platform: Platform, scopes: str, transport: str, missing: str) -> None:
    with genesys_path(platform, arguments=["--scopes", scopes], ready=False, transport=transport) as path:
        until(lambda: missing in path.ingest.log.read_text(), 30, f"{missing} named")


class TestWebSocket:
    """The vendor's public transport: the same events with the same ids."""

    def test_a_day_of_calls_arrives_and_disconnects_lose_nothing(self, platform: Platform) -> None:
        with genesys_path(platform, transport="websocket") as path:
            path.start(speed=240)
            until(lambda: path.played() > 100, what="some events")
            path.misbehave(disconnect=True)
            time.sleep(3)
            path.ingest.kill()
            time.sleep(1)
            path.ingest.start()
            path.wait_until_all_is_on_the_bus()
            assert read_all(platform, path.dlq_topic) == []
            assert "/channels/" not in path.ingest.log.read_text()

    def test_channels_are_renewed_before_they_end(self, platform: Platform) -> None:
        with genesys_path(platform, transport="websocket", channel_renewal_seconds=2) as path:
            path.start(speed=240)
            path.wait_until_all_is_on_the_bus()
            assert path.ingest.log.read_text().count("stream ended by the vendor") >= 2

    def test_a_silent_channel_is_found(self, platform: Platform) -> None:
        arguments = ["--heartbeat-seconds", "600"]
        with genesys_path(platform, arguments=arguments, transport="websocket", heartbeat_timeout_seconds=1) as path:
            until(lambda: "no frame and no heartbeat" in path.ingest.log.read_text(), 20, "silence noticed")
