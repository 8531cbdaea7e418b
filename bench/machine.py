"""What a figure was measured on: figures without it say nothing."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on a disk: where the system's is memory, an fsync costs nothing and proves nothing."""
    base: Path | None = None
    if file_system(Path(tempfile.gettempdir())) in _MEMORY_FILE_SYSTEMS:
        base = Path(".ccaas").absolute()
        base.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="ccaas-bench-", dir=base, ignore_cleanup_errors=True)


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, empty if the system does not tell."""
    path = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in (path, *path.parents) if folder in mounts), "")


def describe(folder: Path) -> dict[str, Any]:
    """Processor, memory, system, disk; how long an fsync takes and how busy the machine is already."""
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "file_system": file_system(folder),
        "fsync_ms": round(_fsync_ms(folder), 3),
        "busy_before_percent": psutil.cpu_percent(interval=2.0),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _fsync_ms(folder: Path) -> float:
    """Median time to append 4 KiB and have it on disk."""
    times = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1000
