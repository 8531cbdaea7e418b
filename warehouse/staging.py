"""Landing files as ``staged_events``: the one step that differs between the engines.

DuckDB reads Parquet in place: there it is a view of the files, and a row is written once, into ``events``. For
PostgreSQL an embedded DuckDB reads the files with the same statement and its result goes through COPY as CSV into a
temporary table, so both engines get the same typed rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import duckdb_engine
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from schemas.canonical import RECOVERED_KEY
from schemas.promoted import PromotedField
from streaming.sink.landing import promoted_column
from warehouse import scratch, tables
from warehouse.engine import Warehouse
from warehouse.errors import StagingError, primary_message
from warehouse.landing import LandingFile
from warehouse.promoted import as_type, column_names, columns, pointer, promoted
from warehouse.statements import run, statements


class _Dialect(duckdb_engine.Dialect):
    _backslash_escapes = False  # in a string DuckDB takes a backslash for itself, PostgreSQL's dialect would double it


_DUCKDB = _Dialect(paramstyle="numeric_dollar")
_COPY_ROWS = 50_000  # rows of one COPY chunk: some 40 MB with payload and metadata; two are there at a time
_ALL = (-(2**63), 2**63 - 1)
_KEYS = "metadata.key_value.key"


class Staged(NamedTuple):
    """What is in ``staged_events``.

    Attributes:
        files: whose rows.
        rows: how many.
        may_be_reconciled: whether any of the files' events may have been published by reconciliation.
    """

    files: Sequence[LandingFile]
    rows: int
    may_be_reconciled: bool


@contextmanager
def stage(
    connection: sa.Connection, warehouse: Warehouse, files: Sequence[LandingFile], bounds: tuple[int, int] | None = None
) -> Iterator[Staged]:
    """``staged_events`` anew, until the block is left: then the files of a remote store are gone from the local disk.

    On DuckDB a broken page shows only when a row is read. To change rows call :func:`warehouse.scratch.own_rows` first.

    Args:
        connection: writer's connection, outside a transaction.
        warehouse: the warehouse, for its store and the limits of the embedded DuckDB.
        files: Files of the landing zone.
        bounds: take only events with ``first <= timestamp <= last``.

    Yields:
        What is staged.

    Raises:
        StagingError: a file can't be read, or the database failed.
    """
    with ExitStack() as stack:
        try:
            paths = stack.enter_context(warehouse.store.here([file.name for file in files]))
            with connection.begin():
                staged = _stage(connection, warehouse, files, paths, bounds or _ALL)
        except (sa.exc.DBAPIError, duckdb.Error, pa.ArrowException, psycopg.Error, OSError) as error:
            raise staging_error(error, files) from None  # a trace would show the row that the cause holds
        yield staged


def insert_staged(connection: sa.Connection, fields: Sequence[PromotedField], load_id: int) -> None:
    """Staged rows into ``events``: those not passed over whose id it does not have.

    PostgreSQL's unique index, which each row asks anyway, tells what is known. DuckDB has none, see
    :mod:`warehouse.tables.events`.
    """
    names = column_names(fields)
    staged = sa.table(scratch.staged_events.name, *map(sa.column, ["staged_no", *names]))
    is_passed_over = sa.exists().where(scratch.passed_over.c.staged_no == staged.c.staged_no)
    # Plain columns: a value goes from column to column, and no type of SQLAlchemy's has a say.
    rows = sa.select(*[staged.c[name] for name in names], sa.literal(load_id)).where(~is_passed_over)
    into = sa.table(tables.events.name, *map(sa.column, [*names, "load_id"]))
    if connection.dialect.name == "duckdb":
        _pass_over_known(connection)
        connection.execute(sa.insert(into).from_select([*names, "load_id"], rows))
    else:
        scratch.analyze(connection, scratch.passed_over)
        insert = postgresql.insert(into).from_select([*names, "load_id"], rows)
        connection.execute(insert.on_conflict_do_nothing(index_elements=["event_id"]))


def _pass_over_known(connection: sa.Connection) -> None:
    """Mostly nothing is known, and the narrow keys tell so."""
    scratch.renew(connection, scratch.maybe_known)
    run(connection, "events", "find_known")
    if connection.execute(statements("events")["count_maybe_known"]).scalar_one():
        run(connection, "events", "pass_over_known")
    scratch.drop(connection, scratch.maybe_known)


def staging_error(error: Exception, files: Sequence[LandingFile]) -> StagingError:
    """What to raise when files could not be read, without a row's content."""
    msg = f"{len(files)} landing files could not be staged: {type(error).__name__}: {primary_message(error)}"
    return StagingError(msg)


