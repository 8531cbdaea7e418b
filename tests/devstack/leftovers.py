"""Finds what a stack has left behind."""

from __future__ import annotations

import os
import time

import psutil

from devstack.guard import is_alive

# A kill -9 must leave nothing after this; an orphan's zombie that the system has not collected yet counts as nothing.
GONE_SECONDS = 10.0


def still_there(processes: list[psutil.Process]) -> list[str]:
    """What is left of these processes once they had their time to go."""
    end = time.monotonic() + GONE_SECONDS
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return [f"{process.pid} {' '.join(process.cmdline())[:100]}" for process in alive]


def marked_with(name: str, value: str) -> list[psutil.Process]:
    """Every living process that has this variable in its environment, without the caller."""
    found = []
    # Not psutil.process_iter: it remembers processes, and one whose id went to another meanwhile counts as ended.
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            if process.pid != os.getpid() and process.environ().get(name) == value and is_alive(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
