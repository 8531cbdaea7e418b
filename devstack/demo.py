"""The main job: a real day of calls from both vendors through the platform, run by Prefect, into the warehouse."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from devstack.bus import Bus
from devstack.demo_report import Report, collect
from devstack.demo_view import Stages, summary_table
from devstack.errors import StackError
from devstack.prefect import PrefectServer
from devstack.processes import ProcessTable
from devstack.progress import timed
from devstack.python import loopback_unproxied
from devstack.removal import remove_from_cluster
from devstack.replay import SHIPPED_TRACE, CallReplay, trace_dates
from devstack.stack import LocalStack
from streaming.errors import ConfigurationError
from streaming.settings import Settings, load_settings
from warehouse.windows import ceil

_STREAMS = ("genesys-ingest", "cxone-receiver", "cxone-publisher", "analytics-sink", "crm-sync", "wfm-realtime")
# On a busy machine flow runs begin late.
_READY_S = 360.0
_FLOW_S = 180.0
# After the vendors' last event: how long the rest may take to reach the landing zone and the CRM.
_SETTLE_S = 90.0
_TICK_S = 0.5
# For one request to it.
_PATIENCE_S = 240.0


class Demo:
    """One run of ``ccaas demo``.

    Args:
        trace: Trace file; None for the shipped day.
        days: Only the trace's first N dates.
        speed: Event time over wall time.
        as_recorded: Keep the trace's dates.
        stay: Stay up until Ctrl-C when done.
        report: File for the report, JSON.
    """

    def __init__(
        self,
        *,
        trace: Path | None,
        days: int | None,
        speed: float,
        as_recorded: bool,
        stay: bool,
        report: Path | None,
    ) -> None:
        self._trace = trace or SHIPPED_TRACE
        self._days = days
        self._speed = speed
        self._as_recorded = as_recorded
        self._stay = stay
        self._report = report
        self._console = Console(stderr=True)

    def run(self) -> int:
        """Run it; 0 if everything that was sent arrived once, 1 if not.

        Raises:
            ConfigurationError: the trace or a setting is wrong.
            StackError: a part does not start.
        """
        _check_report(self._report)
        trace_dates(self._trace, self._days)  # a wrong trace is said before anything starts
        settings = load_settings()
        # For the clients of this process, too: the registry's reads the environment.
        os.environ.update(loopback_unproxied(os.environ))
        root = settings.data_dir.absolute() / "demo"
        with ProcessTable(root):  # ends what a killed demo left, before its data are removed
            for name in ("kafka", "registry", "prefect", "platform"):
                shutil.rmtree(root / name, ignore_errors=True)
        try:
            kafka = settings.kafka.bootstrap_servers if _names_cluster(settings) else None
            registry = settings.registry.url if _names_registry(settings) else None
            with LocalStack(
                root, prefect=True, kafka_bootstrap=kafka, registry_url=registry, console=self._console
            ) as stack:
                return self._on(stack, root, settings)
        except KeyboardInterrupt:
            self._console.print("stopped; everything has ended")
            return 130

    def _on(self, stack: LocalStack, root: Path, settings: Settings) -> int:
        # On a cluster that others use, a run keeps to tenants, topics and a consumer group of its own.
        shared = _names_cluster(settings)
        replay = CallReplay(
            stack,
            root / "platform",
            trace=self._trace,
            first_dates=self._days,
            as_recorded=self._as_recorded,
            suffix=f"-demo-{uuid.uuid4().hex[:8]}" if shared else "",
            # What the user says of a cluster is not meant for the local servers.
            clients=(
                settings.kafka.client if shared else {},
                settings.registry.client if _names_registry(settings) else {},
            ),
            replication_factor=settings.kafka.replication_factor if shared else 1,
            crm=True,
        )
        if not shared:
            return self._play(stack, replay)
        endings = [f".{vendor.name}.{vendor.tenant_id}" for vendor in replay.vendors]
        self._console.print(
            f"On {stack.bootstrap_servers} this run makes topics that end in {' and '.join(endings)} and the consumer "
            f"groups {', '.join(replay.groups)}, and deletes them at its end. Consumers there whose pattern is the "
            "default, ^ccaaus\\.events\\..*, read them too.",
            highlight=False,
            markup=False,
        )
        try:
            return self._play(stack, replay)
        finally:
            _prefect_of(stack).stop_workers()  # who reads or writes a topic might make it again
            left = remove_from_cluster(settings.kafka, endings, replay.groups)
            for line in left or ["the run's topics and consumer groups are deleted"]:
                self._console.print(f"not deleted: {line}" if left else line, highlight=False, markup=False)

    def _play(self, stack: LocalStack, replay: CallReplay) -> int:
        prefect = _prefect_of(stack)
        with timed(self._console, "vendor simulators"):
            replay.prepare()
        client = _Prefect(prefect.api_url)
        with timed(self._console, "deployments and workers"):
            environment = {"CCAAS_CONFIG": str(replay.config)}
            prefect.run_cli("deploy", "deploy", "--all", environment=environment)
            for pool in ("streams", "batch"):
                prefect.start_worker(pool, environment)
        with timed(self._console, "streaming services"):
            for name in _STREAMS:
                client.start(name)
            self._wait_ready(replay, stack.processes.log_file("worker-streams"))
        self._console.print(
            f"Prefect UI: [bold]{prefect.ui_url}[/] · live queues and agents: [bold]{replay.live_url}[/]",
            highlight=False,
        )

        began = time.monotonic()
        self._replay(replay)
        with timed(self._console, "warehouse loads"):
            self._load(client, replay)
        report = collect(replay, seconds=time.monotonic() - began)
        if self._report is not None:
            _write_report(self._report, report)
        self._console.print(summary_table(report))
        self._say_verdict(report)
        if self._stay:
            self._console.print(
                f"Prefect UI {prefect.ui_url} · warehouse {report.warehouse} · settings {replay.config}\n"
                "Everything keeps running; Ctrl-C stops it.",
                highlight=False,
            )
            while True:
                time.sleep(1)
        return 0 if report.adds_up else 1

    def _wait_ready(self, replay: CallReplay, log: Path) -> None:
        deadline = time.monotonic() + _READY_S
        waiting = replay.health_urls()
        while waiting:
            waiting = {name: url for name, url in waiting.items() if not _is_ready(url)}
            if waiting and time.monotonic() > deadline:
                msg = f"not ready after {_READY_S:.0f} s: {', '.join(waiting)}; their log is {log}"
                raise StackError(msg)
            time.sleep(_TICK_S)

    def _replay(self, replay: CallReplay) -> None:
        """Play the trace and wait until all of it has landed and is in the CRM, showing every stage."""
        bus = Bus(replay.settings().kafka)
        stages = Stages(replay, bus)
        replay.begin(self._speed)
        settled: float | None = None
        with Live(stages.render(), console=self._console, refresh_per_second=4) as live:
            while True:
                live.update(stages.render())
                if replay.is_done():
                    settled = settled or time.monotonic()
                    if stages.all_arrived() or time.monotonic() - settled > _SETTLE_S:
                        break
                time.sleep(_TICK_S)
            live.update(stages.render())
        bus.close()

    def _load(self, client: _Prefect, replay: CallReplay) -> None:
        """The scheduled flows, run now for the replayed days."""
        client.run("load-events")
        last = replay.dates[-1]
        midnight = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
        # Calls of the last date may run past midnight.
        end = max(midnight, ceil(replay.last_event(), 60))
        window: dict[str, Any] = {"start": replay.start.isoformat(), "end": end.isoformat()}
        for name in ("load-wfm-intervals", "load-analytics"):
            client.run(name, window)

    def _say_verdict(self, report: Report) -> None:
        if report.adds_up:
            self._console.print("[bold green]Everything that was sent is in the warehouse and in the CRM, once.[/]")
            return
        for vendor in report.vendors:
            for line in vendor.complaints():
                self._console.print(f"[bold red]{vendor.vendor}: {line}[/]", highlight=False)


class _Prefect:
    """The few requests that the demo makes to the Prefect server, repeated while it is too busy to answer."""

    def __init__(self, api_url: str) -> None:
        self._http = httpx.Client(base_url=api_url, timeout=30, trust_env=False)

    def start(self, deployment: str, parameters: dict[str, Any] | None = None) -> str:
        """Create a flow run of a deployment, due now; gives its id."""
        (only,) = self._ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        # With the key a repeated request finds the run that the first one made.
        body = {"parameters": parameters or {}, "idempotency_key": uuid.uuid4().hex}
        return str(self._ask("POST", f"/deployments/{only['id']}/create_flow_run", body)["id"])

    def run(self, deployment: str, parameters: dict[str, Any] | None = None) -> None:
        """Run a deployment to its end.

        Raises:
            StackError: it did not complete.
        """
        run_id = self.start(deployment, parameters)
        deadline = time.monotonic() + _FLOW_S
        while time.monotonic() < deadline:
            state = self._ask("GET", f"/flow_runs/{run_id}")["state"]
            if state["type"] == "COMPLETED":
                return
            if state["type"] in {"FAILED", "CRASHED", "CANCELLED"}:
                msg = f"flow run of {deployment} ended {state['name']}: {state.get('message')}"
                raise StackError(msg)
            time.sleep(_TICK_S)
        msg = f"flow run of {deployment} took longer than {_FLOW_S:.0f} s"
        raise StackError(msg)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            return self._repeated(method, path, body)
        except httpx.HTTPError as error:
            msg = f"the Prefect server does not answer {method} {path}: {error}"
            raise StackError(msg) from error

    @retry(
        retry=retry_if_exception_type(httpx.HTTPError),
        stop=stop_after_delay(_PATIENCE_S),
        wait=wait_random(0.2, 3),
        reraise=True,
    )
    def _repeated(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        return self._http.request(method, path, json=body).raise_for_status().json()


def _names_cluster(settings: Settings) -> bool:
    """Whether the settings name a Kafka cluster; else a local broker is started."""
    return "bootstrap_servers" in settings.kafka.model_fields_set


def _names_registry(settings: Settings) -> bool:
    """Whether the settings name a schema registry; else a local one is started."""
    return "url" in settings.registry.model_fields_set


def _check_report(file: Path | None) -> None:
    """Refuse a report that could not be written, before the replay instead of after it."""
    if file is None:
        return
    if not file.parent.is_dir():
        msg = f"--report {file}: the folder {file.parent} is not there; create it or name another file"
    elif file.is_dir():
        msg = f"--report {file}: that is a folder; name a file"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        msg = f"--report {file}: it can't be written; change its permissions or name another file"
    else:
        return
    raise ConfigurationError(msg)


def _write_report(file: Path, report: Report) -> None:
    try:
        file.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"the report can't be written: {error}"
        raise StackError(msg) from error


def _prefect_of(stack: LocalStack) -> PrefectServer:
    if stack.prefect is None:
        msg = "the stack was started without Prefect"
        raise StackError(msg)
    return stack.prefect


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