def _stage(
    connection: sa.Connection,
    warehouse: Warehouse,
    files: Sequence[LandingFile],
    paths: Sequence[Path],
    bounds: tuple[int, int],
) -> Staged:
    fields = promoted(connection)
    is_duckdb = connection.dialect.name == "duckdb"
    select = _select(fields, {field.name for field in fields if _is_typed(field, files)}, has_key=is_duckdb)
    values = {"files": [str(path) for path in paths], "low": bounds[0], "high": bounds[1]}
    may_be_reconciled = _recovered(paths)
    scratch.drop_staged(connection)
    scratch.renew(connection, scratch.passed_over)
    if is_duckdb:
        for name in ("set_files", "set_low", "set_high"):
            run(connection, "landing", name, **values)
        connection.execute(scratch.CreateView(scratch.staged_events, select))
        if may_be_reconciled:  # such are moved
            scratch.own_rows(connection)
    else:
        scratch.staged_with(columns(fields)).create(connection, checkfirst=False)
        _copy(connection, warehouse, select, values)
    rows = connection.execute(sa.select(sa.func.count()).select_from(scratch.staged_events)).scalar_one()
    return Staged(files, int(rows), may_be_reconciled)


def _recovered(paths: Sequence[Path]) -> bool:
    """Whether an event may have been reconciled. The keys take a tenth of the time of the maps."""
    wanted = pa.scalar(RECOVERED_KEY)
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                read = file.read_row_group(group, columns=[_KEYS])
                # Another writer may name the maps' parts otherwise: then nothing is told.
                if not read.num_columns or pc.index(_flat(read.column(0)), wanted).as_py() >= 0:
                    return True
    return False


def _flat(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """The keys of maps that were read without their values, which Arrow gives as lists of structs."""
    return pa.chunked_array([pc.struct_field(pc.list_flatten(chunk), 0) for chunk in keys.chunks], pa.string())


def _is_typed(field: PromotedField, files: Sequence[LandingFile]) -> bool:
    """Whether files have the field's column, and none has one of that name and another type: it is not the sink's."""
    types = [file.further[field.name] for file in files if field.name in file.further]
    return bool(types) and all(type_ == promoted_column(field).type for type_ in types)


def _select(fields: Sequence[PromotedField], typed: set[str], *, has_key: bool) -> str:
    """The landing rows, and of each promoted field the typed column, if it is one, else what the metadata says.

    ``event_key`` is NULL if the warehouse has no use for it.
    """
    own = [sa.column(column.name, column.type) for column in scratch.staged_events.c]
    further: list[sa.ColumnClause[Any]] = [sa.column(name) for name in typed]
    landed = statements("landing")["select"].columns(*own, *further).subquery("landed")
    values = []
    for field in fields:
        text = sa.func.json_extract_string(landed.c.metadata, pointer(field.key))
        value = as_type(sa.type_coerce(text, sa.Text), field.type, "duckdb")
        if field.name in typed:
            value = sa.func.coalesce(landed.c[field.name], value)
        values.append(value.label(field.name))
    names = [column.name for column in own]
    taken = [landed.c[name] if has_key or name != "event_key" else sa.null().label(name) for name in names]
    select = sa.select(*taken, *values)
    return str(select.compile(dialect=_DUCKDB, compile_kwargs={"literal_binds": True}))


def _copy(connection: sa.Connection, warehouse: Warehouse, select: str, values: dict[str, Any]) -> None:
    copy_rows = connection.connection.cursor().copy
    with (
        duckdb.connect(config=warehouse.duckdb_config()) as parquet,
        copy_rows("COPY staged_events FROM STDIN (FORMAT csv)") as copy,
    ):
        parquet.execute("SET TimeZone = 'UTC'")
        for name in ("set_files", "set_low", "set_high"):
            statement = statements("landing")[name].compile(dialect=_DUCKDB)
            parquet.execute(str(statement), [values[key] for key in statement.positiontup or ()])
        with ThreadPoolExecutor(1) as ahead:  # the next chunk is made while the server takes this one
            chunks = _csv(parquet.sql(select).to_arrow_reader(_COPY_ROWS))
            coming = ahead.submit(next, chunks, None)
            while (chunk := coming.result()) is not None:
                coming = ahead.submit(next, chunks, None)
                copy.write(chunk)
    scratch.analyze(connection, scratch.staged_events)


def _csv(batches: Iterable[pa.RecordBatch]) -> Iterator[memoryview]:
    options = pa_csv.WriteOptions(include_header=False)
    for batch in batches:
        buffer = io.BytesIO()
        pa_csv.write_csv(_without_nul(batch), buffer, options)
        yield buffer.getbuffer()


def _without_nul(batch: pa.RecordBatch) -> pa.RecordBatch:
    """PostgreSQL's text holds no NUL character; one in a vendor's field must not stop the load."""
    columns = [
        pc.replace_substring(column, "\x00", "") if pa.types.is_string(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
