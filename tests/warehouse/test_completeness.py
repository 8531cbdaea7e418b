"""Every committed record of the bus is in the warehouse, or it is known why not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from streaming.settings import QualitySettings, Settings
from tests.conftest import Platform
from tests.warehouse.bus import Bus, insert
from warehouse import tables
from warehouse.completeness import compare_with_bus, note_reached
from warehouse.engine import Warehouse, publish_read_copy, writer


@pytest.fixture
def bus(platform: Platform) -> Bus:
    return Bus(platform)


def compared(warehouse: Warehouse, bus: Bus, settings: Settings | None = None) -> dict[str, dict[str, Any]]:
    """By partition, only counts that are not 0."""
    found = compare_with_bus(warehouse, settings or bus.settings, until=bus.until)
    with writer(warehouse) as connection, connection.begin():
        note_reached(connection, found.reached)
    publish_read_copy(warehouse, force=True)
    rows = [dict(zip(found.frame.columns, row, strict=True)) for row in found.frame.rows]
    return {
        row["partition"].rpartition("[")[2].rstrip("]"): {
            key: value for key, value in row.items() if value and key != "partition"
        }
        for row in rows
    }


def test_records_are_there_or_it_is_known_why_not(warehouse: Warehouse, bus: Bus) -> None:
    (first, second) = bus.publish("a", "b")
    (committed,) = bus.publish("c", transaction=True)
    bus.publish("d", transaction=False)
    bus.publish("a", "!")  # a repeat, and what became a dead letter
    (gave_way,) = bus.publish("e")
    (other,) = bus.publish("f", partition=1)
    bus.publish("g", timestamp=bus.until + timedelta(seconds=1))
    assert committed - second == 1
    assert gave_way - committed == 6  # markers and the aborted record lie between
    insert(warehouse, tables.events, bus.row("a", first), bus.row("b", second), bus.row("c", committed))
    insert(warehouse, tables.reconciled_events, bus.row("e", gave_way))
    all_but_one = {"records": 6, "with_row": 4, "repeats": 1, "no_event": 1}
    missing = {"records": 1, "missing": 1, "first_missing_offset": str(other)}
    assert compared(warehouse, bus) == {"0": all_but_one, "1": missing}
    # What was found is not looked at again; what is missing is, until it has come.
    assert compared(warehouse, bus) == {"0": {}, "1": missing}
    insert(warehouse, tables.events, bus.row("f", other, partition=1))
    assert compared(warehouse, bus) == {"0": {}, "1": {"records": 1, "with_row": 1}}
    assert compared(warehouse, bus) == {"0": {}, "1": {}}


def test_a_run_is_bounded_and_the_next_goes_on_there(warehouse: Warehouse, bus: Bus) -> None:
    offsets = bus.publish(*"abcde")
    insert(warehouse, tables.events, *[bus.row(name, at) for name, at in zip("abcde", offsets, strict=True)])
    few = bus.settings.model_copy(update={"quality": QualitySettings(max_bus_records=2)})
    for left in (3, 1):
        assert compared(warehouse, bus, few) == {"0": {"records": 2, "with_row": 2, "not_looked_at": left}, "1": {}}
    assert compared(warehouse, bus, few) == {"0": {"records": 1, "with_row": 1}, "1": {}}
