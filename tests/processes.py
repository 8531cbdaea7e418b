"""Services of the platform as real child processes of a test."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from devstack.python import python_environment

# One client for all: a client of its own costs a request 25 ms of CPU, in which it loads the CA certificates.
HTTP = httpx.Client(timeout=20, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    condition: Callable[[], object], seconds: float = 30.0, what: str = "condition", *, every: float = 0.03
) -> None:
    """Wait for a condition, asking ``every`` so many seconds; a connection error counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if condition():
                return
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(every)


def _without_settings() -> dict[str, str]:
    return {name: text for name, text in python_environment().items() if not name.startswith("CCAAS_")}


class ServiceProcess:
    """`ccaas run NAME` under a configuration file, and settings from the environment over it."""

    def __init__(
        self, name: str, config: Path, log: Path, health: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.config = config
        self.log = log
        self.health = health
        self.environment = environment or {}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "ccaas", "run", self.name],
                env={**_without_settings(), "CCAAS_CONFIG": str(self.config), **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_alive(self) -> ServiceProcess:
        until(self._answers, what=f"{self.name} alive; log: {self.log.read_text()[-2000:]}")
        return self

    def wait_ready(self, seconds: float = 30) -> ServiceProcess:
        until(
            lambda: HTTP.get(f"{self.health}/readyz").status_code == 200,
            seconds,
            f"{self.name} ready",
        )
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-3000:]}"
        return HTTP.get(f"{self.health}/healthz").status_code == 200

    def kill(self) -> None:
        """kill -9, as a machine would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def service(name: str, config: Path, health_port: int) -> Iterator[ServiceProcess]:
    """Start, wait until alive, stop."""
    process = ServiceProcess(name, config, config.parent / f"{name}.log", f"http://127.0.0.1:{health_port}")
    try:
        yield process.wait_alive()
    finally:
        process.stop()
