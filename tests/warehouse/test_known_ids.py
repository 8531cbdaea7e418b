"""Which staged events are known already: by their ids, whatever a shorter key says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic import command

from tests.warehouse.events import land, queued
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError
from warehouse.load_events import load_events
from warehouse.schema import migrations

_TAIL = "000000abcdef"
_IDS = (
    f"11111111-1111-5111-8111-{_TAIL}",
    f"22222222-2222-5222-8222-{_TAIL}",  # the same key
    f"22222222-2222-5222-8222-{_TAIL.upper()}",  # the same number, another text
    "e",
    "no hexadecimal number at the end",
    " ",
)


def _land(target: Warehouse, *ids: str, first_offset: int) -> None:
    events = [
        replace(queued("09:00:00", f"c{offset}"), id=id_, offset=offset) for offset, id_ in enumerate(ids, first_offset)
    ]
    land(target.landing_dir, *events)


def _ids(target: Warehouse) -> list[str]:
    with writer(target) as connection:
        return sorted(connection.execute(sa.text("SELECT event_id FROM events")).scalars())


def test_ids_of_one_key_are_different_events(warehouse: Warehouse) -> None:
    for offset, id_ in enumerate(_IDS):
        _land(warehouse, id_, first_offset=offset)
        assert load_events(warehouse, run_id="r").rows == 1, id_
    assert _ids(warehouse) == sorted(_IDS)


def test_each_id_is_known_when_it_comes_again(warehouse: Warehouse) -> None:
    _land(warehouse, *_IDS, first_offset=0)
    assert load_events(warehouse, run_id="r").rows == len(_IDS)
    _land(warehouse, *_IDS, "new", first_offset=len(_IDS))
    assert load_events(warehouse, run_id="r").rows == 1
    assert _ids(warehouse) == sorted([*_IDS, "new"])


_OLD = """
INSERT INTO events (event_id, vendor, tenant_id, event_type, timestamp_ms, payload, metadata, topic, "partition",
                    "offset", load_id)
VALUES (:id, 'genesys', 'bank-north', 'conversation.queued', 1, '{}', '{}', 't', 0, 7, 0)
"""


def _before(connection: sa.Connection) -> None:
    command.upgrade(migrations(connection), "v0010")
    connection.execute(sa.text(_OLD), [{"id": id_} for id_ in _IDS])
    connection.execute(sa.text(_OLD.replace("events", "reconciled_events", 1)), [{"id": f"r{id_}"} for id_ in _IDS])


def test_events_from_before_there_were_keys_are_known(make_warehouse: Callable[..., Warehouse]) -> None:
    migrated = make_warehouse(before=_before)
    with writer(migrated) as connection:
        for table in ("events", "reconciled_events"):
            keys = connection.execute(sa.text(f"SELECT event_key FROM {table}")).scalars().all()
            assert len(keys) == len(_IDS)
            assert (None in keys) == (migrated.database is None)
    _land(migrated, *_IDS, "new", first_offset=0)
    assert load_events(migrated, run_id="r").rows == 1


@pytest.mark.parametrize("engine", ["duckdb"], indirect=True)
def test_rows_that_somebody_put_in_without_keys_stop_the_load(warehouse: Warehouse) -> None:
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text(_OLD), {"id": "by hand"})
    _land(warehouse, "by hand", first_offset=0)
    with pytest.raises(QualityError, match=r"events\.id_without_key: 1 breaches"):
        load_events(warehouse, run_id="r")
    assert _ids(warehouse) == ["by hand"]
