"""The event stream of a simulated Genesys organisation to Kafka through the real process, killed and disconnected."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from streaming.state import open_state
from tests.conftest import Platform
from tests.kafka import read_all, read_events
from tests.processes import ServiceProcess, service, until
from tests.truth.trace_rows import call, clock, write_trace

CALLS = 120


class GenesysPath:
    def __init__(self, platform: Platform, ingest: ServiceProcess, url: str, tenant: str) -> None:
        self.platform = platform
        self.ingest = ingest
        self.url = url
        self.tenant = tenant
        self.topic = f"ccaaus.events.genesys.{tenant}"
        self.dlq_topic = f"ccaaus.dlq.genesys.{tenant}"

    def start(self, speed: float) -> None:
        httpx.post(f"{self.url}/control/start", json={"speed": speed}).raise_for_status()

    def misbehave(self, **orders: object) -> None:
        httpx.post(f"{self.url}/control/misbehave", json=orders).raise_for_status()

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = httpx.get(f"{self.url}/control/status").json()
        return answer

    def wait_until_all_is_on_the_bus(self) -> list[dict[str, object]]:
        until(lambda: self.status()["state"] == "done", 60, "trace played")
        expected = self.status()["expected"]
        assert isinstance(expected, dict)
        total = sum(expected.values())
        until(lambda: len({m.key() for m in read_all(self.platform, self.topic)}) >= total, 60, "all on the bus")
        events = read_events(self.platform, self.topic)
        unique = {event["event_id"]: event for event in events}
        assert Counter(event["event_type"] for event in unique.values()) == expected
        return events


@pytest.fixture
def path(platform: Platform) -> Iterator[GenesysPath]:
    trace = write_trace(
        platform.folder / "trace.tsv",
        # From shortly after midnight, when the agents' first statuses are: 40 minutes of calls, one every 20 s.
        [
            call(exit_at=clock(300 + 20 * n), wait=n % 50, talk=30 + n, server=f"AGENT{n % 7}", ivr=5)
            for n in range(CALLS)
        ],
    )
    port_file = platform.folder / "genesys.port"
    log = (platform.folder / "simulator.log").open("wb")
    simulator = subprocess.Popen(
        [sys.executable, "-m", "devstack.simulators.genesys", "--trace", trace, "--port-file", port_file,
         "--ivr", "AA01", "--tenant", "north", "--client-id", "id", "--client-secret", "s3cret",
         "--heartbeat-seconds", "1"],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until(port_file.exists, what="simulator up")
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        tenant = platform.add_tenant(
            "genesys", "north", token_url=f"{url}/login/oauth/token", api_url=url, stream_url=f"{url}/stream",
            client_id="id", client_secret="s3cret", heartbeat_timeout_seconds=5,
        )  # fmt: skip
        with service("genesys-ingest", platform.config, platform.ports["genesys_ingest"]) as ingest:
            ingest.wait_ready()
            yield GenesysPath(platform, ingest, url, tenant)
    finally:
        simulator.terminate()
        simulator.wait(10)
        log.close()


def cursor_of(path: GenesysPath) -> str | None:
    engine = open_state(f"sqlite:///{path.platform.folder}/state.db")
    with engine.connect() as connection:
        query = sa.text("SELECT cursor FROM stream_cursor WHERE tenant_id = :tenant")
        found: str | None = connection.execute(query, {"tenant": path.tenant}).scalar_one_or_none()
    engine.dispose()
    return found


def test_a_day_of_calls_arrives_once_and_the_cursor_follows(path: GenesysPath) -> None:
    path.start(speed=1000)
    events = path.wait_until_all_is_on_the_bus()
    assert len(events) == len({event["event_id"] for event in events})
    assert read_all(path.platform, path.dlq_topic) == []
    until(lambda: cursor_of(path) is not None, 5, "cursor stored")
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
        assert cursor_of(path) is None
    finally:
        broker.start()
    path.wait_until_all_is_on_the_bus()
    until(lambda: cursor_of(path) is not None, 10, "cursor stored")


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
