"""A Genesys organisation played by its simulator, and the ingest process that reads it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from devstack.simulators.genesys_events import message, of_call, of_status
from devstack.simulators.schedule import build_schedule
from devstack.simulators.trace import read_trace
from schemas.normalise import normaliser
from streaming.state import open_state
from tests.conftest import Platform
from tests.kafka import read_all, read_events
from tests.processes import HTTP, ServiceProcess, service, until
from tests.truth.trace_rows import call, clock, write_trace

CALLS = 120

# Waits of a test, not of a vendor's client.
QUICK = {
    "reconnect_min_seconds": 0.1,
    "reconnect_max_seconds": 0.3,
    "retry_backoff_ms": 100,
    "stable_after_seconds": 0.5,
    "breaker_reset_seconds": 2,
    "rest_poll_seconds": 0.5,
    "rest_settle_seconds": 1,
}


class GenesysPath:
    """One simulated organisation and its ingest."""

    def __init__(self, platform: Platform, trace: Path, ingest: ServiceProcess, url: str, tenant: str) -> None:
        self.platform = platform
        self.expected_ids = _expected_ids(trace, tenant)
        self.ingest = ingest
        self.url = url
        self.tenant = tenant
        self.topic = f"ccaaus.events.genesys.{tenant}"
        self.dlq_topic = f"ccaaus.dlq.genesys.{tenant}"

    def start(self, speed: float) -> None:
        HTTP.post(f"{self.url}/control/start", json={"speed": speed}).raise_for_status()

    def misbehave(self, **orders: object) -> None:
        HTTP.post(f"{self.url}/control/misbehave", json=orders).raise_for_status()

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = HTTP.get(f"{self.url}/control/status").json()
        return answer

    def played(self) -> int:
        """Canonical events that have happened so far."""
        return sum(self.status()["sent"].values())

    def ids(self) -> set[bytes | None]:
        """Distinct keys on the bus."""
        return {message.key() for message in read_all(self.platform, self.topic)}

    def wait_until_all_is_on_the_bus(self, seconds: float = 60) -> list[dict[str, Any]]:
        """Every event of the trace is there and no other; gives all records, repeats included."""
        until(lambda: self.status()["state"] == "done", seconds, "trace played")
        until(lambda: len(self.ids()) >= len(self.expected_ids), seconds, "all on the bus", every=0.2)
        events = read_events(self.platform, self.topic)
        assert {event["event_id"] for event in events} == self.expected_ids
        return events

    def cursors(self) -> dict[str, str]:
        """What the state database has of the tenant, by kind of stream."""
        engine = open_state(f"sqlite:///{self.platform.folder}/state.db")
        with engine.connect() as connection:
            query = sa.text("SELECT stream, cursor FROM stream_cursor WHERE tenant_id = :tenant")
            found = {row.stream: str(row.cursor) for row in connection.execute(query, {"tenant": self.tenant})}
        engine.dispose()
        return found


def _expected_ids(trace: Path, tenant: str) -> set[str]:
    """Ids of all events of the trace, whatever way they come."""
    schedule = build_schedule(read_trace(trace, ivr="AA01"), of_call, of_status)
    normalise = normaliser("genesys").normalise
    return {event["event_id"] for native in schedule for event in normalise(orjson.dumps(message(native)), tenant)}


@contextmanager
def genesys_path(
    platform: Platform, *, arguments: Sequence[str] = (), ready: bool = True, **connection: Any
) -> Iterator[GenesysPath]:
    """Simulator idle, ingest connected."""
    trace = write_trace(
        platform.folder / "trace.tsv",
        # From shortly after midnight, when the agents' first statuses are: 40 minutes of calls, one every 20 s.
        [
            call(exit_at=clock(300 + 20 * n), wait=n % 50, talk=30 + n, server=f"AGENT{n % 7}", ivr=5)
            for n in range(CALLS)
        ],
    )
    port_file = platform.folder / "genesys.port"
    with (platform.folder / "simulator.log").open("wb") as log:
        simulator = subprocess.Popen(
            [sys.executable, "-m", "devstack.simulators.genesys", "--trace", trace, "--port-file", port_file,
             "--ivr", "AA01", "--tenant", "north", "--client-id", "id", "--client-secret", "s3cret",
             "--heartbeat-seconds", "1", "--rest-per-minute", "100000", *arguments],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            until(port_file.exists, what="simulator up")
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            platform.vendors["genesys"] = {**QUICK, **platform.vendors.get("genesys", {})}
            endpoints = {"token_url": f"{url}/login/oauth/token", "api_url": url, "stream_url": f"{url}/stream"}
            client = {"client_id": "id", "client_secret": "s3cret"}
            bounds = {"heartbeat_timeout_seconds": 5, "rest_requests_per_minute": 18_000}
            tenant = platform.add_tenant("genesys", "north", **(endpoints | client | bounds | connection))
            with service("genesys-ingest", platform.config, platform.ports["genesys_ingest"]) as ingest:
                if ready:
                    ingest.wait_ready()
                yield GenesysPath(platform, trace, ingest, url, tenant)
        finally:
            simulator.terminate()
            simulator.wait(10)
