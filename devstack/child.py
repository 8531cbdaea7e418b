"""One child process: its health, its log, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx
import psutil

from devstack import guard
from devstack.errors import StartError

STOP_SECONDS = 15.0
KILL_SECONDS = 5.0
POLL_SECONDS = 0.05
_TAIL_LINES = 25
_TAIL_BYTES = 16_384

# Nobody closes a probe.
_NOTHING_KEPT = httpx.Limits(max_keepalive_connections=0)

Probe = Callable[[], bool]


def http_probe(url: str) -> Probe:
    """A probe that is true once a GET of the URL is answered with 2xx or 3xx."""
    # One client: each loads the CA certificates, 25 ms of a core that the server needs to start.
    # trust_env=False: a proxy of the environment must not see loopback traffic.
    client = httpx.Client(timeout=2.0, trust_env=False, limits=_NOTHING_KEPT)

    def probe() -> bool:
        try:
            return client.get(url).is_error is False
        except httpx.HTTPError:
            return False

    return probe


class ChildProcess:
    """One running child. Made by ``ProcessTable.start``."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._popen = popen
        self._lock = threading.Lock()
        self.created = _created(popen.pid)  # with the pid it names a process for good

    @property
    def pid(self) -> int:
        """Process id, also id of its session and process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative signal number, or None while it runs."""
        with self._lock:
            return self._popen.poll()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    def fail(self, what: str) -> NoReturn:
        """Raise a StartError that says what went wrong and shows the end of the log."""
        msg = f"{self.name} {what}. Its log, {self.log}, ends with:\n{_tail(self.log)}"
        raise StartError(msg)

    def wait_healthy(self, probe: Probe, deadline_s: float) -> None:
        """Poll until the probe is true.

        Raises:
            StartError: the process ended, or the deadline (seconds) passed.
        """
        end = time.monotonic() + deadline_s
        while True:
            code = self.exit_code
            if code is not None:
                self.fail(f"ended with status {code} while starting")
            if probe():
                return
            if time.monotonic() >= end:
                self.fail(f"is not healthy after {deadline_s:.0f} s")
            time.sleep(POLL_SECONDS)

    def stop(self, deadline_s: float = STOP_SECONDS, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ask it to end, after the deadline (seconds) or in a hurry kill it; then end descendants that are left."""
        descendants = self._descendants()
        with self._lock:
            self._popen.send_signal(self._stop_signal)
        if not self._wait(deadline_s, hurry):
            descendants = self._descendants() or descendants
            self.kill()
        guard.end_processes(descendants)

    def kill(self) -> None:
        """SIGKILL to its process group, as in a crash; descendants in other groups stay, orphaned."""
        with self._lock:
            # Not yet waited for, so the id can't have passed to others.
            if self._popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
        self._wait(KILL_SECONDS)

    def _wait(self, deadline_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        end = time.monotonic() + deadline_s
        while self.is_running:
            if time.monotonic() >= end or hurry():
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).children(recursive=True)
        return []


def _tail(log: Path) -> str:
    """The last lines of a log file, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"    (unreadable: {error})"
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (empty)"


def _created(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return 0.0  # gone already
