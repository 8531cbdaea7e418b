"""Deployments on a real Prefect server, with real workers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import psutil
import pytest

from devstack.prefect import PrefectServer
from devstack.stack import LocalStack
from tests.conftest import Platform
from tests.processes import HTTP, until


class Server:
    """A server on which everything is deployed, and requests to it."""

    def __init__(self, prefect: PrefectServer, platform: Platform) -> None:
        self.prefect = prefect
        self.platform = platform
        self.http = httpx.Client(base_url=prefect.api_url, timeout=30)

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        return cast("list[dict[str, Any]]", self.http.post("/flow_runs/filter", json=body).raise_for_status().json())

    def start(self, deployment: str, **parameters: Any) -> str:
        (found,) = self.http.post("/deployments/filter", json={"deployments": {"name": {"any_": [deployment]}}}).json()
        answer = self.http.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
        return str(answer.raise_for_status().json()["id"])

    def leave_scheduled(self, deployment: str) -> None:
        """Of all deployments only this one starts by itself: runs that no test looks at take the CPU from the rest."""
        for found in self.http.post("/deployments/filter", json={}).raise_for_status().json():
            for schedule in found["schedules"] if found["name"] != deployment else ():
                path = f"/deployments/{found['id']}/schedules/{schedule['id']}"
                self.http.patch(path, json={"active": False}).raise_for_status()

    def state(self, run_id: str) -> str:
        return str(self.http.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"]["type"])


@pytest.fixture(scope="module")
def server(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prefect")
    platform = Platform(stack, folder / "platform")
    platform.folder.mkdir()
    platform.add_tenant(
        "cxone", "south", token_url="http://127.0.0.1:1/t", api_url="http://127.0.0.1:1", client_id="i",
        client_secret="s", webhook_tokens=["s3cret-of-16-chars"], signature="hmac", hmac_secret="hmac-secret-0001",
    )  # fmt: skip
    prefect = PrefectServer(stack.processes, folder / "server")
    prefect.start()
    environment = {"CCAAS_CONFIG": str(platform.config), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    prefect.run_cli("deploy", "deploy", "--all", environment=environment)
    running = Server(prefect, platform)
    running.leave_scheduled("keep-alive")
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda pool: prefect.start_worker(pool, environment), ("streams", "batch")))
    yield running
    running.http.close()
    prefect.stop_workers()
    prefect.stop()


def listener(port: int) -> int | None:
    """The process that listens on a port."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return connection.pid
    return None


@pytest.mark.timeout(400)
def test_a_schedule_yields_a_run_and_a_killed_stream_comes_back(server: Server) -> None:
    # keep-alive is scheduled every minute; nobody starts it, and it starts the streams.
    until(lambda: any(run["state"]["type"] == "COMPLETED" for run in server.runs("keep-alive")), 150, "scheduled run")
    assert any(run["auto_scheduled"] for run in server.runs("keep-alive"))
    port = server.platform.ports["analytics_sink"]
    ready: Callable[[], bool] = lambda: HTTP.get(f"http://127.0.0.1:{port}/readyz").status_code == 200  # noqa: E731
    until(ready, 90, "analytics-sink runs")

    first = listener(port)
    assert first is not None
    psutil.Process(first).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: listener(port) not in (None, first), 90, "analytics-sink came back", every=0.5)
    until(ready, 60, "analytics-sink is ready again")
    states = [run["state"]["type"] for run in server.runs("analytics-sink")]
    assert "CRASHED" in states
    assert states.count("RUNNING") == 1, states
    print(f"back after {time.monotonic() - killed:.0f} s")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("window", [{}, {"start": "2026-11-23T00:00:00Z", "end": "2026-11-24T00:00:00Z"}])
def test_a_load_runs_by_arrival_and_for_a_window_and_shows_what_it_did(server: Server, window: dict[str, str]) -> None:
    run_id = server.start("load-wfm-intervals", **window)
    until(lambda: server.state(run_id) in {"COMPLETED", "FAILED", "CRASHED"}, 120, "the load ends")
    assert server.state(run_id) == "COMPLETED", server.http.get(f"/flow_runs/{run_id}").json()["state"]
    artifacts = server.http.post("/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run_id]}}}).json()
    shown = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert shown.keys() == {"load-wfm-intervals", "offered-answered", "service-level", "occupancy", "queues"}
    assert "data:image/png;base64," in shown["offered-answered"]


@pytest.mark.timeout(200)
def test_a_window_the_wrong_way_round_fails_with_a_reason(server: Server) -> None:
    run_id = server.start("load-analytics", start="2026-11-24T00:00:00Z", end="2026-11-23T00:00:00Z")
    until(lambda: server.state(run_id) in {"FAILED", "CRASHED", "COMPLETED"}, 180, "the load ends")
    run = server.http.get(f"/flow_runs/{run_id}").json()
    assert run["state"]["type"] == "FAILED"
    assert "give an end after the start" in run["state"]["message"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_stream_whose_machine_vanished_is_started_elsewhere(server: Server) -> None:
    port = server.platform.ports["cxone_publisher"]
    until(lambda: listener(port) is not None, 150, "cxone-publisher runs", every=0.5)
    (run,) = [run for run in server.runs("cxone-publisher") if run["state"]["type"] == "RUNNING"]
    beats = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        }
    }
    until(lambda: server.http.post("/events/filter", json=beats).json()["total"] > 0, 90, "a heartbeat")
    pid = listener(port)
    assert pid is not None
    vanished = psutil.Process(pid)
    vanished.suspend()  # as a machine without power: no exception, no exit code, no heartbeat
    try:
        time.sleep(75)
        server.start("keep-alive", silent_minutes=1)
        until(lambda: server.state(run["id"]) == "CRASHED", 90, "marked as crashed")
        until(lambda: len(server.runs("cxone-publisher")) > 1, 60, "started elsewhere")
        time.sleep(10)
        states = [run["state"]["type"] for run in server.runs("cxone-publisher")]
        assert len([state for state in states if state != "CRASHED"]) == 1, "started once, not twice"
    finally:
        vanished.kill()


def test_what_the_services_log_is_kept_without_secrets(server: Server) -> None:
    (log,) = (server.platform.stack.root / "logs").glob("worker-streams.log")
    url = f"http://127.0.0.1:{server.platform.ports['receiver']}/cxone/webhook/south-{server.platform.suffix}"
    until(lambda: HTTP.post(url, headers={"Authorization": "Bearer s3cret!"}).status_code == 401, 90, "refused")
    HTTP.post(url, headers={"Authorization": "Bearer s3cret-of-16-chars", "Content-Type": "text/plain"})
    until(lambda: "application/json" in log.read_text(errors="replace"), 10, "the reason is in the log")
    assert "s3cret" not in log.read_text(errors="replace")
