"""The schema of the warehouse: created and brought up to date by versioned migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from streaming.errors import ConfigurationError
from streaming.settings import Settings
from warehouse.engine import Warehouse, publish_read_copy, writer

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "v0011"
"""Newest migration in ``warehouse/migrations/versions``; a test compares."""

VERSION_TABLE = "ccaas_schema_version"
"""Holds the revision. Not Alembic's usual name: other applications may live in the same PostgreSQL database."""

_versions = sa.table(VERSION_TABLE, sa.column("version_num"))


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
        ConfigurationError: the database is newer than this code, or has a revision that this code does not know.
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
        from alembic.util import CommandError  # noqa: PLC0415

        try:
            command.upgrade(migrations(connection), "head")
        except CommandError as error:
            msg = (
                f"the warehouse can't be brought from schema {found} to {HEAD}: {error}. "
                f"Name another database in warehouse.url, or mend its table {VERSION_TABLE}"
            )
            raise ConfigurationError(msg) from error
        connection.commit()


def migrations(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration: where the migrations are and, to run them, the database."""
    from alembic.config import Config  # noqa: PLC0415 (as in migrate)

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def revision(connection: sa.Connection) -> str | None:
    """Revision of the database, None if it is empty."""
    there = sa.inspect(connection).has_table(VERSION_TABLE)
    found = connection.execute(sa.select(_versions.c.version_num)).scalar() if there else None
    connection.commit()
    return None if found is None else str(found)
