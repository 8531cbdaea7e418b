"""The local stack: the platform's servers, started together, stopped together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, Thread

from rich.console import Console

from devstack.artifacts import ArtifactCache
from devstack.child import POLL_SECONDS
from devstack.errors import StackError
from devstack.interrupt import Interrupt, deferred_interrupts
from devstack.kafka import KafkaBroker
from devstack.lock import Lock, read_lock
from devstack.prefect import PrefectServer
from devstack.processes import ProcessTable
from devstack.progress import stack_console, timed
from devstack.registry import SchemaRegistry
from devstack.server import Server

# A thread may be in the middle of a read from the repository; it is a daemon, so no exit waits for it longer.
_JOIN_SECONDS = 5.0


class LocalStack:
    """Kafka and schema registry, on request also a Prefect server; use as a context manager.

    Data are kept in ``root``, so a stack that starts there again goes on with the same topics, schemas and flow runs.
    ``processes.start`` takes further children (simulators, workers) that are to end with the stack.

    Args:
        root: folder of the stack; one stack at a time.
        prefect: whether to start a Prefect server, with the work pools of ``devstack.prefect.POOLS``.
        kafka_bootstrap: addresses of a cluster that exists; no broker is started then.
        registry_url: URL of a schema registry that exists; none is started then.
        kafka_port: where the local broker listens, by default a free port.
        registry_port: where the local registry listens, by default a free port.
        prefect_port: where the Prefect server listens, by default a free port.
        console: where progress is shown, by default standard error.
        brief: whether the stack lives for minutes, as in tests (see ``KafkaBroker``).

    Attributes:
        processes: the stack's processes.
        kafka: the local broker, None if a cluster was named.
        registry: the local registry, None if one was named.
        prefect: the Prefect server, None if none was asked for.
    """

    def __init__(
        self,
        root: Path,
        *,
        prefect: bool = False,
        kafka_bootstrap: str | None = None,
        registry_url: str | None = None,
        kafka_port: int | None = None,
        registry_port: int | None = None,
        prefect_port: int | None = None,
        console: Console | None = None,
        brief: bool = False,
    ) -> None:
        self.root = root.absolute()
        self.processes = ProcessTable(self.root)
        self.kafka: KafkaBroker | None = None
        self.registry: SchemaRegistry | None = None
        self.prefect = PrefectServer(self.processes, self.root / "prefect", prefect_port) if prefect else None
        self._kafka_bootstrap = kafka_bootstrap
        self._registry_url = registry_url
        self._kafka_port = kafka_port
        self._registry_port = registry_port
        self._console = console or stack_console()
        self._brief = brief
        self._exit = ExitStack()

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address."""
        if self.kafka is not None:
            return self.kafka.bootstrap_servers
        return _started(self._kafka_bootstrap)

    @property
    def registry_url(self) -> str:
        """The schema registry's URL."""
        if self.registry is not None:
            return self.registry.url
        return _started(self._registry_url)

    @property
    def prefect_api_url(self) -> str:
        """The Prefect server's API."""
        if self.prefect is None:
            msg = "the stack has no Prefect server: ask for one with prefect=True"
            raise StackError(msg)
        return self.prefect.api_url

    def environment(self) -> dict[str, str]:
        """Variables that point the platform's settings to this stack."""
        return {
            "CCAAS_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "CCAAS_REGISTRY__URL": self.registry_url,
        }

    def __enter__(self) -> LocalStack:
        with deferred_interrupts() as interrupted, ExitStack() as undo:
            threads: list[Thread] = []
            given_up = Event()
            # In reverse order: downloads are told to end, processes end, and so do the threads that waited for them.
            undo.callback(_join, threads)
            undo.enter_context(self.processes)
            undo.callback(given_up.set)
            cache = ArtifactCache(console=self._console, interrupted=lambda: interrupted() or given_up.is_set())
            self._start_parts(self._parts(cache), threads, interrupted)
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    def _parts(self, cache: ArtifactCache) -> list[Callable[[], None]]:
        """What is to be started, each as soon as its files are there."""
        lock = read_lock()
        parts: list[Callable[[], None]] = []
        if self.prefect is not None:
            parts.append(partial(self._start, self.prefect))
        if self._kafka_bootstrap is None:
            parts.append(partial(self._start_kafka, cache, lock))
        if self._registry_url is None:
            parts.append(partial(self._start_registry, cache, lock))
        return parts

    def _start_parts(self, parts: list[Callable[[], None]], threads: list[Thread], interrupted: Interrupt) -> None:
        """Start the parts side by side."""
        outcomes: list[BaseException | None] = []
        for part in parts:
            threads.append(Thread(target=_report, args=(part, outcomes), daemon=True))
            threads[-1].start()
        while len(outcomes) < len(parts) and not any(outcomes) and not interrupted():
            time.sleep(POLL_SECONDS)
        for failure in filter(None, outcomes):
            raise failure
        if interrupted():
            raise KeyboardInterrupt

    def _start_kafka(self, cache: ArtifactCache, lock: Lock) -> None:
        jars = cache.fetch(lock.kafka, "Apache Kafka")
        self.kafka = KafkaBroker(self.processes, self.root / "kafka", jars, self._kafka_port, brief=self._brief)
        self._start(self.kafka)

    def _start_registry(self, cache: ArtifactCache, lock: Lock) -> None:
        program = cache.unpacked(lock.registry, "schema registry")
        self.registry = SchemaRegistry(self.processes, self.root / "registry", program, self._registry_port)
        self._start(self.registry)

    def _start(self, server: Server) -> None:
        with timed(self._console, server.label):
            server.start()


def _report(part: Callable[[], None], outcomes: list[BaseException | None]) -> None:
    try:
        part()
    except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
        outcomes.append(error)
    else:
        outcomes.append(None)


def _join(threads: list[Thread]) -> None:
    for thread in threads:
        thread.join(_JOIN_SECONDS)


def _started(address: str | None) -> str:
    if address is None:
        msg = "the stack is not started: use it in a with statement"
        raise StackError(msg)
    return address
