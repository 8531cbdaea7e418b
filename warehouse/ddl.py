"""DDL on both engines by Alembic, which knows DuckDB once this is imported."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.ddl.impl import DefaultImpl
from alembic.migration import MigrationContext
from alembic.operations import Operations


class DuckDBImpl(DefaultImpl):
    """Standard DDL is all that is used, and DuckDB's DDL is transactional."""

    __dialect__ = "duckdb"
    transactional_ddl = True


def add_column(connection: sa.Connection, table: str, column: sa.Column[Any]) -> None:
    """Add a column to a table, in the caller's transaction."""
    Operations(MigrationContext.configure(connection)).add_column(table, column)
