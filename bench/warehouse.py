"""``warehouse``: landing files into DuckDB, cells from them, one late event; how it grows; how much memory it takes."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from statistics import correlation, linear_regression, median

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.landed import land, land_late
from bench.loading import Measured, measured

_MILLION = 1_000_000
_SIZES = "CCAAS_BENCH_MILLIONS"
_LATE = "CCAAS_BENCH_LATE_MILLIONS"
_REPEATED = 0.01
_RSS_MB = 2_000.0


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Sizes one after the other, the greatest ``rounds`` times, the others once; then the late events in a warehouse.

    Sizes are in millions of events of 90 days: ``CCAAS_BENCH_MILLIONS`` ("1,3,10"), and of the warehouse into which
    one event comes late ``CCAAS_BENCH_LATE_MILLIONS`` ("20", "0" to leave it out). At most one of them is on the
    disk, some 150 MB a million.
    """
    sizes = [int(float(text) * _MILLION) for text in os.environ.get(_SIZES, "1,3,10").split(",")]
    late = int(float(os.environ.get(_LATE, "20")) * _MILLION)
    loads: dict[int, list[Measured]] = {}
    builds: dict[int, list[Measured]] = {}
    for events in sizes:
        again = rounds if events == max(sizes) else 1
        loads[events], builds[events] = _grow(lab.folder / f"warehouse-{events}", events, again)
    figures = [figure for events in sizes for figure in _of_size(events, loads[events], builds[events])]
    figures += _growth({events: median(_seconds(found)) for events, found in builds.items()})
    peak = max(found.rss_mb for measures in (loads, builds) for of_size in measures.values() for found in of_size)
    goal = Goal(_RSS_MB, "value", "at most")
    figures.append(Figure(f"greatest memory, {max(sizes) / _MILLION:g} million events", "MB", [peak], goal=goal))
    return figures + (_late_events(lab.folder / "warehouse-late", late, rounds) if late else [])


def _grow(folder: Path, events: int, rounds: int) -> tuple[list[Measured], list[Measured]]:
    """The same files into a new warehouse each round; the cells of the last one, built as often."""
    landing = folder / "landing"
    rows = land(landing, events, repeat=_REPEATED)
    loads: list[Measured] = []
    for number in range(rounds):
        if number:
            (folder / f"{number - 1}.duckdb").unlink()
        found = measured("load", _url(folder, number), landing)
        if found.rows != events:
            msg = f"{found.rows} events are in the warehouse, {rows} rows of {events} events had landed"
            raise RuntimeError(msg)
        loads.append(found)
    builds = [measured("intervals", _url(folder, rounds - 1), landing)]
    builds += [measured("window", _url(folder, rounds - 1), landing) for _ in range(rounds - 1)]
    shutil.rmtree(folder)
    return loads, builds


def _of_size(events: int, loads: list[Measured], builds: list[Measured]) -> list[Figure]:
    name = f"{events / _MILLION:g} million events"
    read = events * (1 + _REPEATED)
    goal = Goal(300_000, "value", "at least")
    return [
        Figure(f"{name} into DuckDB, 1 % repeats", "rows/s", [read / s for s in _seconds(loads)], "more", goal=goal),
        Figure(f"{name}: cells of 90 days", "s", _seconds(builds)),
    ]


def _growth(seconds: dict[int, float]) -> list[Figure]:
    """Seconds = a * events^b: b is the slope of the logarithms. And how well a straight line fits."""
    if len(seconds) < 3:  # two points are always on a line
        return []
    sizes, taken = [float(events) for events in seconds], list(seconds.values())
    slope = linear_regression([math.log(size) for size in sizes], [math.log(s) for s in taken]).slope
    return [
        Figure("building cells: exponent of events", "1", [slope], goal=Goal(1.1, "value", "at most")),
        Figure("building cells: R² of a straight line", "1", [correlation(sizes, taken) ** 2], "more"),
    ]


def _late_events(folder: Path, events: int, rounds: int) -> list[Figure]:
    """One event more each round: from a new landing file to its cells, without the start of the process."""
    landing, url = folder / "landing", _url(folder, 0)
    land(landing, events)
    loaded = measured("load", url, landing)
    built = measured("intervals", url, landing)
    taken = []
    for number in range(rounds):
        land_late(landing, events, number=number)
        taken.append(measured("late", url, landing).seconds)
    shutil.rmtree(folder)
    name = f"{events / _MILLION:g} million events"
    return [
        Figure(f"one late event among {name}: loaded and its cells", "s", taken, goal=Goal(1.0, "value", "at most")),
        Figure(f"{name} into DuckDB", "rows/s", [events / loaded.seconds], "more"),
        Figure(f"{name}: cells of 90 days", "s", [built.seconds]),
    ]


def _url(folder: Path, number: int) -> str:
    return f"duckdb:///{folder}/{number}.duckdb"


def _seconds(found: list[Measured]) -> list[float]:
    return [each.seconds for each in found]
