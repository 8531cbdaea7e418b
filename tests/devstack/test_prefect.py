"""A real Prefect server, a worker and a flow run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console

from devstack.errors import StackError
from devstack.prefect import PrefectServer
from devstack.processes import ProcessTable
from devstack.stack import LocalStack
from tests.devstack.leftovers import marked_with, still_there

FLOW = """
import os, time
from pathlib import Path
from prefect import flow

@flow
def stream(note: str) -> None:
    Path(note).write_text(f"{os.getpid()} {os.environ['CCAAS_CONFIG']} {Path.cwd()}")
    time.sleep(600)
"""


class Api:
    """The little of Prefect's REST API that the test needs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self._client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def run_flow(self, pool: str, entrypoint: str, parameters: dict[str, str]) -> str:
        flow = self.call("POST", "/flows/", {"name": "stream"})["id"]
        deployment = self.call(
            "POST",
            "/deployments/",
            {"name": "d", "flow_id": flow, "work_pool_name": pool, "entrypoint": entrypoint, "pull_steps": []},
        )["id"]
        run = self.call("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def close(self) -> None:
        self._client.close()


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return value


def test_a_flow_run_gets_its_environment_outlives_a_server_crash_and_ends_with_the_stack(tmp_path: Path) -> None:
    (tmp_path / "flow_of_this_test.py").write_text(FLOW)
    note = tmp_path / "note"
    root = tmp_path / "stack"
    leftover = root / "prefect" / "tmp" / "of-a-killed-run"
    leftover.mkdir(parents=True)
    with LocalStack(
        root,
        prefect=True,
        kafka_bootstrap="127.0.0.1:1",
        registry_url="http://127.0.0.1:1",
        console=Console(quiet=True),
    ) as stack:
        assert stack.prefect is not None
        assert not leftover.exists()
        api = Api(stack.prefect_api_url)
        pools = {
            pool["name"]: (pool["type"], pool["concurrency_limit"])
            for pool in api.call("POST", "/work_pools/filter", {})
        }
        assert pools == {"streams": ("process", None), "batch": ("process", 2)}
        assert httpx.get(stack.prefect.ui_url, trust_env=False).text.startswith("<!DOCTYPE html>")

        environment = {"PYTHONPATH": str(tmp_path), "CCAAS_CONFIG": "here.toml"}
        stack.prefect.start_worker("streams", environment)
        run = api.run_flow("streams", "flow_of_this_test.stream", {"note": str(note)})
        wait_for(lambda: note.exists() and note.read_text(), 60)
        pid, config, working_folder = note.read_text().split()
        assert config == "here.toml"
        assert Path(working_folder).is_relative_to(root / "prefect" / "tmp")
        wait_for(lambda: api.call("GET", f"/flow_runs/{run}")["state"]["type"] == "RUNNING", 20)

        stack.prefect.kill()
        stack.prefect.start()
        assert {pool["name"] for pool in api.call("POST", "/work_pools/filter", {})} == {"streams", "batch"}
        assert api.call("GET", f"/flow_runs/{run}")["state"]["type"] == "RUNNING"
        assert Path(working_folder).exists()  # a restart of the server takes nothing from runs that go on

        # A killed worker leaves its flow run orphaned; that too must end with the stack.
        orphan = psutil.Process(int(pid))
        stack.prefect.worker("streams").kill()
        children = marked_with("CCAAS_STACK_ID", stack.processes.stack_id)
        assert orphan in children
        assert "postgres" in {child.name() for child in children}
        api.close()
    assert still_there(children) == []


def test_many_requests_at_once_are_all_answered_and_a_stop_ends_the_database_too(tmp_path: Path) -> None:
    with ProcessTable(tmp_path) as processes:
        server = PrefectServer(processes, tmp_path / "prefect", limits={})
        server.start()

        def create(number: int) -> list[int]:
            with httpx.Client(base_url=server.api_url, timeout=60, trust_env=False) as client:
                flow = client.post("/flows/", json={"name": f"flow-{number % 4}"})
                body = {"flow_id": flow.json()["id"], "state": {"type": "SCHEDULED"}, "name": str(number)}
                return [flow.status_code, client.post("/flow_runs/", json=body).status_code]

        # Requests that read before they write, from more clients than there are connections.
        with ThreadPoolExecutor(40) as pool:
            statuses = [status for pair in pool.map(create, range(200)) for status in pair]
        assert set(statuses) <= {200, 201}
        children = marked_with("CCAAS_STACK_ID", processes.stack_id)
        assert "postgres" in {child.name() for child in children}
        server.stop()
        assert still_there(children) == []


def test_a_stack_without_prefect_says_so(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="prefect=True"):
        _ = LocalStack(tmp_path).prefect_api_url
