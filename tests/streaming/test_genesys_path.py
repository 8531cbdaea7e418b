"""The event stream of a simulated Genesys organisation to Kafka through the real process, killed and disconnected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from streaming.state import open_state
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import ServiceProcess, until
from tests.streaming.genesys.simulator import GenesysPath, genesys_path


@pytest.fixture
def path(platform: Platform) -> Iterator[GenesysPath]:
    with genesys_path(platform) as running:
        yield running


def test_a_day_of_calls_arrives_once_and_the_cursor_follows(path: GenesysPath) -> None:
    path.start(speed=1000)
    events = path.wait_until_all_is_on_the_bus()
    assert len(events) == len({event["event_id"] for event in events})
    assert read_all(path.platform, path.dlq_topic) == []
    until(lambda: path.cursors().keys() >= {"sse", "event-time"}, 10, "cursor and event time stored")
    assert "s3cret" not in path.ingest.log.read_text()


def test_kill_9_and_disconnects_lose_nothing(path: GenesysPath) -> None:
    path.start(speed=240)
    time.sleep(2)
    path.ingest.kill()
    path.ingest.start()
    time.sleep(4)
    path.misbehave(disconnect=True)
    time.sleep(1)
    path.ingest.kill()
    path.ingest.start()
    path.wait_until_all_is_on_the_bus()
    assert read_all(path.platform, path.dlq_topic) == []


def test_a_cursor_that_the_vendor_does_not_know_is_dropped(path: GenesysPath) -> None:
    path.ingest.kill()
    engine = open_state(f"sqlite:///{path.platform.folder}/state.db")
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO stream_cursor VALUES ('genesys', :tenant, 'sse', 'nonsense', '2026-11-23 00:00:00')"),
            {"tenant": path.tenant},
        )
    engine.dispose()
    path.ingest.start()
    path.start(speed=0)
    path.wait_until_all_is_on_the_bus()
    assert "a gap is possible" in path.ingest.log.read_text()


def test_kafka_down_moves_no_cursor(path: GenesysPath) -> None:
    broker = path.platform.stack.kafka
    assert broker is not None
    broker.kill()
    try:
        path.start(speed=0)
        time.sleep(2)
        assert "sse" not in path.cursors()
    finally:
        broker.start()
    path.wait_until_all_is_on_the_bus()
    until(lambda: "sse" in path.cursors(), 10, "cursor stored")


def test_a_second_copy_stands_by_and_takes_over(path: GenesysPath, tmp_path: Path) -> None:
    log = tmp_path / "second.log"
    second = ServiceProcess("genesys-ingest", path.platform.config, log, path.ingest.health)
    try:
        path.start(speed=240)
        time.sleep(3)
        assert "stream begins" not in log.read_text()
        path.ingest.kill()
        until(lambda: "stream begins" in log.read_text(), 10, "take-over")
        path.wait_until_all_is_on_the_bus()
    finally:
        second.stop()
