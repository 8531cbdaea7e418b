"""Load ``events``: landing files in, every canonical event once.

By arrival: files that no load has taken yet. By window: everything the landing zone holds of a span of event time, for
backfills. A batch of files is one transaction with its ledger row and file names, so an interrupted load
leaves whole batches only, and a second run goes on behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from streaming.batches import batched
from warehouse import expired, landing, quality, scratch, tables, twins
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError, StagingError
from warehouse.landed import loaded_files
from warehouse.landing import BrokenFileError, LandingFile
from warehouse.ledger import Kind, LoadResult, LoadRun, load_run
from warehouse.promoted import columns, promoted
from warehouse.staging import Staged, insert_staged, stage, staging_error
from warehouse.statements import run as execute
from warehouse.suppression import clean_loaded
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
        done = _Done(run_id=run_id, quarantined=quarantined)
        for batch in batched(files, lambda file: file.rows, batch_rows, BATCH_FILES):
            _load(connection, warehouse, batch, done)
        _finish(connection, done.rows)
    return done.result()


def load_events_window(
    warehouse: Warehouse, window: Window, *, run_id: str, batch_rows: int = BATCH_ROWS
) -> LoadResult:
    """Replace the events of a window by what the landing zone holds of it.

    An event that the landing zone no longer holds (it expires sooner than the warehouse) stays. Any window does, on the
    grid or off it. Load the intervals of the window afterwards, by window or by arrival.

    In the ledger the last batch names the window: one that was killed before it does not count as loaded.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule was broken; the batch was undone.
    """
    with writer(warehouse) as connection:
        files, quarantined = _inspected(connection, warehouse, landing.list_files(warehouse.store, set(), window))
        done = _Done(run_id=run_id, window=window, quarantined=quarantined)
        batches = list(batched(files, lambda file: file.rows, batch_rows, BATCH_FILES))
        for number, batch in enumerate(batches, 1):
            _load(connection, warehouse, batch, done, window if number == len(batches) else None)
        if not done.is_noted:
            with load_run(connection, "events", "window", run_id, window) as run:
                pass  # somebody has looked: there is nothing
            done.load_ids.append(run.load_id)
        _finish(connection, done.rows)
    return done.result()


@dataclass(slots=True, kw_only=True)
class _Done:
    """What a load has done so far."""

    run_id: str
    window: Window | None = None
    quarantined: list[str]
    rows: int = 0
    read: int = 0
    files: int = 0
    load_ids: list[int] = field(default_factory=list)
    is_noted: bool = False  # the window, in the ledger

    def result(self) -> LoadResult:
        return LoadResult(
            dataset="events",
            rows=self.rows,
            load_ids=tuple(self.load_ids),
            window=self.window,
            files=self.files,
            repeats=max(self.read - self.rows, 0),  # a reconciled row may come back without being read
            quarantined=tuple(self.quarantined),
        )


def _load(
    connection: sa.Connection,
    warehouse: Warehouse,
    batch: Sequence[LandingFile],
    done: _Done,
    noted: Window | None = None,
) -> None:
    """Load a batch; if that fails, set aside the files that are broken and load the rest.

    Args:
        connection: writer's connection, outside a transaction.
        warehouse: the warehouse.
        batch: files.
        done: is brought up to date.
        noted: what the ledger gets as the load's window.
    """
    while batch:
        try:
            _load_all(connection, warehouse, batch, done, noted)
        except (StagingError, QualityError):
            good, named = _sorted_out(connection, warehouse, batch)
            if not named:  # every file is readable: the database is at fault
                raise
            batch = good
            done.quarantined += named
        else:
            return


def _load_all(
    connection: sa.Connection, warehouse: Warehouse, batch: Sequence[LandingFile], done: _Done, noted: Window | None
) -> None:
    window = done.window
    bounds = (window.start_ms, window.end_ms - 1) if window else None
    with stage(connection, warehouse, batch, bounds) as staged:
        expected = sum(file.rows for file in batch)
        if not window and staged.rows != expected:
            msg = f"{len(batch)} landing files were read as {staged.rows} rows, their footers say {expected}"
            raise QualityError(msg, rule="rows_of_footer")
        if staged.rows or not window:
            kind: Kind = "window" if window else "arrival"
            with load_run(connection, "events", kind, done.run_id, window) as run:
                _insert(connection, warehouse, run, staged, done)
                if not noted:  # only a failure names the window in any case
                    run.window_start = run.window_end = None
                if not window:
                    _note_files(connection, batch, run.load_id)
            done.rows += run.rows
            done.read += staged.rows
            done.load_ids.append(run.load_id)
            done.is_noted = noted is not None
    done.files += len(batch)


def _insert(connection: sa.Connection, warehouse: Warehouse, run: LoadRun, staged: Staged, done: _Done) -> None:
    """Staged rows → events, one an id, and one of each pair of twins."""
    fields = promoted(connection)
    with _reading(connection, warehouse, staged.files):
        expired.pass_over_staged(connection)
        if staged.may_be_reconciled:
            twins.take_reconciled(connection, scratch.staged_with(columns(fields)), fields, run.load_id)
        execute(connection, "events", "pass_over_repeats")
        if window := done.window:
            # What an earlier batch of this very load has put there is not replaced by a repeat from a later file.
            before = done.load_ids[0] if done.load_ids else run.load_id
            bounds = {"start_ms": window.start_ms, "end_ms": window.end_ms}
            execute(connection, "events", "delete_window", **bounds, before_load=before)
        twins.give_way(connection)
        insert_staged(connection, fields, run.load_id)
    twins.decide(connection, fields, run.load_id)
    clean_loaded(connection, warehouse.erasure_key, run.load_id)
    events = tables.events.c
    query = sa.select(sa.func.count()).where(events.load_id == run.load_id)
    run.rows = int(connection.execute(query).scalar_one())
    quality.check(connection, "events", load_id=run.load_id)


@contextmanager
def _reading(connection: sa.Connection, warehouse: Warehouse, batch: Sequence[LandingFile]) -> Iterator[None]:
    """DuckDB reads the files here, so here it is that a broken one shows.

    Raises:
        StagingError: a file is broken, or has values that no column takes.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        is_down = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        if is_down and (connection.dialect.name != "duckdb" or _all_readable(warehouse, batch)):
            raise
        raise staging_error(error, batch) from None  # a trace would show the row that the cause holds


def _all_readable(warehouse: Warehouse, batch: Sequence[LandingFile]) -> bool:
    try:
        for file in batch:
            landing.read_through(warehouse.store, file)
    except BrokenFileError:
        return False
    return True


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
    known = set(loaded_files(connection))
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
        scratch.drop_staged(connection)
        scratch.analyze_grown(connection, tables.events, rows)
