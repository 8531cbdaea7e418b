"""Errors of the warehouse.

::

    CcaasError
    ├── ConfigurationError
    │   └── WindowError            a window is not aware, not on the grid or the wrong way round
    ├── ServiceUnavailableError
    │   ├── WarehouseBusyError     another load holds the write lock, or the database does not open
    │   ├── WarehouseDownError     the database went away in the midst of work
    │   ├── StagingError           landing files did not reach the staging table
    │   ├── NoReadCopyError        no load has published a copy for readers yet
    │   └── ExportError            an export's folder can't be written, or another export holds it
    └── QualityError               a hard rule is broken inside a load; its transaction was undone
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError


class WindowError(ConfigurationError):
    """A window can't be used. The message says which bound is wrong and what would be right."""


class WarehouseBusyError(ServiceUnavailableError):
    """The write lock was not free in time, or another program keeps the database open. Try again later."""


class WarehouseDownError(ServiceUnavailableError):
    """The database ended the connection, or its disk or memory is full. What was not committed is undone."""


class StagingError(ServiceUnavailableError):
    """Landing files did not reach the staging table: one of them is broken, or the database does not answer."""


class NoReadCopyError(ServiceUnavailableError):
    """Readers open a copy of the DuckDB file, and there is none so far. Run a load first."""


class ExportError(ServiceUnavailableError):
    """The export's folder is full, not writable, or held by another export. The files that were there stay."""


class QualityError(CcaasError):
    """A hard rule does not hold after a load. Nothing was changed: the load's transaction was undone.

    Attributes:
        rule: name of the rule in ``warehouse/sql/rules.sql``.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


def first_of(said: Sequence[str], most: int) -> str:
    """Messages as one, the rest as a count: an error that names thousands is read by nobody."""
    more = f"; and {len(said) - most} more" if len(said) > most else ""
    return "; ".join(said[:most]) + more


def primary_message(error: BaseException) -> str:
    """What a driver says is wrong, without the statement, its values or a row of the table.

    SQLAlchemy appends the statement, and PostgreSQL appends the row that failed (DETAIL, CONTEXT): events hold people's
    numbers, and messages go to logs and to the ledger.
    """
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    primary = getattr(getattr(error, "diag", None), "message_primary", None)  # psycopg's, if the server said something
    text = str(primary or error).strip().partition("\n")[0]
    return text or type(error).__name__
