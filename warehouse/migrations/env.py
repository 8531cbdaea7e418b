"""Alembic's entry: runs the migrations on the connection that :func:`warehouse.schema.migrate` hands over."""

from __future__ import annotations

from alembic import context
from alembic.ddl.impl import DefaultImpl

from warehouse.schema import VERSION_TABLE
from warehouse.tables import metadata


class DuckDBImpl(DefaultImpl):
    """Alembic knows no DuckDB; standard DDL is all that the migrations use, and DuckDB's DDL is transactional."""

    __dialect__ = "duckdb"
    transactional_ddl = True


context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
