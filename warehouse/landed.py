"""The list of landing files that loads have taken: ``landed_files``."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from streaming.batches import batched
from warehouse import tables

NAMES = 5_000
"""Of one statement: PostgreSQL binds 65,535 values at most."""


def loaded_files(connection: sa.Connection) -> dict[str, int]:
    """Rows of the files that are loaded, by name."""
    files = tables.landed_files.c
    found = connection.execute(sa.select(files.name, files.rows).where(files.status == "loaded"))
    return {name: rows or 0 for name, rows in found}


def forget_files(connection: sa.Connection, names: Iterable[str]) -> None:
    """Take files that are no more off the list, in the caller's transaction: else it would grow for ever."""
    files = tables.landed_files
    for part in batched(names, lambda _: 1, NAMES):
        connection.execute(sa.delete(files).where(files.c.name.in_(part), files.c.status == "loaded"))
