"""DuckDB's compression of events: chosen by a migration, which takes along what there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from alembic import command

from tests.warehouse.events import land, numbered, queued
from warehouse.ddl import add_column
from warehouse.engine import Warehouse, writer
from warehouse.load_events import load_events
from warehouse.schema import migrations

_OLD = """
INSERT INTO events (event_id, vendor, tenant_id, event_type, timestamp_ms, payload, metadata, topic, "partition",
                    "offset", load_id, genesys_note)
VALUES ('old', 'genesys', 'bank-north', 'conversation.queued', 1, '{}', '{"a":"b"}', 't', 0, 7, 0, 'kept')
"""


@pytest.fixture
def engine() -> str:
    return "duckdb"


def _before(connection: sa.Connection) -> None:
    command.upgrade(migrations(connection), "v0009")
    add_column(connection, "events", sa.Column("genesys_note", sa.Text))
    connection.execute(sa.text(_OLD))


def test_events_that_are_there_and_promoted_columns_are_taken_along(make_warehouse: Callable[..., Warehouse]) -> None:
    migrated = make_warehouse(before=_before)
    events = numbered([queued(f"09:{minute:02}:00", f"c{minute}") for minute in range(60)])
    land(migrated.landing_dir, *events)

    assert load_events(migrated, run_id="r").rows == 60

    with writer(migrated) as connection:
        old = connection.execute(sa.text("SELECT * FROM events WHERE event_id = 'old'")).mappings().one()
        connection.execute(sa.text("CHECKPOINT"))
        packed = connection.execute(
            sa.text(
                "SELECT column_name, compression FROM pragma_storage_info('events') "
                "WHERE segment_type = 'VARCHAR' AND column_name IN ('payload', 'metadata', 'event_id')"
            )
        ).all()
        required = connection.execute(
            sa.text(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'events' AND is_nullable = 'NO'"
            )
        )
        names = set(required.scalars())
    assert (old["metadata"], old["offset"], old["genesys_note"], old["conversation_id"]) == (
        '{"a":"b"}', 7, "kept", None
    )  # fmt: skip
    assert set(packed) == {("event_id", "Uncompressed"), ("payload", "ZSTD"), ("metadata", "ZSTD")}
    assert {"event_id", "payload", "topic", "load_id"} <= names
