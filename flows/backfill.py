"""Deployment backfill. Ad hoc: datasets of the warehouse loaded again for a past window, in chunks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from prefect import flow, get_run_logger

from flows._load import retry_while_down, run_id, scheduled_time, show_table, shown_progress
from flows.coverage import show_coverage
from streaming.errors import ServiceUnavailableError
from streaming.settings import load_settings
from warehouse.backfill import Backfill, ChunkResult, Outcome, chunk_length, failure_of, run_backfill
from warehouse.coverage import DATASETS
from warehouse.ledger import Dataset
from warehouse.schema import open_warehouse
from warehouse.windows import Window


@flow(name="backfill")
def backfill(
    start: datetime,
    end: datetime,
    dataset: Literal[
        "all", "events", "conversations", "wfm_intervals", "daily_analytics", "metadata_field_usage"
    ] = "all",
    *,
    only_missing: bool = True,
    loaded_since: datetime | None = None,
    chunk: str = "1d",
) -> dict[str, int]:
    """Load a past window, chunk by chunk. Idempotent; two runs at once are safe.

    Interrupted, the next run with ``only_missing`` goes on with what is missing; if this one ran without it, give the
    next one the ``loaded_since`` that this one logs as it begins.

    Args:
        start: Event time, UTC, on the interval grid.
        end: Exclusive; not in the future.
        dataset: Which table, or all, each after what it is made of.
        only_missing: Leave alone what the ledger of loads says is loaded. Else everything is loaded again.
        loaded_since: With ``only_missing``: loads that began before do not count.
        chunk: What one load takes at a time: ``1d``, ``6h``.

    Returns:
        Rows written, by dataset.

    Raises:
        ConfigurationError: the window or the chunk is wrong; nothing was loaded.
        BackfillFailedError: some chunks could not be loaded, the others were; it names them.
    """
    wanted: tuple[Dataset, ...] = DATASETS if dataset == "all" else (dataset,)
    order = Backfill(Window(start, end), wanted, chunk_length(chunk), only_missing, loaded_since)
    logger = get_run_logger()
    # For older loads cover what is loaded again, and a run that is killed can't say it at its end.
    since = loaded_since if only_missing else datetime.now(UTC)
    if since:
        logger.info("if this run breaks off, go on with only_missing and loaded_since=%s", since.isoformat())
    results: list[ChunkResult] = []
    try:
        _load(order, results)
    finally:
        if results:
            show_table("backfill", _by_dataset(results))
    failure = failure_of(results, since)
    try:
        _show_coverage(order.window)
    except ServiceUnavailableError as error:
        if not failure:
            raise
        logger.warning("coverage is not shown: %s", error)  # the chunks that failed matter more
    if failure:
        raise failure
    return {name: sum(result.rows for result in results if result.dataset == name) for name in wanted}


_show_coverage = retry_while_down(show_coverage)


def _load(order: Backfill, results: list[ChunkResult]) -> None:
    """Results are added as they come: those before an error are shown."""
    logger = get_run_logger()
    with open_warehouse(load_settings()) as warehouse:
        chunks = run_backfill(warehouse, order, run_id=run_id(), now=scheduled_time(), retrying=retry_while_down)
        show = shown_progress("backfill-progress", str(order.window))
        for result in chunks:
            results.append(result)
            logger.info("%s %s: %s, %d rows", result.dataset, result.window, result.outcome, result.rows)
            show(len(results) / order.chunks)


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
