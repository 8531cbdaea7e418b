"""What was deleted or changed in the database goes from its files too."""

from __future__ import annotations

import os
from collections.abc import Sequence

import sqlalchemy as sa

from streaming.files import sync_folder
from warehouse.engine import Warehouse, writer


def forget_deleted(warehouse: Warehouse, changed: Sequence[sa.Table]) -> None:
    """Write DuckDB's file anew, so that nothing deleted is left in it; on PostgreSQL, VACUUM the tables.

    DuckDB frees deleted rows' blocks and leaves their bytes in the file until something is written over them. The new
    file takes as much room as the old one has data, beside it, and replaces it atomically. PostgreSQL's VACUUM frees
    the rows; their bytes are overwritten in time, in its files, its write-ahead log and its backups.

    Raises:
        WarehouseBusyError: another load kept the lock.
        WarehouseDownError: the database went away, or the disk is full; the old file stays.
        OSError: the disk is full; the old file stays.
    """
    with writer(warehouse) as connection:
        if warehouse.database is None:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in changed:
                connection.execute(sa.text("VACUUM " + connection.dialect.identifier_preparer.format_table(table)))
            return
        database = warehouse.database
        fresh = database.with_name(f".tmp-{os.getpid()}-{database.name}")
        for orphan in database.parent.glob(f".tmp-*-{database.name}*"):  # under the lock nobody else is writing one
            orphan.unlink(missing_ok=True)
        quote = connection.dialect.identifier_preparer.quote_identifier
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(sa.text("CHECKPOINT"))
        connection.execute(sa.text("ATTACH :path AS ccaas_fresh"), {"path": str(fresh)})
        connection.commit()
        try:
            connection.execute(sa.text("COPY FROM DATABASE " + quote(name) + " TO ccaas_fresh"))
            connection.commit()
            connection.execute(sa.text("DETACH ccaas_fresh"))
            connection.commit()
        except BaseException:
            fresh.unlink(missing_ok=True)  # a full disk needs the room
            raise
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(database)
        sync_folder(database.parent)  # else the old file might be back after a power cut
        # What is still open is the old file, which has no name any more; nothing is written to it.
