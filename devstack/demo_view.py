"""What a person sees of a replay: a bar for each vendor and stage, and the summary."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from devstack.bus import Bus
from devstack.demo_report import Report
from devstack.replay import CallReplay

_STAGES = ("sent by the vendor", "on the bus", "landed", "in the CRM")


class Stages:
    """Live counts of a replay.

    Args:
        replay: Running.
        bus: To count records.
    """

    def __init__(self, replay: CallReplay, bus: Bus) -> None:
        self._replay = replay
        self._bus = bus
        self._landing = replay.settings().landing_dir
        self._landed: dict[str, int] = {}
        self._seen: set[Path] = set()
        self._counts: dict[str, tuple[int, ...]] = {}
        self._progress = Progress(
            TextColumn("{task.fields[vendor]:<10}"),
            TextColumn("{task.description:<19}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
        )
        self._tasks = {
            (vendor.name, stage): self._progress.add_task(stage, total=1, vendor=vendor.name if not number else "")
            for vendor in replay.vendors
            for number, stage in enumerate(_STAGES)
        }

    def render(self) -> Group:
        """Count anew and draw."""
        self._read_landing()
        now, effects = "", self._replay.effects()
        for vendor in self._replay.vendors:
            status: dict[str, Any] = self._replay.status(vendor.name)
            now = max(now, str(status["sim_now"]))
            expected = sum(status["expected"].values())
            counts = (
                sum(status["sent"].values()),
                self._bus.count(vendor.events_topic),
                self._landed.get(vendor.tenant_id, 0),
                effects.get(vendor.name, 0),
            )
            self._counts[vendor.name] = (expected, *counts)
            for stage, count in zip(_STAGES, counts, strict=True):
                self._progress.update(self._tasks[vendor.name, stage], completed=count, total=expected)
        return Group(Text(f"vendors' clock {_shown(now)}", style="bold"), self._progress)

    def all_arrived(self) -> bool:
        """Whether all that was sent is in landing files and in the CRM."""
        return all(sent <= on_bus <= min(landed, in_crm) for _, sent, on_bus, landed, in_crm in self._counts.values())

    def _read_landing(self) -> None:
        for path in self._landing.glob("raw/dt=*/*.parquet"):
            if path in self._seen or path.name.startswith("."):
                continue
            self._seen.add(path)
            for item in pc.value_counts(pq.read_table(path, columns=["tenant_id"])["tenant_id"]).to_pylist():
                self._landed[item["values"]] = self._landed.get(item["values"], 0) + item["counts"]


def summary_table(report: Report) -> Table:
    """The report as a table for the terminal."""
    table = Table(box=box.SIMPLE_HEAVY, title=f"Replay of {report.seconds:.0f} s", title_justify="left")
    table.add_column("canonical events")
    for vendor in report.vendors:
        table.add_column(f"{vendor.vendor}\n{vendor.tenant_id}", justify="right")
    rows = (
        ("sent by the vendor", "sent"),
        ("on the bus", "on_bus"),
        ("duplicates on the bus", "duplicates_on_bus"),
        ("in events", "in_events"),
        ("in the CRM", "in_crm"),
        ("dead letters", "dead_letters"),
        ("recovered by REST", "recovered"),
    )
    for label, name in rows:
        table.add_row(label, *(f"{getattr(vendor, name):,}" for vendor in report.vendors))
    refused = [sum(vendor.refused.values()) for vendor in report.vendors]
    table.add_row("native requests refused", *(f"{count:,}" for count in refused), end_section=True)
    for name, rows_of_table in report.tables.items():
        table.add_row(f"rows of {name}", f"{rows_of_table:,}", "")
    return table


def _shown(instant: str) -> str:
    try:
        return f"{datetime.fromisoformat(instant):%a %Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return "not started"
