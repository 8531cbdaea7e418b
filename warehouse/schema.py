"""The schema of the warehouse: created and brought up to date by versioned migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from streaming.errors import ConfigurationError
from streaming.settings import Settings
from warehouse.engine import Warehouse, publish_read_copy, writer

HEAD = "v0001"
"""Newest migration in ``warehouse/migrations/versions``; a test compares."""


@contextmanager
def open_warehouse(settings: Settings | Warehouse) -> Iterator[Warehouse]:
    """The warehouse with its schema up to date; afterwards the readers' copy is renewed if it is old enough.

    Raises:
        ConfigurationError: the URL can't be used, or the database was made by a newer version of the platform.
        WarehouseBusyError: the database is locked or does not open.
    """
    warehouse = settings if isinstance(settings, Warehouse) else Warehouse.from_settings(settings)
    migrate(warehouse)
    yield warehouse
    publish_read_copy(warehouse)


def migrate(warehouse: Warehouse) -> None:
    """Run the migrations that the database lacks, each in a transaction.

    Raises:
        ConfigurationError: the database is newer than this code.
        WarehouseBusyError: the database is locked or does not open.
    """
    with writer(warehouse) as connection:
        found = revision(connection)
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            msg = f"the warehouse has schema {found}, this version knows up to {HEAD}: install the newer version"
            raise ConfigurationError(msg)
        # Importing Alembic takes longer than a small load; most loads find the schema up to date.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def revision(connection: sa.Connection) -> str | None:
    """Revision of the database, None if it is empty."""
    there = connection.execute(
        sa.text("SELECT count(*) FROM information_schema.tables WHERE table_name = 'alembic_version'")
    ).scalar_one()
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() if there else None
    connection.commit()
    return None if found is None else str(found)
