"""The data dictionary: every column of every table and view, from their definitions, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from warehouse.tables import metadata
from warehouse.tables.views import view_metadata

_HEAD = """\
# Data dictionary

Written by `ccaas dictionary > docs/data-dictionary.md` from the definitions in `warehouse/tables`; a test compares.

Types are PostgreSQL's names, the same on DuckDB. Instants and days are UTC. `null`: the column may be NULL; nothing is
known then, unless the meaning says more. Unit 1 is a count. Only sums are stored; rates are in the views, NULL where
the denominator is 0. How loads fill the tables is in [warehouse.md](warehouse.md), what the fields of an event mean in
[events.md](events.md)."""

_COLUMNS = ("column", "type", "unit", "meaning", "formula", "source")

_TYPES = {
    "text": "text",
    "big_integer": "bigint",
    "integer": "integer",
    "date": "date",
    "datetime": "timestamptz",
    "boolean": "boolean",
    "double": "double precision",
}


def dictionary() -> str:
    """The whole document; tables first, then views, each by name.

    Raises:
        KeyError: a column's type has no name here.
    """
    tables, views = _by_name(metadata), _by_name(view_metadata)
    parts = [_HEAD, _contents("Tables", tables), _contents("Views", views)]
    parts += ["\n".join(_section(table)) for table in (*tables, *views)]
    return "\n\n".join(parts) + "\n"


def _by_name(collection: sa.MetaData) -> list[sa.Table]:
    return sorted(collection.tables.values(), key=lambda table: table.name)


def _contents(title: str, tables: list[sa.Table]) -> str:
    return f"{title}: " + " · ".join(f"[{table.name}](#{table.name})" for table in tables)


def _section(table: sa.Table) -> Iterator[str]:
    yield f"## {table.name}"
    yield ""
    yield f"A row is: {table.info['row']}."
    yield ""
    yield _line(_COLUMNS)
    yield _line(["---"] * len(_COLUMNS))
    for column in table.columns:
        yield _line(_cells(column))


def _cells(column: sa.Column[Any]) -> list[str]:
    kind = _TYPES[column.type.__visit_name__.lower()] + (", null" if column.nullable else "")
    formula = column.info.get("formula", "")
    source = column.info.get("source", "")
    return [
        f"`{column.name}`",
        kind,
        column.info.get("unit", ""),
        column.doc or "",
        f"`{formula}`" if formula else "",
        f"[{urlsplit(source).hostname}]({source})" if source else "",
    ]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
