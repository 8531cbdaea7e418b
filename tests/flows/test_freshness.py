"""What the freshness flow tells, without a Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger

import flows.freshness as module
from flows.alerts import EVENTS
from flows.freshness import LATE, RECOVERED, freshness
from streaming.settings import load_settings
from tests.flows.shown import Shown
from warehouse import tables
from warehouse.engine import Warehouse, publish_read_copy, writer
from warehouse.schema import migrate

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    made = Shown()
    monkeypatch.setattr(module, "show_table", made.table)
    monkeypatch.setattr(module, "emit_event", made.event)
    monkeypatch.setattr(module, "scheduled_time", lambda: NOON)
    monkeypatch.setattr(module, "run_id", lambda: "run")
    with disable_run_logger():
        yield made


def test_a_tenant_is_one_message_and_many_tenants_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: Shown
) -> None:
    names = [f"t{number:02}" for number in range(12)]
    config = tmp_path / "ccaas.toml"
    config.write_text("".join(f'[[tenants]]\nvendor = "cxone"\ntenant_id = "{name}"\n' for name in names))
    monkeypatch.setenv("CCAAS_CONFIG", str(config))
    warehouse = Warehouse.from_settings(load_settings())
    migrate(warehouse)
    starts = [
        NOON - timedelta(hours=2),
        NOON - timedelta(days=1, hours=2),
        NOON - timedelta(days=1, hours=1, minutes=30),
    ]
    cells(warehouse, *[(name, start) for name in names for start in starts])

    assert freshness.fn() == 12
    (event,) = shown.events
    assert (event["event"], event["resource"]["prefect.resource.name"]) == (LATE, "12 tenants")
    assert event["resource"]["ccaas.alert.key"] == f"{LATE}/warehouse"
    assert "ended 2026-11-26 10:15Z" in event["payload"]["summary"]
    assert {(row["tenant"], row["is now"]) for row in shown.tables["freshness"]} == {(name, "late") for name in names}

    cells(warehouse, ("t03", NOON - timedelta(minutes=30)))
    monkeypatch.setattr(module, "scheduled_time", lambda: NOON + timedelta(minutes=15))
    assert freshness.fn() == 1
    assert freshness.fn() == 0
    _, event = shown.events
    assert (event["event"], event["resource"]["prefect.resource.id"]) == (RECOVERED, "ccaas.tenant.cxone.t03")
    assert event["resource"]["ccaas.alert.key"] == f"{RECOVERED}/tenant.cxone.t03"
    assert "ccaas.freshness.*" in EVENTS


def cells(warehouse: Warehouse, *places: tuple[str, datetime]) -> None:
    numbers = {column.name: 0 for column in tables.queue_intervals.c if column.info.get("unit") in {"1", "ms"}}
    common = numbers | {"vendor": "cxone", "queue_id": "X", "media_type": "VOICE", "interval_minutes": 15}
    rows = [common | {"tenant_id": name, "interval_start": start} for name, start in places]
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.insert(tables.queue_intervals).values(rows))
    publish_read_copy(warehouse, force=True)
