"""Backfill: datasets loaded again for a past window, in chunks, whatever of it is there. Works without Prefect.

Each chunk is a load by window of its own, with its transaction and its row in the ledger. So an interrupted backfill
leaves whole chunks, and the next one with ``only_missing`` goes on with the others; after one that loaded everything
again, with its beginning as ``loaded_since``, for older loads cover its window too. Two at once do the work twice, with
the same result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog

from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.instants import EPOCH
from warehouse.coverage import DATASETS, State, coverage_of_chunks
from warehouse.engine import Warehouse, writer
from warehouse.errors import WindowError, first_of, primary_message
from warehouse.field_usage import count_field_usage_window
from warehouse.ledger import Dataset, LoadResult
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events_window
from warehouse.load_intervals import load_wfm_intervals
from warehouse.windows import Window, floor, to_utc

log = structlog.get_logger()

MAX_CHUNKS = 10_000
"""Of a dataset. A window since 1970 by hours is a mistake, not a wish."""

# A warehouse that was away for so many chunks in a row, each tried several times, will be for the rest.
_MAX_UNAVAILABLE = 3

# Failed chunks that an error names.
_MOST_NAMED = 20

_LENGTH = re.compile(r"\s*(\d{1,6})\s*(h|d)\s*")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}

Load = Callable[[Warehouse, Window, str], LoadResult]
Retrying = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps what asks the warehouse, to repeat it while that is busy or down."""

_LOADS: Mapping[Dataset, Load] = {
    "events": lambda warehouse, window, run_id: load_events_window(warehouse, window, run_id=run_id),
    "conversations": lambda warehouse, window, run_id: load_conversations(warehouse, window, run_id=run_id),
    "wfm_intervals": lambda warehouse, window, run_id: load_wfm_intervals(warehouse, window, run_id=run_id),
    "daily_analytics": lambda warehouse, window, run_id: load_daily_analytics(warehouse, window, run_id=run_id),
    "metadata_field_usage": lambda warehouse, window, run_id: count_field_usage_window(
        warehouse, window, run_id=run_id
    ),
}


class BackfillFailedError(CcaasError):
    """Some chunks could not be loaded; the others were. The message names them."""


