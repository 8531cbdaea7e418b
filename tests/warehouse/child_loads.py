"""A process that runs all loads by arrival, told by its standard input how each round of them is to fail.

``run``: not at all. ``kill N``: SIGKILL before its N-th statement or commit. ``full BYTES``: no file may grow beyond so
many bytes, so that a write fails in mid-load as on a full disk. Answers with a line: ``ended``, ``killed`` or the
error's class. A round is a fork: imports would take longer than the loads.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from datetime import datetime
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from warehouse.engine import Warehouse, publish_read_copy
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals_incremental


def load_all(warehouse: Warehouse, end: datetime) -> None:
    """What the scheduled flows do in turn."""
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_daily_analytics(warehouse, run_id="r")
    load_wfm_intervals_incremental(warehouse, end=end, run_id="r")
    publish_read_copy(warehouse, force=True)


def _die_at(number: int) -> None:
    done = count(1)

    def step(*_: object) -> None:
        if next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", step)
    sa.event.listen(sa.Engine, "commit", step)


def _round(warehouse: Warehouse, end: datetime, order: str, number: int) -> str:
    if order == "kill":
        _die_at(number)
    if order == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    try:
        load_all(warehouse, end)
    except Exception as error:  # noqa: BLE001 (the test names the one it expects)
        return type(error).__name__
    return "ended"


def main() -> None:
    url, landing, end = sys.argv[1:]
    warehouse = Warehouse(url=url, landing_dir=Path(landing), lock_seconds=20)
    for line in sys.stdin:
        order, _, number = line.partition(" ")
        if (child := os.fork()) == 0:
            print(_round(warehouse, datetime.fromisoformat(end), order.strip(), int(number or 0)), flush=True)
            os._exit(0)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            print("killed", flush=True)


if __name__ == "__main__":
    main()
