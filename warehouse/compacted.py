"""Compaction and the warehouse's list of landing files.

Nothing depends on this: a compacted file that is not in the list is loaded like any other, and its events are there
already. It spares the loads that work, and keeps the list from growing for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from streaming.batches import batched
from streaming.sink.compaction import Step
from warehouse import tables
from warehouse.engine import Warehouse, writer
from warehouse.landed import NAMES, forget_files


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
        forget_files(connection, deleted)


def _last_load(connection: sa.Connection, names: Sequence[str]) -> int | None:
    """The last load that took one of the files; None unless all are loaded."""
    landed = tables.landed_files.c
    count = sa.select(sa.func.count(), sa.func.max(landed.load_id)).where(landed.status == "loaded")
    loaded, last = 0, None
    for part in batched(names, lambda _: 1, NAMES):
        found, load_id = connection.execute(count.where(landed.name.in_(part))).one()
        loaded += found
        last = max(last or 0, load_id or 0)
    return last if loaded == len(names) else None
