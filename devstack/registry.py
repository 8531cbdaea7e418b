"""Apicurio Registry, with its Confluent-compatible API, on a file-backed H2 database."""

from __future__ import annotations

from pathlib import Path

from devstack.child import ChildProcess, http_probe
from devstack.java import java_command, java_environment
from devstack.ports import HOST
from devstack.processes import ProcessTable
from devstack.server import Server

_HEAP_MB = 256
_START_SECONDS = 120.0


class SchemaRegistry(Server):
    """A registry whose schemas and ids outlive the process, also a killed one.

    Args:
        processes: who starts and ends it.
        folder: its database.
        program: the unpacked distribution.
        port: where it listens; by default a free one is chosen.
    """

    label = "schema registry"
    remedy = "name another port for the local registry, or point registry.url to a registry that runs"

    def __init__(self, processes: ProcessTable, folder: Path, program: Path, port: int | None = None) -> None:
        super().__init__(processes, folder, port)
        self._program = program

    @property
    def url(self) -> str:
        """Base URL for SchemaRegistryClient."""
        return f"http://{HOST}:{self.port}/apis/ccompat/v7"

    def _launch(self) -> ChildProcess:
        (jar,) = self._program.glob("apicurio-registry-app-*-runner.jar")
        # WRITE_DELAY=0: H2 else writes a commit up to 500 ms later, and a crash would lose the id of a schema in use.
        database = f"jdbc:h2:file:{self._folder / 'registry'};WRITE_DELAY=0"
        environment = java_environment(
            REGISTRY_DATASOURCE_URL=database,
            QUARKUS_HTTP_HOST=HOST,
            QUARKUS_HTTP_PORT=str(self.port),
            LOG_LEVEL="WARN",
            REGISTRY_LOG_LEVEL="WARN",
        )
        # C1 alone: it starts in half the time, and a client asks the registry once for each schema.
        command = java_command(self._folder, _HEAP_MB, "-XX:TieredStopAtLevel=1")
        return self._processes.start(
            "registry",
            [*command, "-jar", jar],
            environment=environment,
            folder=self._folder,
            probe=http_probe(f"{self.url}/subjects"),
            deadline_s=_START_SECONDS,
        )
