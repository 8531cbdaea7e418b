"""Rows of events and conversations without a caller's personal data, as :mod:`streaming.erasure.personal` says.

Rows are cleaned in Python, once for both engines and for landing files, and put back by one statement. They are few:
those of erased callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import MetaData, Table, Text

from streaming.erasure.personal import ADDRESSES, WORDS, ErasureKey, Mode, Owner, clean, clean_fields
from warehouse import scratch, tables
from warehouse.promoted import promoted

_FETCHED = 10_000
_SAID = (*ADDRESSES, *WORDS)
_TEXTS = (*_SAID, "payload", "metadata")
_metadata = MetaData()

ModeOf = Callable[[sa.Row[Any]], Mode]
"""How a row is cleaned."""


def temporary(name: str, *columns: str) -> Table:
    """A temporary table of texts."""
    return Table(name, _metadata, *[sa.Column(column, Text) for column in columns], prefixes=["TEMPORARY"])


_cleaned = temporary("cleaned_rows", "row_id", *_TEXTS)


class Cleaner:
    """Cleans rows, in the caller's transaction. Again changes nothing.

    Args:
        connection: A writer's.
        key: Of pseudonyms.
        dry_run: Only count.
    """

    def __init__(self, connection: sa.Connection, key: ErasureKey, *, dry_run: bool = False) -> None:
        self._connection = connection
        self._key = key
        self._dry_run = dry_run

    def events(self, table: Table, row_id: str, found: sa.Executable, mode_of: ModeOf) -> int:
        """Rows of a table of events; columns of promoted fields are emptied.

        Args:
            table: ``events``, ``reconciled_events`` or ``staged_events``.
            row_id: Column that tells its rows apart.
            found: Query of the rows: row_id (text), vendor, tenant_id, payload, metadata, and what ``mode_of`` needs.
            mode_of: How a row is cleaned.

        Returns:
            Rows that lost something.
        """
        fresh = []
        for row in self._rows(found):
            payload, metadata = orjson.loads(row.payload), orjson.loads(row.metadata)
            cleaned = clean(Owner(row.vendor, row.tenant_id), payload, metadata, mode_of(row), self._key)
            if cleaned != (payload, metadata):
                texts = {"payload": _json(cleaned.payload), "metadata": _json(cleaned.metadata)}
                fresh.append({"row_id": row.row_id, **_said(cleaned.payload), **texts})
        emptied = {field.name: sa.null() for field in promoted(self._connection)}
        target = sa.table(table.name, *map(sa.column, (*table.c.keys(), *emptied)))
        update = sa.update(target).where(sa.cast(target.c[row_id], Text) == _cleaned.c.row_id)
        self._put_back(fresh, update.values({**{name: _cleaned.c[name] for name in _TEXTS}, **emptied}))
        return len(fresh)

    def conversations(self, owner: Owner, found: sa.Executable, mode_of: ModeOf) -> int:
        """As :meth:`events`, rows of ``conversations``; ``found`` has conversation_id and the texts."""
        fresh = []
        for row in self._rows(found):
            said = {name: text for name in _SAID if (text := getattr(row, name)) is not None}
            cleaned = clean_fields(owner, said, mode_of(row), self._key)
            if cleaned != said:
                fresh.append({"row_id": row.conversation_id, **_said(cleaned)})
        c = tables.conversations.c
        update = sa.update(tables.conversations).where(
            c.vendor == owner.vendor, c.tenant_id == owner.tenant_id, c.conversation_id == _cleaned.c.row_id
        )
        self._put_back(fresh, update.values({name: _cleaned.c[name] for name in _SAID}))
        return len(fresh)

    def _rows(self, query: sa.Executable) -> Iterable[sa.Row[Any]]:
        for part in self._connection.execute(query).partitions(_FETCHED):
            yield from part

    def _put_back(self, rows: Sequence[Mapping[str, Any]], update: sa.Update) -> None:
        if not rows or self._dry_run:
            return
        scratch.fill(self._connection, _cleaned, rows)
        self._connection.execute(update)
        scratch.drop(self._connection, _cleaned)


def _said(cleaned: Mapping[str, str]) -> dict[str, str | None]:
    # PostgreSQL's text holds no NUL character, and the column had none.
    return {name: cleaned[name].replace("\0", "") if name in cleaned else None for name in _SAID}


def _json(texts: Mapping[str, str]) -> str:
    return orjson.dumps(texts).decode()
