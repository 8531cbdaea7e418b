"""``python -m bench [NAME ...] [--rounds N] [--report FILE]``: run the benchmarks and print one table.

A missed goal is printed and is no failure; the exit status is 1 if a benchmark breaks.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
from rich.console import Console

from bench import (
    ack,
    broken,
    crm,
    flood,
    isolation,
    landing,
    latency,
    live,
    machine,
    normalise,
    postgresql,
    reconcile,
    reprocess,
    spool,
    usage,
    warehouse,
)
from bench.harness import Figure, as_table
from bench.lab import Lab

BENCHMARKS: dict[str, Callable[[Lab, int], list[Figure]]] = {
    "ack": ack.run,
    "normalise": normalise.run,
    "latency": latency.run,
    "spool": spool.run,
    "reconcile": reconcile.run,
    "flood": flood.run,
    "broken": broken.run,
    "reprocess": reprocess.run,
    "usage": usage.run,
    "warehouse": warehouse.run,
    "postgresql": postgresql.run,
    "crm": crm.run,
    "landing": landing.run,
    "live": live.run,
    "isolation": isolation.run,
}
"""Name → benchmark. A new one is a module with ``run(lab, rounds)`` and a line here."""

_ROUNDS = 5
# Start of the stack and the longest benchmarks' rounds, s; past it something hangs.
_LIMIT_S, _LIMIT_PER_ROUND_S = 900, 720


def main() -> int:
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    results: dict[str, list[Figure]] = {}
    failed: dict[str, str] = {}
    _limit(_LIMIT_S + _LIMIT_PER_ROUND_S * arguments.rounds)
    began = datetime.now(UTC)
    with machine.work_folder() as folder:
        facts = machine.describe(Path(folder))
        console.print(
            f"{facts['cores']} cores {facts['cpu']}, Python {facts['python']}, {facts['system']}; "
            f"{facts['file_system']}, fsync {facts['fsync_ms']} ms; busy before: {facts['busy_before_percent']} %"
        )
        with Lab(Path(folder), Console(stderr=True, highlight=False)) as lab:
            for name in arguments.names or BENCHMARKS:
                console.print(f"{name}: {arguments.rounds} rounds …")
                try:
                    results[name] = BENCHMARKS[name](lab, arguments.rounds)
                except Exception as error:  # noqa: BLE001 (whatever broke one benchmark, the others are still wanted)
                    traceback.print_exc()
                    failed[name] = f"{type(error).__name__}: {error}"
    console.print(as_table(results))
    for name, why in failed.items():
        console.print(f"[bold red]{name} is broken[/]: {why}")
    if arguments.report:
        arguments.report.write_bytes(orjson.dumps(_report(began, facts, results, failed), option=orjson.OPT_INDENT_2))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"rounds of each benchmark (default {_ROUNDS})")
    parser.add_argument("--report", type=Path, help="write everything to this file as JSON")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    return arguments


def _limit(seconds: int) -> None:
    """Raise in the main thread when the time is up; where the system has no alarm, each step still has its own."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        msg = f"the benchmarks take longer than {seconds} s"
        raise SystemExit(msg)

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(seconds)


def _report(
    began: datetime, facts: dict[str, Any], results: dict[str, list[Figure]], failed: dict[str, str]
) -> dict[str, Any]:
    figures = [{"benchmark": name, **figure.as_json()} for name, found in results.items() for figure in found]
    return {"began": began.isoformat(timespec="seconds"), "machine": facts, "figures": figures, "broken": failed}


if __name__ == "__main__":
    sys.exit(main())
