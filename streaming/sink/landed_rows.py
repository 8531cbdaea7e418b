"""Which records of a topic have landed already: kept on the local disk, so that their number does not matter."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa

# 20 bytes a record on the disk, however long the ids are. Two different records are taken for one only if they have one
# place and their ids one hash: of a topic that was made anew under its name, at odds of 1 in 2^64 a record.
_MAKE = "CREATE TABLE landed (_partition INTEGER, _offset BIGINT, id UBIGINT)"
_ADD = "INSERT INTO landed SELECT _partition, _offset, hash(event_id) FROM rows"
_MISSING = """
SELECT r._n
FROM rows AS r
ANTI JOIN landed AS l ON l._partition = r._partition AND l._offset = r._offset AND l.id = hash(r.event_id)
ORDER BY r._n
"""
_MEMORY = "256MB"  # beyond it, DuckDB spills


class LandedRows:
    """Records of one topic by partition, offset and event id.

    Args:
        folder: Empty, on a disk with room for 20 bytes a record.
    """

    def __init__(self, folder: Path) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY,
            "threads": 1,
            "temp_directory": str(folder / "spill"),
        }
        self._database = duckdb.connect(folder / "landed.duckdb", config=config)
        self._database.execute(_MAKE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, rows: pa.Table) -> None:
        """Note rows of landing files, all of the topic.

        Raises:
            OSError: the disk is full.
        """
        self._run(_ADD, rows)

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows that have not landed, in their order.

        Raises:
            OSError: the disk is full.
        """
        numbered = rows.select(["_partition", "_offset", "event_id"]).append_column(
            "_n", pa.array(range(len(rows)), pa.int64())
        )
        missing = self._run(_MISSING, numbered)
        return rows if len(missing) == len(rows) else rows.take(pa.array([number for (number,) in missing], pa.int64()))

    def _run(self, statement: str, rows: pa.Table) -> list[tuple[int]]:
        self._database.register("rows", rows)
        try:
            return self._database.execute(statement).fetchall()
        except duckdb.Error as error:
            msg = f"noting what has landed: {type(error).__name__}: {error}"
            raise OSError(msg) from None
        finally:
            self._database.unregister("rows")
