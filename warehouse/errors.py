"""Errors of the warehouse.

::

    CcaasError
    ├── ConfigurationError
    │   └── WindowError            a window is not aware, not on the grid or the wrong way round
    ├── ServiceUnavailableError
    │   ├── WarehouseBusyError     another load holds the write lock, or the database does not open
    │   └── NoReadCopyError        no load has published a copy for readers yet
    └── QualityError               a hard rule is broken inside a load; its transaction was undone
"""

from __future__ import annotations

from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError


class WindowError(ConfigurationError):
    """A window can't be used. The message says which bound is wrong and what would be right."""


class WarehouseBusyError(ServiceUnavailableError):
    """The write lock was not free in time, or another program keeps the database open. Try again later."""


class NoReadCopyError(ServiceUnavailableError):
    """Readers open a copy of the DuckDB file, and there is none so far. Run a load first."""


class QualityError(CcaasError):
    """A hard rule does not hold after a load. Nothing was changed: the load's transaction was undone.

    Attributes:
        rule: name of the rule in ``warehouse/sql/rules.sql``.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule
