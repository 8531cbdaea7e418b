"""The SQL of the loads: files in ``warehouse/sql``, cut into named statements.

A statement begins with a line ``-- name: its_name``. It is written in the SQL that DuckDB and PostgreSQL share, and
values are always bound (``:step_ms``); what only one engine speaks lives in :mod:`warehouse.staging`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import sqlalchemy as sa

_MARK = "-- name:"


@lru_cache
def statements(file: str) -> dict[str, sa.TextClause]:
    """Statements of ``sql/<file>.sql`` by name, in the file's order."""
    named: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (files("warehouse") / "sql" / f"{file}.sql").read_text(encoding="utf-8").splitlines():
        if line.startswith(_MARK):
            current = named.setdefault(line.removeprefix(_MARK).strip(), [])
        elif not line.lstrip().startswith("--"):  # a colon in a comment would pass for a parameter
            current.append(line)
    return {name: sa.text("\n".join(lines)) for name, lines in named.items()}


def run(connection: sa.Connection, file: str, name: str, **values: object) -> int:
    """Execute one statement with those of ``values`` that it binds.

    Returns:
        Rows changed; DuckDB does not always say, then -1.
    """
    statement = statements(file)[name]
    bound = {key: values[key] for key in statement._bindparams}  # it has no public list of them
    return connection.execute(statement, bound).rowcount