class Outcome(StrEnum):
    """What became of a chunk.

    ``COVERED``: the ledger says that it is loaded, so ``only_missing`` left it alone. ``NOT_TRIED``: the warehouse had
    been away for too long.
    """

    LOADED = "loaded"
    COVERED = "covered before"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One dataset in one chunk.

    Attributes:
        dataset: Which.
        window: The chunk.
        outcome: What became of it.
        rows: Rows written.
        error: Why it failed; empty if it did not.
        quarantined: Landing files that could not be read.
    """

    dataset: Dataset
    window: Window
    outcome: Outcome
    rows: int = 0
    error: str = ""
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backfill:
    """What is to be loaded; checked before anything runs.

    Args:
        window: Event time, UTC, on the interval grid; over when it is loaded.
        datasets: In the order in which they are made of each other. Empty: all.
        chunk: Length of one load.
        only_missing: Leave alone what the ledger says is loaded.
        loaded_since: Aware. Of those only what loads did that began at this time or later.
    """

    window: Window
    datasets: tuple[Dataset, ...] = field(default=DATASETS)
    chunk: timedelta = timedelta(days=1)
    only_missing: bool = True
    loaded_since: datetime | None = None

    @property
    def chunks(self) -> int:
        """Chunks of all datasets together."""
        return -(-(self.window.end - self.window.start) // self.chunk) * len(self.datasets)

    def check(self, interval_minutes: int, now: datetime) -> None:
        """Whether it can be loaded at all.

        Raises:
            WindowError: the window is off the grid or not over, or the chunk is no multiple of the interval.
            ConfigurationError: there would be more than ``MAX_CHUNKS`` chunks, or loads count since a time although
                none counts.
        """
        if self.loaded_since:
            to_utc(self.loaded_since, "loaded_since")
        if self.loaded_since and not self.only_missing:
            msg = "loaded_since says which loads need no repetition: leave only_missing on, or leave loaded_since out"
            raise ConfigurationError(msg)
        self.window.require_grid(interval_minutes)
        if self.window.end > now:
            latest = floor(now, interval_minutes)
            msg = (
                f"the window {self.window} reaches into the future: what has not happened can't be loaded; "
                f"give an end of {latest.isoformat()} or before"
            )
            raise WindowError(msg)
        if self.chunk <= timedelta(0) or self.chunk % timedelta(minutes=interval_minutes):
            msg = f"chunk is {self.chunk}: give a positive multiple of {interval_minutes} min, for example 1d or 6h"
            raise WindowError(msg)
        if self.chunks > MAX_CHUNKS * len(self.datasets):
            msg = f"chunk is {self.chunk}: that makes more than {MAX_CHUNKS} chunks of {self.window}; give a longer one"
            raise ConfigurationError(msg)


def chunk_length(text: str) -> timedelta:
    """``1d`` or ``6h`` as a length of time.

    Raises:
        WindowError: it is something else, or 0.
    """
    found = _LENGTH.fullmatch(text)
    length = int(found[1]) * _UNITS[found[2]] if found else timedelta(0)
    if length <= timedelta(0):
        msg = f"chunk is {text!r}: give a positive whole number of days or hours, for example 1d or 6h"
        raise WindowError(msg)
    return length


def run_backfill(
    warehouse: Warehouse,
    backfill: Backfill,
    *,
    run_id: str,
    now: datetime,
    retrying: Retrying = lambda work: work,
) -> Iterator[ChunkResult]:
    """Load chunk by chunk, each dataset wholly before the next, and tell what became of each.

    A chunk that fails harms no other. What is missing is asked for when a dataset's turn comes, so a dataset is also
    loaded where this very run has put events below it.

    Args:
        warehouse: the warehouse, migrated.
        backfill: what to load.
        run_id: the caller's id for the ledger.
        now: aware; the window must end before it.
        retrying: wraps a load, or a look at the ledger, to repeat it while the warehouse is busy or down.

    Raises:
        ConfigurationError: see :meth:`Backfill.check`; before anything is loaded.
        ServiceUnavailableError: the ledger can't be read; what was told is loaded.
    """
    backfill.check(warehouse.interval_minutes, now)
    return _chunks(warehouse, backfill, run_id, retrying)


def failure_of(results: list[ChunkResult], loaded_since: datetime | None = None) -> BackfillFailedError | None:
    """The error that names the chunks that were not loaded; None if there are none.

    Args:
        results: of all chunks.
        loaded_since: what the next run is to be given, if older loads cover these windows too.
    """
    wrong = [result for result in results if result.outcome in {Outcome.FAILED, Outcome.NOT_TRIED}]
    if not wrong:
        return None
    shown = first_of([f"{r.dataset} {r.window}: {r.error or r.outcome}" for r in wrong], _MOST_NAMED)
    since = f" and loaded_since={loaded_since.isoformat()}" if loaded_since else ""
    msg = f"{len(wrong)} of {len(results)} chunks not loaded; run it again with only_missing{since}: {shown}"
    return BackfillFailedError(msg)


def _chunks(warehouse: Warehouse, backfill: Backfill, run_id: str, retrying: Retrying) -> Iterator[ChunkResult]:
    unavailable = 0
    for dataset in backfill.datasets:
        load = retrying(_LOADS[dataset])
        covered = retrying(_covered)(warehouse, backfill, dataset) if unavailable < _MAX_UNAVAILABLE else set()
        for window in backfill.window.chunks(backfill.chunk):
            if window in covered:
                yield ChunkResult(dataset, window, Outcome.COVERED)
                continue
            if unavailable >= _MAX_UNAVAILABLE:
                yield ChunkResult(dataset, window, Outcome.NOT_TRIED)
                continue
            try:
                done = load(warehouse, window, run_id)
            except Exception as error:  # noqa: BLE001 (whatever it was, the others go on; it is named at the end)
                unavailable = unavailable + 1 if isinstance(error, ServiceUnavailableError) else 0
                said = primary_message(error)
                log.error("chunk not loaded", dataset=dataset, window=str(window), error=said)
                yield ChunkResult(dataset, window, Outcome.FAILED, error=said)
            else:
                unavailable = 0
                yield ChunkResult(dataset, window, Outcome.LOADED, done.rows, quarantined=done.quarantined)


def _covered(warehouse: Warehouse, backfill: Backfill, dataset: Dataset) -> set[Window]:
    """Chunks that are left alone. From the database itself: the readers' copy may be behind."""
    if not backfill.only_missing:
        return set()
    with writer(warehouse) as connection:
        spans = coverage_of_chunks(
            connection,
            backfill.window,
            backfill.chunk,
            dataset=dataset,
            loaded_since=backfill.loaded_since or EPOCH,
        )
        connection.commit()
    return {span.window for span in spans if span.state is State.LOADED}
