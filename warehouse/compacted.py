"""Compaction and the warehouse's list of landing files.

Nothing depends on this: a compacted file that is not in the list is loaded like any other, and its events are there
already. It spares the loads that work, and keeps the list from growing for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from streaming.sink.compaction import Step
from warehouse import tables
from warehouse.engine import Warehouse, writer

_NAMES = 5_000  # of one statement: PostgreSQL binds 65,535 values at most


def note_compacted(warehouse: Warehouse, steps: Iterable[Step], deleted: Sequence[str]) -> None:
    """Compacted files of which every raw file is loaded count as loaded; deleted raw files leave the list.

    Raises:
        WarehouseBusyError: another load kept the lock.
        WarehouseDownError: the database went away.
    """
    landed = tables.landed_files
    with writer(warehouse) as connection, connection.begin():
        for step in steps:
            load_id = _last_load(connection, step.sources)
            if load_id is not None and step.files:
                rows = [{"name": f.name, "rows": f.rows, "status": "loaded", "load_id": load_id} for f in step.files]
                names = [file.name for file in step.files]
                connection.execute(sa.delete(landed).where(landed.c.name.in_(names)))  # a load was quicker
                connection.execute(sa.insert(landed), rows)
        for part in _parts(deleted):
            connection.execute(sa.delete(landed).where(landed.c.name.in_(part), landed.c.status == "loaded"))


def _last_load(connection: sa.Connection, names: Sequence[str]) -> int | None:
    """The last load that took one of the files; None unless all are loaded."""
    landed = tables.landed_files.c
    count = sa.select(sa.func.count(), sa.func.max(landed.load_id)).where(landed.status == "loaded")
    loaded, last = 0, None
    for part in _parts(names):
        found, load_id = connection.execute(count.where(landed.name.in_(part))).one()
        loaded += found
        last = max(last or 0, load_id or 0)
    return last if loaded == len(names) else None


def _parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[begin : begin + _NAMES] for begin in range(0, len(names), _NAMES))
