"""Rows of landing files by tenant and day of the event, in bounded memory: DuckDB sorts on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from schemas.columns import plain

SEVERAL = "_several"
"""Stands for the tenant, the vendor or the day in the folder of files that hold more than one."""

_MEMORY = "256MB"  # beyond it DuckDB writes to its folder
_BATCH_ROWS = 50_000

# A day is that of the vendor's time, UTC. What is no name that the settings allow is no folder's name either.
_LAND = r"""
CREATE TABLE landed AS
SELECT *,
    CASE
        WHEN timestamp >= 0 AND timestamp < 253402300800000
            AND regexp_full_match(vendor, '[A-Za-z0-9_-]{1,100}')
            AND regexp_full_match(tenant_id, '[A-Za-z0-9_-]{1,100}')
        THEN strftime(make_timestamp(timestamp * 1000), '%Y-%m-%d')
    END AS _day
FROM rows
"""
_CELLS = """
CREATE TABLE cells AS
WITH
    counted AS (SELECT vendor, tenant_id, _day, count(*) AS n FROM landed GROUP BY ALL),
    of_day AS (
        SELECT *, sum(n) FILTER (WHERE n < $min_rows) OVER (PARTITION BY vendor, _day) AS small_ones FROM counted
    )
SELECT vendor, tenant_id, _day,
    CASE WHEN _day IS NULL OR (n < $min_rows AND small_ones < $min_rows) THEN $several ELSE vendor END AS to_vendor,
    CASE WHEN _day IS NULL OR n < $min_rows THEN $several ELSE tenant_id END AS to_tenant,
    CASE WHEN _day IS NULL OR (n < $min_rows AND small_ones < $min_rows) THEN $several ELSE _day END AS to_day
FROM of_day
"""
_SORTED = """
SELECT c.to_vendor, c.to_tenant, c.to_day, l.* EXCLUDE (_day)
FROM landed AS l
JOIN cells AS c
    ON c.vendor = l.vendor AND c.tenant_id = l.tenant_id AND c._day IS NOT DISTINCT FROM l._day
ORDER BY c.to_vendor, c.to_tenant, c.to_day, l._topic, l._partition, l._offset
"""


class Cell(NamedTuple):
    """Where rows belong: each part as in the folder's name, :data:`SEVERAL` if there is more than one."""

    vendor: str
    tenant_id: str
    day: str


def sorted_rows(
    tables: Iterable[pa.Table], layout: pa.Schema, min_rows: int, folder: Path
) -> Iterator[tuple[Cell, pa.Table]]:
    """Rows cell by cell, within one by place on Kafka; a cell's tables follow one another.

    Args:
        tables: Each with the columns of ``layout``.
        layout: Columns of landing files.
        min_rows: A tenant's day with fewer goes with the vendor's others of that day, and if these are fewer together,
            with all that is left.
        folder: Empty, on a disk with room for the rows.

    Raises:
        OSError: the disk is full.
    """
    batches = (batch for table in tables for batch in table.to_batches())
    rows = pa.RecordBatchReader.from_batches(layout, batches)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": 1,
        "temp_directory": str(folder / "spill"),
    }
    try:
        with duckdb.connect(str(folder / "rows.duckdb"), config=config) as database:
            database.register("rows", rows)
            database.execute(_LAND)
            database.execute(_CELLS, {"min_rows": min_rows, "several": SEVERAL})
            for batch in database.sql(_SORTED).to_arrow_reader(_BATCH_ROWS):
                yield from _cells(pa.Table.from_batches([batch]), layout)
    except duckdb.Error as error:
        msg = f"sorting in {folder}: {type(error).__name__}: {error}"
        raise OSError(msg) from None


def _cells(rows: pa.Table, layout: pa.Schema) -> Iterator[tuple[Cell, pa.Table]]:
    keys = list(zip(*(rows.column(number).to_pylist() for number in range(3)), strict=True))
    columns = [pa.chunked_array([plain(part) for part in rows.column(field.name).chunks]) for field in layout]
    table = pa.table(columns, names=layout.names).cast(layout)
    begin = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            yield Cell(*keys[begin]), table.slice(begin, end - begin)
            begin = end
