"""Deployment compact-landing. Many small landing files become few, by tenant and day."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow, get_run_logger

from flows._load import retry_while_down, scheduled_time, show_table
from streaming.settings import Settings, load_settings
from streaming.sink.run_compaction import Compaction, run_compaction
from warehouse.compacted import note_compacted
from warehouse.schema import open_warehouse


@flow(name="compact-landing")
def compact_landing(before: date | None = None) -> int:
    """Rewrite raw landing files into folders by vendor, tenant and day, and delete those that were replaced a day ago.

    Two runs at once are safe, and so is one that is killed: the next goes on.

    Args:
        before: First day of writing (UTC) that is left as it is. Empty: the scheduled day.

    Returns:
        Rows rewritten.
    """
    settings = load_settings()
    compaction = _compact(settings, before or scheduled_time().date())
    if compaction is None:
        get_run_logger().info("another run compacts the landing zone now; nothing to do here")
        return 0
    if compaction.steps or compaction.deleted:
        _note(settings, compaction)
    show_table("compact-landing", _rows(compaction))
    return sum(file.rows for step in compaction.steps for file in step.files)


@retry_while_down
def _compact(settings: Settings, before: date) -> Compaction | None:
    return run_compaction(settings, before)


@retry_while_down
def _note(settings: Settings, compaction: Compaction) -> None:
    with open_warehouse(settings) as warehouse:
        note_compacted(warehouse, compaction.steps, compaction.deleted)


def _rows(compaction: Compaction) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"raw files": len(step.sources), "became files": len(step.files), "rows": sum(file.rows for file in step.files)}
        for step in compaction.steps
    ]
    if compaction.deleted:
        rows.append(
            {"raw files": f"{len(compaction.deleted)} deleted, replaced earlier", "became files": "", "rows": ""}
        )
    return rows
