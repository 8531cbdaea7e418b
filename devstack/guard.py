"""The guard: one small process that ends whatever a stack started, once the stack's owner is gone, however it went.

Run as ``python guard.py STACK_ID OWNER_PID`` with a pipe on standard input whose other end only the owner holds. When
the owner exits or dies (even by kill -9) the kernel closes the pipe; the guard then ends every process that carries the
stack's id in its environment, which children inherit, also those that a dead child has orphaned (Prefect's flow runs).

It stands by itself (standard library and psutil), so that it starts fast and works whatever else is broken.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterable

import psutil

STACK_ID_VARIABLE = "CCAAS_STACK_ID"

TERM_SECONDS = 3.0
KILL_SECONDS = 2.0
# A worker may start another process between our look and its end; a handful of rounds catches these.
_ROUNDS = 5
_OWNER_POLL_SECONDS = 0.5
_POLL_SECONDS = 0.02


def marked_processes(stack_id: str) -> list[psutil.Process]:
    """Every process of this stack that we may look into, without the caller itself."""
    found = []
    # Not psutil.process_iter: it remembers processes, and one whose id went to another meanwhile counts as ended.
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.pid != os.getpid() and process.environ().get(STACK_ID_VARIABLE) == stack_id:
                found.append(process)
    return found


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """SIGTERM to all, then SIGKILL to those still there after ``TERM_SECONDS``.

    psutil compares the time of creation before it signals: a pid that went to another process meanwhile is safe.
    """
    listed = list(processes)
    for process in listed:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    alive = _wait_for_end(listed, TERM_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait_for_end(alive, KILL_SECONDS)


def sweep(stack_id: str) -> int:
    """End every process of the stack. Returns how many were found."""
    total = 0
    for _ in range(_ROUNDS):
        found = [process for process in marked_processes(stack_id) if is_alive(process)]
        if not found:
            break
        total += len(found)
        end_processes(found)
    return total


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie has ended; that its parent does not collect it is not our concern."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended (psutil's own wait counts zombies as running). Returns those that have not."""
    end = time.monotonic() + seconds
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return alive


def _wait_for_owner(owner: int) -> None:
    # The parent's pid is looked at too: a forked child of the owner may have inherited the pipe's other end.
    while os.getppid() == owner:
        readable, _, _ = select.select([sys.stdin], [], [], _OWNER_POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return


if __name__ == "__main__":
    _wait_for_owner(int(sys.argv[2]))
    sweep(sys.argv[1])
