"""Child processes of one stack: each in a session of its own, logged to a file, ended in order, never left behind.

Four ways out, one result:

1. the ``with`` block ends (also by an exception or Ctrl-C): children get SIGTERM in reverse order, later SIGKILL;
2. Ctrl-C meanwhile: what is left is killed at once;
3. the owner dies (kill -9): the guard sees its pipe close and ends every process of the stack (``guard.py``);
4. owner and guard die: the next start in the same folder ends what the state file and the environment marker name.

Temporary folders are removed at the end, after 3 and 4 by the next start in the same folder.

A terminal's Ctrl-C goes to every process of its foreground group; children are in sessions of their own, so it reaches
only the owner, which then stops them in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock, Timeout

from devstack import guard
from devstack.child import KILL_SECONDS, POLL_SECONDS, ChildProcess, Probe
from devstack.errors import StackError, StartError
from devstack.interrupt import deferred_interrupts

_GUARD_SECONDS = 15.0
# A log that has grown past this is set aside (one predecessor is kept) when its process starts again.
_LOG_BYTES = 20_000_000
# Only what has this prefix is removed, whatever a damaged state file names.
_TEMPORARY_PREFIX = "ccaas-"
# Clock adjustments shift the time of creation that the system reports for a process.
_CREATED_TOLERANCE_SECONDS = 2.0


class ProcessTable:
    """All children of one stack, and the folder that they belong to. Use as a context manager.

    Args:
        root: the stack's folder; logs are under ``logs``, the state file is ``stack.json``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.stack_id = uuid.uuid4().hex
        self._children: list[ChildProcess] = []
        self._temporary: list[Path] = []
        self._closing = False
        self._lock = threading.Lock()
        self._folder_lock = FileLock(self.root / "stack.lock", timeout=0)
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ProcessTable:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._folder_lock.acquire()
        except Timeout:
            msg = f"a stack is running in {self.root} already: stop it, or name another folder"
            raise StackError(msg) from None
        try:
            self._end_stale()
            self._start_guard()
            self._write_state()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        probe: Probe | None = None,
        deadline_s: float = 60.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
    ) -> ChildProcess:
        """Start a child and, if a probe is given, wait until it is healthy.

        Args:
            name: for messages and the log's file name.
            command: program and arguments.
            environment: the whole environment but for the stack's marker; by default the owner's.
            folder: working folder, by default the stack's.
            probe: true once the child is healthy.
            deadline_s: how long that may take, seconds.
            stop_signal: what asks it to end in order.
            user: id of the user (and of its group) to run as; only root may name another.

        Raises:
            StartError: it can't be started, ended at once or stayed unhealthy; it is ended then.
            StackError: the stack is being stopped.
        """
        log = self.log_file(name)
        with self._lock:
            if self._closing:
                msg = f"{name} is not started: the stack is being stopped"
                raise StackError(msg)
            popen = self._spawn(command, log, environment, folder, user)
            child = ChildProcess(name, popen, log, stop_signal)
            self._children = [other for other in self._children if other.is_running] + [child]
            self._write_state()
        if probe is not None:
            try:
                child.wait_healthy(probe, deadline_s)
            except BaseException:
                child.stop(deadline_s=1.0)
                raise
        return child

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        deadline_s: float = 60.0,
        user: int | None = None,
    ) -> None:
        """Run a command to its end, output to its log.

        Raises:
            StartError: it failed or took longer than the deadline (seconds).
        """
        child = self.start(name, command, environment=environment, folder=folder, user=user)
        end = time.monotonic() + deadline_s
        while child.is_running and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        if child.is_running:
            child.stop(deadline_s=1.0)
            child.fail(f"took longer than {deadline_s:.0f} s")
        if child.exit_code != 0:
            child.fail(f"failed with status {child.exit_code}")

    def temporary_folder(self, name: str) -> Path:
        """Make a folder outside the stack's that any user can pass through; it is gone when the stack has ended.

        Raises:
            OSError: it can't be made.
        """
        folder = Path(tempfile.gettempdir()) / f"{_TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex}"
        with self._lock:
            self._temporary.append(folder)
            self._write_state()  # first, so that a kill -9 can't come between
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask
        return folder

    def log_file(self, name: str) -> Path:
        """Log of a child."""
        return self.root / "logs" / f"{name}.log"

    def _spawn(
        self,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None,
        folder: Path | None,
        user: int | None,
    ) -> subprocess.Popen[bytes]:
        marked = {**(os.environ if environment is None else environment), guard.STACK_ID_VARIABLE: self.stack_id}
        try:
            with _open_log(log) as output:
                return subprocess.Popen(  # noqa: S603 (callers are the stack's own modules; no shell)
                    [str(part) for part in command],
                    env=marked,
                    cwd=folder or self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
        except OSError as error:
            msg = f"{log.stem} can't be started: {error}"
            raise StartError(msg) from error

    def _start_guard(self) -> None:
        # Our end of the pipe is not inherited by children (PEP 446), so it closes exactly when this process is gone.
        self._guard = subprocess.Popen(  # noqa: S603 (our own interpreter and file)
            [sys.executable, guard.__file__, self.stack_id, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _close(self) -> None:
        with self._lock:
            self._closing = True
            children = list(reversed(self._children))
        with deferred_interrupts() as interrupted:
            try:
                for child in children:
                    child.stop(hurry=interrupted)
            finally:
                self._end_guard()
                _remove(self._temporary)
                with contextlib.suppress(OSError):
                    self._state_file.unlink()
                self._folder_lock.release()

    def _end_guard(self) -> None:
        """Close the pipe: the guard ends what is left (orphans of children) and itself."""
        if self._guard is None:
            return
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        try:
            self._guard.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait(KILL_SECONDS)
        self._guard = None

    @property
    def _state_file(self) -> Path:
        return self.root / "stack.json"

    def _write_state(self) -> None:
        state = {
            "stack_id": self.stack_id,
            "owner": os.getpid(),
            "processes": [{"name": child.name, "pid": child.pid, "created": child.created} for child in self._children],
            "temporary": [str(folder) for folder in self._temporary],
        }
        fresh = self._state_file.with_suffix(".tmp")
        fresh.write_text(json.dumps(state, indent=1), encoding="utf-8")
        fresh.replace(self._state_file)

    def _end_stale(self) -> None:
        """End what an earlier stack in this folder left behind; we hold its lock, so that stack's owner is gone."""
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
            recorded = [(int(entry["pid"]), float(entry["created"])) for entry in state["processes"]]
            stale_id = str(state["stack_id"])
            temporary = [Path(folder) for folder in state.get("temporary", [])]
        except (OSError, ValueError, KeyError, TypeError):
            return
        guard.end_processes(filter(None, (_same_process(pid, created) for pid, created in recorded)))
        guard.sweep(stale_id)
        _remove(temporary)


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        if folder.name.startswith(_TEMPORARY_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)


def _open_log(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".1.log"))
    return log.open("ab")


def _same_process(pid: int, created: float) -> psutil.Process | None:
    """The process of that id, if it is the one that was created then."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) <= _CREATED_TOLERANCE_SECONDS:
            return process
    return None
