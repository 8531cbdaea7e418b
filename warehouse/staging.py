"""Landing files into the temporary table ``staged_events``: the one step that differs between the engines.

DuckDB reads Parquet in place. For PostgreSQL an embedded DuckDB reads the files with the same statement and its result
goes through COPY as CSV, so both engines get the same typed rows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from warehouse import scratch
from warehouse.engine import Warehouse
from warehouse.statements import statements

_COPY_ROWS = 50_000  # rows of one COPY chunk: some 40 MB with payload and metadata


def stage(
    connection: sa.Connection, warehouse: Warehouse, files: Sequence[Path], bounds: tuple[int, int] | None = None
) -> int:
    """Fill ``staged_events`` anew.

    Args:
        connection: writer's connection, in a transaction.
        warehouse: the warehouse, for the limits of the embedded DuckDB.
        files: Parquet files of the landing zone.
        bounds: take only events with ``start_ms <= timestamp < end_ms``.

    Returns:
        Rows staged.

    Raises:
        sqlalchemy.exc.DBAPIError: a file can't be read, or the database failed.
    """
    scratch.renew(connection, scratch.staged_events)
    low, high = bounds or (-(2**63), 2**63 - 1)
    values = {"files": [str(path) for path in files], "low": low, "high": high}
    select = statements("landing")["select"]
    if connection.dialect.name == "duckdb":
        names = scratch.staged_events.c.keys()
        typed = select.columns(*[sa.column(column.name, column.type) for column in scratch.staged_events.c])
        connection.execute(sa.insert(scratch.staged_events).from_select(names, typed), values)
    else:
        _copy(connection, warehouse, select, values)
        connection.execute(sa.text("ANALYZE staged_events"))
    return int(connection.execute(sa.select(sa.func.count()).select_from(scratch.staged_events)).scalar_one())


def _copy(connection: sa.Connection, warehouse: Warehouse, select: sa.TextClause, values: dict[str, object]) -> None:
    engine = sa.create_engine(
        "duckdb:///:memory:", poolclass=NullPool, connect_args={"config": warehouse.duckdb_config()}
    )
    options = pa_csv.WriteOptions(include_header=False)
    copy_rows = connection.connection.cursor().copy
    try:
        with (
            engine.connect() as parquet,
            copy_rows("COPY staged_events FROM STDIN (FORMAT csv)") as copy,
        ):
            parquet.execute(sa.text("SET TimeZone = 'UTC'"))
            result = parquet.execute(select, values)
            for batch in result.cursor.to_arrow_reader(_COPY_ROWS):
                buffer = io.BytesIO()
                pa_csv.write_csv(_without_nul(batch), buffer, options)
                copy.write(buffer.getvalue())
    finally:
        engine.dispose()


def _without_nul(batch: pa.RecordBatch) -> pa.RecordBatch:
    """PostgreSQL's text holds no NUL character; one in a vendor's field must not stop the load."""
    columns = [
        pc.replace_substring(column, "\x00", "") if pa.types.is_string(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
