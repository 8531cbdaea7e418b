"""One load in a process of its own, so that its memory is its own: ``python -m bench.loading STEP URL LANDING``.

Prints JSON: seconds of the load alone, processor seconds, rows, greatest memory of the process in MB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import orjson

from warehouse.engine import Warehouse
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.schema import migrate
from warehouse.windows import Window

END = datetime(2026, 4, 1, tzinfo=UTC)
"""All events are dated before it."""

_SECONDS = 1_800.0


class Measured(NamedTuple):
    """What a step took."""

    seconds: float
    cpu_seconds: float
    rows: int
    rss_mb: float


def measured(step: str, url: str, landing: Path) -> Measured:
    """Run a step in a process of its own.

    Args:
        step: ``load`` (migrations are not timed), ``intervals`` (the first build), ``window`` (all of it built again)
            or ``late`` (what has landed since, and the cells that it touches).
        url: the warehouse's.
        landing: folder of the landing zone.
    """
    command = [sys.executable, "-m", "bench.loading", step, url, str(landing)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
    if done.returncode:
        msg = f"{step} of {landing} ended with {done.returncode}: {done.stderr.decode()[-2000:]}"
        raise RuntimeError(msg)
    return Measured(**orjson.loads(done.stdout))


def _run(step: str, warehouse: Warehouse) -> int:
    if step == "load":
        return load_events(warehouse, run_id="bench").rows
    if step == "intervals":
        return load_wfm_intervals_incremental(warehouse, end=END, run_id="bench").rows
    if step == "window":
        return load_wfm_intervals(warehouse, Window(datetime(2026, 1, 1, tzinfo=UTC), END), run_id="bench").rows
    load_events(warehouse, run_id="bench")
    return load_wfm_intervals_incremental(warehouse, end=END, run_id="bench").rows


def _main() -> None:
    step, url, landing = sys.argv[1:]
    warehouse = Warehouse(url=url, landing_dir=Path(landing))
    migrate(warehouse)
    began, cpu = time.perf_counter(), time.process_time()
    rows = _run(step, warehouse)
    found = Measured(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        rows=rows,
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    sys.stdout.buffer.write(orjson.dumps(found._asdict()))


if __name__ == "__main__":
    _main()
