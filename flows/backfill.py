"""Deployment backfill. Ad hoc: datasets of the warehouse loaded again for a past window, in chunks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows._load import retry_while_down, run_id, scheduled_time, show_picture, show_table
from streaming.settings import load_settings
from warehouse.backfill import Backfill, ChunkResult, Outcome, chunk_length, failure_of, run_backfill
from warehouse.coverage import DATASETS, Span, coverage, stretches
from warehouse.coverage_picture import coverage_png
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.ledger import Dataset
from warehouse.schema import open_warehouse
from warehouse.windows import Window

_MOST_SHOWN = 300
"""Rows of a table: one of thousands does not open in the UI."""


@flow(name="backfill")
def backfill(
    start: datetime,
    end: datetime,
    dataset: Literal[
        "all", "events", "conversations", "wfm_intervals", "daily_analytics", "metadata_field_usage"
    ] = "all",
    *,
    only_missing: bool = True,
    chunk: str = "1d",
) -> dict[str, int]:
    """Load a past window, chunk by chunk. Idempotent; two runs at once are safe.

    Interrupted, the next run with ``only_missing`` goes on with what is missing.

    Args:
        start: Event time, UTC, on the interval grid.
        end: Exclusive; not in the future.
        dataset: Which table, or all, each after what it is made of.
        only_missing: Leave alone what the ledger of loads says is loaded. Else everything is loaded again.
        chunk: What one load takes at a time: ``1d``, ``6h``.

    Returns:
        Rows written, by dataset.

    Raises:
        ConfigurationError: the window or the chunk is wrong; nothing was loaded.
        BackfillFailedError: some chunks could not be loaded, the others were; it names them.
    """
    wanted: tuple[Dataset, ...] = DATASETS if dataset == "all" else (dataset,)
    order = Backfill(Window(start, end), wanted, chunk_length(chunk), only_missing)
    results = _load(order)
    _show(order.window, results)
    if failure := failure_of(results):
        raise failure
    return {name: sum(result.rows for result in results if result.dataset == name) for name in wanted}


def _load(order: Backfill) -> list[ChunkResult]:
    logger = get_run_logger()
    results: list[ChunkResult] = []
    with open_warehouse(load_settings()) as warehouse:
        chunks = run_backfill(warehouse, order, run_id=run_id(), now=scheduled_time(), retrying=retry_while_down)
        progress = create_progress_artifact(progress=0.0, key="backfill-progress", description=str(order.window))
        for result in chunks:
            results.append(result)
            logger.info("%s %s: %s, %d rows", result.dataset, result.window, result.outcome, result.rows)
            update_progress_artifact(progress, progress=100 * len(results) / order.chunks)  # type: ignore[arg-type]
    return results


def _show(window: Window, results: list[ChunkResult]) -> None:
    """What became of the chunks, and what is loaded now, from the readers' copy."""
    show_table("backfill", _by_dataset(results))
    warehouse = Warehouse.from_settings(load_settings())
    publish_read_copy(warehouse, force=True)  # else it would show the state before this run
    with reader(warehouse) as connection:
        spans = coverage(connection, window)
    rows = [_for_people(span) for span in stretches(spans)]
    more = [{"dataset": f"and {len(rows) - _MOST_SHOWN} more"}] if len(rows) > _MOST_SHOWN else []
    show_table("coverage-days", rows[:_MOST_SHOWN] + more)
    show_picture("coverage", coverage_png(spans, window), f"What is loaded, by dataset and day, {window}")


def _by_dataset(results: list[ChunkResult]) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    for dataset in DATASETS:
        own = [result for result in results if result.dataset == dataset]
        if not own:
            continue
        quarantined = sorted({file for result in own for file in result.quarantined})
        rows.append(
            {
                "dataset": dataset,
                "chunks": len(own),
                **{str(outcome): sum(result.outcome is outcome for result in own) for outcome in Outcome},
                "rows": sum(result.rows for result in own),
                "quarantined": ", ".join(quarantined) or "none",
                "first error": next((f"{result.window}: {result.error}" for result in own if result.error), "none"),
            }
        )
    return rows


def _for_people(span: Span) -> dict[str, str]:
    return {
        "dataset": span.dataset,
        "from": f"{span.window.start:%Y-%m-%d %H:%MZ}",
        "to": f"{span.window.end:%Y-%m-%d %H:%MZ}",
        "state": span.state,
    }
