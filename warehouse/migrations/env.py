"""Alembic's entry: runs the migrations on the connection that :func:`warehouse.schema.migrate` hands over."""

from __future__ import annotations

from alembic import context

import warehouse.ddl  # noqa: F401 (it makes DuckDB known to Alembic)
from warehouse.schema import VERSION_TABLE
from warehouse.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
