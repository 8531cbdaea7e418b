"""How far each tenant is reconciled, so that a scheduled run makes up for those that failed or never ran."""

from __future__ import annotations

from datetime import datetime
from typing import Self

import sqlalchemy as sa

from streaming.errors import ServiceUnavailableError
from streaming.instants import from_ms, to_ms
from streaming.state import insert, open_state, reconciled_through
from streaming.vendors.cxone.connection import VENDOR


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
        return None if found is None else from_ms(found)

    def move(self, tenant_id: str, through: datetime) -> None:
        """Note how far a tenant is reconciled; an earlier instant than the stored one changes nothing.

        Raises:
            ServiceUnavailableError: the database does not answer; a later run reads the same window again.
        """
        values = {"vendor": VENDOR, "tenant_id": tenant_id, "through_ms": to_ms(through)}
        try:
            with self._engine.begin() as connection:
                row = insert(connection, reconciled_through).values(values)
                later = row.excluded.through_ms
                connection.execute(
                    row.on_conflict_do_update(
                        index_elements=[reconciled_through.c.vendor, reconciled_through.c.tenant_id],
                        set_={"through_ms": later},
                        where=reconciled_through.c.through_ms < later,
                    )
                )
        except sa.exc.OperationalError as error:
            raise _unavailable(error) from None


def _row(tenant_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return reconciled_through.c.vendor == VENDOR, reconciled_through.c.tenant_id == tenant_id


def _unavailable(error: sa.exc.DBAPIError) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"state database: {type(error).__name__}: how far is reconciled can't be kept")
