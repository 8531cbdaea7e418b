"""Load ``events``: landing files in, every canonical event once.

By arrival: files that no load has taken yet. By window: everything the landing zone holds of a span of event time, for
backfills. A batch of files is one transaction with its ledger row and file names, so an interrupted load
leaves whole batches only, and a second run goes on behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from streaming.batches import batched
from warehouse import landing, quality, scratch, tables, twins
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError, StagingError
from warehouse.landing import BrokenFileError, LandingFile
from warehouse.ledger import LoadResult, LoadRun, load_run
from warehouse.promoted import columns, insert_from, promoted
from warehouse.staging import stage
from warehouse.statements import run as execute
from warehouse.windows import Window

# One transaction: enough rows to spread the scan of known ids over, few enough for DuckDB's memory limit.
BATCH_ROWS = 1_000_000
BATCH_FILES = 2_000


def load_events(warehouse: Warehouse, *, run_id: str, batch_rows: int = BATCH_ROWS) -> LoadResult:
    """Load the landing files that are not loaded yet. Again, or twice at once, changes nothing.

    Of two rows with one ``event_id`` the one that was loaded first stays; within a batch the lowest topic, partition
    and offset. The bus keys by ``event_id``, so both lie on one partition and the first published stays. A reconciled
    event gives way to a pushed one of the same occurrence, whichever came first: see :mod:`warehouse.twins`.

    Args:
        warehouse: the warehouse, migrated.
        run_id: the caller's id for the ledger.
        batch_rows: rows of one transaction; a single larger file is still one.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule was broken; the batch was undone, earlier batches stay.
    """
    with writer(warehouse) as connection:
        files, quarantined = _new_files(connection, warehouse)
        rows = read = taken = 0
        load_ids: list[int] = []
        for batch in batched(files, lambda file: file.rows, batch_rows, BATCH_FILES):
            good, staged, broken = _stage_good(connection, warehouse, batch)
            quarantined += broken
            if not good:
                continue
            with load_run(connection, "events", "arrival", run_id) as run:
                _insert(connection, run)
                _note_files(connection, good, run.load_id)
            rows, read, taken = rows + run.rows, read + staged, taken + len(good)
            load_ids.append(run.load_id)
        _finish(connection, rows)
    return LoadResult(
        dataset="events",
        rows=rows,
        load_ids=tuple(load_ids),
        files=taken,
        repeats=max(read - rows, 0),  # a reconciled row may come back without being read
        quarantined=tuple(quarantined),
    )


def load_events_window(
    warehouse: Warehouse, window: Window, *, run_id: str, batch_rows: int = BATCH_ROWS
) -> LoadResult:
    """Replace the events of a window by what the landing zone holds of it.

    An event that the landing zone no longer holds (it expires sooner than the warehouse) stays. Any window does, on the
    grid or off it. Load the intervals of the window afterwards, by window or by arrival.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule was broken; the batch was undone.
    """
    with writer(warehouse) as connection:
        files, quarantined = _inspected(connection, warehouse, landing.list_files(warehouse.store, set(), window))
        rows = read = taken = 0
        load_ids: list[int] = []
        for batch in batched(files, lambda file: file.rows, batch_rows, BATCH_FILES):
            good, staged, broken = _stage_good(connection, warehouse, batch, window)
            quarantined += broken
            taken += len(good)
            if not staged:
                continue
            with load_run(connection, "events", "window", run_id, window) as run:
                _insert(connection, run, window, known_from=load_ids[0] if load_ids else None)
            rows, read = rows + run.rows, read + staged
            load_ids.append(run.load_id)
        _finish(connection, rows)
    return LoadResult(
        dataset="events",
        rows=rows,
        load_ids=tuple(load_ids),
        window=window,
        files=taken,
        repeats=max(read - rows, 0),  # a reconciled row may come back without being read
        quarantined=tuple(quarantined),
    )


def _insert(
    connection: sa.Connection, run: LoadRun, window: Window | None = None, known_from: int | None = None
) -> None:
    """Staged rows → events, one an id, and one of each pair of twins."""
    fields = promoted(connection)
    staged = scratch.staged_with(columns(fields))
    twins.take_reconciled(connection, staged, fields, run.load_id)
    execute(connection, "events", "drop_repeats")
    if window:
        # What an earlier batch of this very load has put there is not replaced by a repeat from a later file.
        before = run.load_id if known_from is None else known_from
        execute(
            connection, "events", "delete_window", start_ms=window.start_ms, end_ms=window.end_ms, before_load=before
        )
    twins.give_way(connection)
    connection.execute(insert_from(tables.events, staged, fields, run.load_id))
    twins.decide(connection, fields, run.load_id)
    events = tables.events.c
    query = sa.select(sa.func.count()).where(events.load_id == run.load_id)
    run.rows = int(connection.execute(query).scalar_one())
    quality.check(connection, "events", load_id=run.load_id)


def _note_files(connection: sa.Connection, files: Sequence[LandingFile], load_id: int) -> None:
    landed = tables.landed_files
    names = [file.name for file in files]
    # A file that was set aside, mended and put back has a row already.
    connection.execute(sa.delete(landed).where(landed.c.status == "quarantined", landed.c.name.in_(names)))
    connection.execute(
        sa.insert(landed),
        [{"name": file.name, "rows": file.rows, "status": "loaded", "load_id": load_id} for file in files],
    )


def _new_files(connection: sa.Connection, warehouse: Warehouse) -> tuple[list[LandingFile], list[str]]:
    files = tables.landed_files.c
    loaded = sa.select(files.name).where(files.status == "loaded")
    known = set(connection.execute(loaded).scalars())
    connection.commit()
    return _inspected(connection, warehouse, landing.list_files(warehouse.store, known))


def _inspected(
    connection: sa.Connection, warehouse: Warehouse, found: Sequence[str]
) -> tuple[list[LandingFile], list[str]]:
    files: list[LandingFile] = []
    broken: list[str] = []
    for name in found:
        try:
            files.append(landing.inspect(warehouse.store, name))
        except BrokenFileError as error:
            broken.append(_set_aside(connection, warehouse, name, str(error)))
    return files, broken


def _stage_good(
    connection: sa.Connection, warehouse: Warehouse, batch: Sequence[LandingFile], window: Window | None = None
) -> tuple[Sequence[LandingFile], int, list[str]]:
    """Stage a batch; if that fails, set aside the files that are broken and stage the rest."""
    broken: list[str] = []
    staged = 0
    bounds = (window.start_ms, window.end_ms - 1) if window else None
    while batch:
        try:
            with connection.begin():
                staged = stage(connection, warehouse, batch, bounds)
            failure = None
        except StagingError as error:
            failure = error
        if failure is None and (window or staged == sum(file.rows for file in batch)):
            return batch, staged, broken
        good, named = _sorted_out(connection, warehouse, batch)
        if not named:  # every file is readable: the database is at fault
            msg = f"{len(batch)} landing files were read as {staged} rows, their footers say otherwise"
            raise failure or QualityError(msg, rule="rows_of_footer")
        batch, broken = good, broken + named
    return [], 0, broken


def _sorted_out(
    connection: sa.Connection, warehouse: Warehouse, batch: Sequence[LandingFile]
) -> tuple[list[LandingFile], list[str]]:
    good: list[LandingFile] = []
    broken: list[str] = []
    for file in batch:
        try:
            landing.read_through(warehouse.store, file)
        except BrokenFileError as error:
            broken.append(_set_aside(connection, warehouse, file.name, str(error)))
        else:
            good.append(file)
    return good, broken


def _set_aside(connection: sa.Connection, warehouse: Warehouse, name: str, reason: str) -> str:
    moved = landing.quarantine(warehouse.store, name, reason)
    with connection.begin():
        connection.execute(sa.delete(tables.landed_files).where(tables.landed_files.c.name == name))
        connection.execute(
            sa.insert(tables.landed_files), {"name": name, "status": "quarantined", "error": reason[:2000]}
        )
    return moved


def _finish(connection: sa.Connection, rows: int) -> None:
    with connection.begin():
        scratch.drop(connection, scratch.staged_events)
        scratch.analyze_grown(connection, tables.events, rows)
