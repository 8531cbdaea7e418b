"""Landing files into the temporary table ``staged_events``: the one step that differs between the engines.

DuckDB reads Parquet in place. For PostgreSQL an embedded DuckDB reads the files with the same statement and its result
goes through COPY as CSV, so both engines get the same typed rows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import duckdb
import duckdb_engine
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from schemas.promoted import PromotedField
from streaming.sink.landing import promoted_column
from warehouse import scratch
from warehouse.engine import Warehouse
from warehouse.errors import StagingError, primary_message
from warehouse.landing import LandingFile
from warehouse.promoted import as_type, columns, pointer, promoted
from warehouse.statements import statements

_COPY_ROWS = 50_000  # rows of one COPY chunk: some 40 MB with payload and metadata


def stage(
    connection: sa.Connection, warehouse: Warehouse, files: Sequence[LandingFile], bounds: tuple[int, int] | None = None
) -> int:
    """Fill ``staged_events`` anew.

    Args:
        connection: writer's connection, in a transaction.
        warehouse: the warehouse, for the limits of the embedded DuckDB.
        files: Files of the landing zone.
        bounds: take only events with ``start_ms <= timestamp < end_ms``.

    Returns:
        Rows staged.

    Raises:
        StagingError: a file can't be read, or the database failed.
    """
    fields = promoted(connection)
    staged = scratch.staged_with(columns(fields))
    scratch.renew(connection, staged)
    low, high = bounds or (-(2**63), 2**63 - 1)
    select = _select(fields, {field.name for field in fields if _is_typed(field, files)})
    try:
        with warehouse.store.here([file.name for file in files]) as paths:
            values = {"files": [str(path) for path in paths], "low": low, "high": high}
            if connection.dialect.name == "duckdb":
                connection.execute(sa.insert(staged).from_select(staged.c.keys(), select), values)
            else:
                _copy(connection, warehouse, select, values)
    except (sa.exc.DBAPIError, duckdb.Error, pa.ArrowException, psycopg.Error, OSError) as error:
        msg = f"{len(files)} landing files could not be staged: {type(error).__name__}: {primary_message(error)}"
        raise StagingError(msg) from None  # a trace would show the row that the cause holds
    return int(connection.execute(sa.select(sa.func.count()).select_from(scratch.staged_events)).scalar_one())


def _is_typed(field: PromotedField, files: Sequence[LandingFile]) -> bool:
    """Whether files have the field's column, and none has one of that name and another type: it is not the sink's."""
    types = [file.further[field.name] for file in files if field.name in file.further]
    return bool(types) and all(type_ == promoted_column(field).type for type_ in types)


def _select(fields: Sequence[PromotedField], typed: set[str]) -> sa.Select[Any]:
    """The landing rows, and of each promoted field the typed column, if it is one, else what the metadata says."""
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
    return sa.select(*[landed.c[column.name] for column in own], *values)


def _copy(connection: sa.Connection, warehouse: Warehouse, select: sa.Select[Any], values: dict[str, Any]) -> None:
    compiled = select.compile(dialect=duckdb_engine.Dialect(paramstyle="numeric_dollar"))
    bound = {**compiled.params, **values}
    parameters = [bound[name] for name in compiled.positiontup or ()]
    options = pa_csv.WriteOptions(include_header=False)
    copy_rows = connection.connection.cursor().copy
    with (
        duckdb.connect(config=warehouse.duckdb_config()) as parquet,
        copy_rows("COPY staged_events FROM STDIN (FORMAT csv)") as copy,
    ):
        parquet.execute("SET TimeZone = 'UTC'")
        for batch in parquet.sql(compiled.string, params=parameters).to_arrow_reader(_COPY_ROWS):
            buffer = io.BytesIO()
            pa_csv.write_csv(_without_nul(batch), buffer, options)
            copy.write(buffer.getbuffer())
    scratch.analyze(connection, scratch.staged_events)


def _without_nul(batch: pa.RecordBatch) -> pa.RecordBatch:
    """PostgreSQL's text holds no NUL character; one in a vendor's field must not stop the load."""
    columns = [
        pc.replace_substring(column, "\x00", "") if pa.types.is_string(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
