"""A Prefect server of the stack's own, its process work pools and workers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from devstack.child import ChildProcess, Probe, http_probe
from devstack.errors import StackError, StartError
from devstack.ports import HOST
from devstack.postgres import PostgresServer
from devstack.processes import ProcessTable
from devstack.python import python_environment
from devstack.server import Server

# Long-running flows and scheduled ones: a full batch pool must not keep a stream from coming back. None: no limit.
POOLS: dict[str, int | None] = {"streams": None, "batch": 2}

# The first start of a server creates its database: 100 migrations.
_START_SECONDS = 180.0
_WORKER_SECONDS = 90.0
_REQUEST_SECONDS = 10.0


class PrefectServer(Server):
    """A server with a PostgreSQL database of its own; flow runs and schedules outlive the process.

    Not SQLite: there a transaction that reads before it writes fails once another has written in between, and on a
    busy machine the server answers 503 to one request after the other.

    Args:
        processes: who starts and ends it, and the workers.
        folder: home and, if PostgreSQL's user can reach it, database (see ``PostgresServer``).
        port: where it listens; by default a free one is chosen.
        limits: greatest number of flow runs at once by work pool, None for no limit.
    """

    label = "Prefect server"
    remedy = "name another port for the local Prefect server"

    def __init__(
        self,
        processes: ProcessTable,
        folder: Path,
        port: int | None = None,
        limits: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(processes, folder, port)
        self._limits = dict(POOLS if limits is None else limits)
        self._workers: dict[str, ChildProcess] = {}
        # One client: each loads the CA certificates, 25 ms of a core, and workers are polled for while they start.
        self._http = httpx.Client(
            base_url=self.api_url,
            timeout=_REQUEST_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._database = PostgresServer(processes, self._folder / "database")

    def stop(self) -> None:
        """Stop it in order, then its database."""
        super().stop()
        self._database.stop()

    @property
    def ui_url(self) -> str:
        """Address of the UI, for people."""
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """Address of the API, for PREFECT_API_URL."""
        return f"{self.ui_url}/api"

    @property
    def _scratch(self) -> Path:
        return self._folder / "tmp"

    def environment(self) -> dict[str, str]:
        """For workers, flows, CLI: the owner's environment, the settings of Prefect being this server's.

        Those of the platform are left out (``python_environment``).
        """
        kept = {name: value for name, value in python_environment().items() if not name.startswith("PREFECT_")}
        return kept | {
            "PREFECT_HOME": str(self._folder),
            # A killed flow run leaves its working folder; here the next start removes it.
            "TMPDIR": str(self._scratch),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_LOGGING_COLORS": "false",
            # How soon a worker sees that a run is due; the default of 10 s is meant for many workers on one server.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }

    def start_worker(self, pool: str, environment: Mapping[str, str] | None = None) -> ChildProcess:
        """Start the worker of a work pool and wait until the server counts it as online.

        Args:
            pool: name of the pool.
            environment: variables for the worker and the flow runs that it starts, beside those of ``environment()``.

        Raises:
            StartError: it does not come up.
        """
        name = f"worker-{pool}"
        command = ["worker", "start", f"--pool={pool}", "--type=process", f"--name={name}", "--install-policy=never"]
        self._workers[pool] = self._processes.start(
            name,
            [sys.executable, "-m", "prefect", *command],
            environment=self.environment() | dict(environment or {}),
            probe=self._online(pool),
            deadline_s=_WORKER_SECONDS,
        )
        return self._workers[pool]

    def worker(self, pool: str) -> ChildProcess:
        """The worker of a pool that was started.

        Raises:
            StackError: none was.
        """
        if pool not in self._workers:
            msg = f"no worker was started for the work pool {pool}"
            raise StackError(msg)
        return self._workers[pool]

    def stop_workers(self) -> None:
        """Stop the workers and the flow runs that they started."""
        for worker in self._workers.values():
            worker.stop()
        self._workers.clear()

    def run_cli(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Run ``prefect ARGUMENTS`` against this server in the owner's working folder, e.g. ``deploy --all``.

        Raises:
            StartError: it failed; the message shows the end of its output.
        """
        self._processes.run(
            name,
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            environment=self.environment() | dict(environment or {}),
            folder=Path.cwd(),
            deadline_s=_START_SECONDS,
        )

    def _launch(self) -> ChildProcess:
        if self._child is None:  # flow runs outlive a restart of the server and still use their folders
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._database.start()
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database.async_url,
            # Of the 100 that PostgreSQL takes. With the default of 5 most connections of a burst are closed after use.
            "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "20",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # A 503 says nothing of its reason to the client; the log does.
            "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true",
            # Else the server writes its UI's files into the installed package.
            "PREFECT_UI_STATIC_DIRECTORY": str(self._folder / "ui"),
            # In memory, the default, a restart of the server ends every run that holds a concurrency slot.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        child = self._processes.start(
            "prefect-server",
            [sys.executable, "-m", "prefect", "server", "start", f"--host={HOST}", f"--port={self.port}"],
            environment=self.environment() | settings,
            folder=self._folder,
            probe=http_probe(f"{self.api_url}/ready"),
            deadline_s=_START_SECONDS,
        )
        for pool, limit in self._limits.items():
            self._ensure_pool(pool, limit)
        return child

    @retry(
        retry=retry_if_exception_type(httpx.TransportError),
        stop=stop_after_attempt(3),
        wait=wait_fixed(1),
        reraise=True,
    )
    def _ensure_pool(self, pool: str, limit: int | None) -> None:
        body = {"name": pool, "type": "process", "concurrency_limit": limit}
        answer = self._http.post("/work_pools/", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            answer = self._http.patch(f"/work_pools/{pool}", json={"concurrency_limit": limit})
        if answer.is_error:
            msg = f"work pool {pool}: the Prefect server answered {answer.status_code}: {answer.text[:500]}"
            raise StartError(msg)

    def _online(self, pool: str) -> Probe:
        """True once a worker has sent a heartbeat that is newer than this call."""
        before = self._heartbeats(pool)

        def probe() -> bool:
            return bool(self._heartbeats(pool) - before)

        return probe

    def _heartbeats(self, pool: str) -> set[str]:
        try:
            answer = self._http.post(f"/work_pools/{pool}/workers/filter", json={})
            workers = answer.json() if answer.is_success else []
        except (httpx.HTTPError, ValueError):
            return set()
        return {f"{worker['name']} {worker['last_heartbeat_time']}" for worker in workers}
