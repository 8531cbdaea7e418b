"""How far each tenant is reconciled, so that a scheduled run makes up for those that failed or never ran."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

import sqlalchemy as sa

from streaming.errors import ServiceUnavailableError
from streaming.state import open_state, reconciled_through
from streaming.vendors.cxone.connection import VENDOR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class ReconciledThrough:
    """The instants, in the state database. Any thread may use it.

    Args:
        state_url: SQLAlchemy URL of the state database.

    Raises:
        ConfigurationError: the URL is none.
        ServiceUnavailableError: the database does not answer.
    """

    def __init__(self, state_url: str) -> None:
        self._engine = open_state(state_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def read(self, tenant_id: str) -> datetime | None:
        """Everything that ended before it is reconciled; None before the first run.

        Raises:
            ServiceUnavailableError: the database does not answer.
        """
        query = sa.select(reconciled_through.c.through_ms).where(*_row(tenant_id))
        try:
            with self._engine.connect() as connection:
                found = connection.execute(query).scalar_one_or_none()
        except sa.exc.OperationalError as error:
            raise _unavailable(error) from None
        return None if found is None else _EPOCH + found * _MILLISECOND

    def move(self, tenant_id: str, through: datetime) -> None:
        """Note how far a tenant is reconciled; an earlier instant than the stored one changes nothing.

        Raises:
            ServiceUnavailableError: the database does not answer; a later run reads the same window again.
        """
        through_ms = (through - _EPOCH) // _MILLISECOND
        values = {"vendor": VENDOR, "tenant_id": tenant_id, "through_ms": through_ms}
        later = sa.update(reconciled_through).where(*_row(tenant_id), reconciled_through.c.through_ms < through_ms)
        for is_last in (False, True):
            try:
                with self._engine.begin() as connection:
                    if connection.execute(later.values(through_ms=through_ms)).rowcount:
                        return
                    there = sa.select(reconciled_through.c.through_ms).where(*_row(tenant_id))
                    if connection.execute(there).first() is None:
                        connection.execute(sa.insert(reconciled_through).values(values))
                    return
            except sa.exc.IntegrityError as error:  # another run made the row meanwhile
                if is_last:
                    raise _unavailable(error) from None
            except sa.exc.OperationalError as error:
                raise _unavailable(error) from None


def _row(tenant_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return reconciled_through.c.vendor == VENDOR, reconciled_through.c.tenant_id == tenant_id


def _unavailable(error: sa.exc.DBAPIError) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"state database: {type(error).__name__}: how far is reconciled can't be kept")
