"""The ledger: one row a load, written in the load's own transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa
import structlog

from warehouse import tables
from warehouse.errors import StagingError, primary_message
from warehouse.windows import Window

log = structlog.get_logger()

Dataset = Literal[
    "events",
    "conversations",
    "wfm_intervals",
    "daily_analytics",
    "metadata_field_usage",
    "failed_events",
    "directory",
]
Kind = Literal["arrival", "window"]


@dataclass(slots=True, kw_only=True)
class LoadRun:
    """A load under way: the load fills in ``rows`` and what it took account of."""

    load_id: int
    dataset: Dataset
    kind: Kind
    run_id: str
    window_start: datetime | None = None
    window_end: datetime | None = None
    rows: int = 0
    through_load_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a load did.

    Attributes:
        dataset: table or group of tables.
        rows: rows written.
        load_ids: its numbers in the ledger; empty if there was nothing to do.
        window: window that was rebuilt, None for a load by arrival.
        files: landing files read.
        repeats: rows of those files that were known already or came twice.
        quarantined: landing files that could not be read, as paths below the landing folder.
    """

    dataset: Dataset
    rows: int
    load_ids: tuple[int, ...] = ()
    window: Window | None = None
    files: int = 0
    repeats: int = 0
    quarantined: tuple[str, ...] = ()


@contextmanager
def load_run(
    connection: sa.Connection, dataset: Dataset, kind: Kind, run_id: str, window: Window | None = None
) -> Iterator[LoadRun]:
    """The load's transaction, and its row in the ledger: both or neither.

    After an error nothing of the load remains but a row with status ``failed``; after a
    :class:`~warehouse.errors.StagingError` not even that, for the load goes on without the files that are broken. A
    killed process, or a database that went away, leaves no row; the latter is a
    :class:`~warehouse.errors.WarehouseDownError` once it leaves the writer.
    """
    started_at = datetime.now(UTC)
    run = LoadRun(
        load_id=0,
        dataset=dataset,
        kind=kind,
        run_id=run_id,
        window_start=window.start if window else None,
        window_end=window.end if window else None,
    )
    try:
        with connection.begin():
            run.load_id = _next_id(connection)
            yield run
            _record(connection, run, "succeeded", None, started_at)
    except StagingError:  # a landing file is broken: the load goes on without it
        raise
    except Exception as error:
        _record_failure(connection, run, error, started_at)
        raise


def last_load(connection: sa.Connection, dataset: Dataset) -> int:
    """Greatest number of a successful load of a dataset, 0 if there is none."""
    runs = tables.load_runs.c
    query = sa.select(sa.func.coalesce(sa.func.max(runs.load_id), 0))
    return int(connection.execute(query.where(runs.dataset == dataset, runs.status == "succeeded")).scalar_one())


def last_arrival(connection: sa.Connection, dataset: Dataset) -> tuple[int, datetime | None]:
    """How far the loads by arrival of a dataset are.

    Returns:
        The greatest load of events that they took account of (0 for none) and the greatest end of their windows.
    """
    runs = tables.load_runs.c
    query = sa.select(sa.func.coalesce(sa.func.max(runs.through_load_id), 0), sa.func.max(runs.window_end)).where(
        runs.dataset == dataset, runs.kind == "arrival", runs.status == "succeeded"
    )
    through, end = connection.execute(query).one()
    return int(through), end


def _next_id(connection: sa.Connection) -> int:
    """The next number. Loads hold the warehouse's lock, so numbers ascend in the order of commits."""
    query = sa.select(sa.func.coalesce(sa.func.max(tables.load_runs.c.load_id), 0) + 1)
    return int(connection.execute(query).scalar_one())


def _record(connection: sa.Connection, run: LoadRun, status: str, error: str | None, started_at: datetime) -> None:
    connection.execute(
        sa.insert(tables.load_runs),
        {
            "load_id": run.load_id,
            "dataset": run.dataset,
            "kind": run.kind,
            "window_start": run.window_start,
            "window_end": run.window_end,
            "status": status,
            "rows": run.rows,
            "through_load_id": run.through_load_id,
            "run_id": run.run_id,
            "error": error,
            "started_at": started_at,
            "finished_at": datetime.now(UTC),
        },
    )


def _record_failure(connection: sa.Connection, run: LoadRun, error: Exception, started_at: datetime) -> None:
    if connection.invalidated:
        # A new connection would not hold the lock that keeps the order of numbers.
        log.error("failed load is not in the ledger: the connection is gone", dataset=run.dataset)
        return
    run.rows, run.through_load_id = 0, None
    try:
        with connection.begin():
            run.load_id = _next_id(connection)
            _record(connection, run, "failed", f"{type(error).__name__}: {primary_message(error)}"[:2000], started_at)
    except sa.exc.SQLAlchemyError:
        # With the disk full or the database gone the ledger can't be written either; the first error counts.
        log.exception("failed load is not in the ledger", dataset=run.dataset)
