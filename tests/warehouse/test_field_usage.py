"""Use of metadata fields equals an independent count, on both engines, in steps or at once."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import warehouse.field_usage as field_usage
from schemas.canonical import EventType
from schemas.promoted import cast
from tests.warehouse.events import Event, at, land, numbered, queued
from warehouse import tables
from warehouse.engine import Warehouse, writer
from warehouse.field_usage import count_field_usage, count_field_usage_window
from warehouse.load_events import load_events
from warehouse.windows import Window

KEYS = [
    'quo"te',
    "do.t",
    "a/b",
    "~t",
    "$",
    "",
    "ü",
    "back\\slash",
    "new\nline",
    "{",
    "plain",
    "nul\x00",
    "it's",
    ":colon",
]
VALUES = [
    "1", "-5", "007", "9" * 18, "9" * 19, "1.5", "1e5", "-0", "1.", ".5", "NaN", "true", "false", "True", "", "text",
    "ü",     '{"a":1}', "[1,2]", "{half", "12 ", " 12", "line\nbreak", "{\n}", "nul\x00", "\\u0000", "\\", '"',
]  # fmt: skip
WINDOW = Window(at("00:00:00", day=1), at("00:00:00", day=20))


def events(seed: int, count: int = 300) -> list[Event]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        vendor = rng.choice(["genesys", "cxone"])
        metadata = {"ccaas.native_type": "test", f"{vendor}.always": str(number)}
        for key in rng.sample(KEYS, rng.randrange(len(KEYS))):
            metadata[f"{vendor}.{key}"] = rng.choice(VALUES)
        kind = rng.choice([EventType.STARTED, EventType.ENDED])
        time = at("00:00:00", day=4) + timedelta(minutes=rng.randrange(3 * 1440))
        found.append(Event(kind, time, {"conversation_id": f"c{number}"}, vendor=vendor, metadata=metadata))
    return [replace(item, offset=number) for number, item in enumerate(found)]


def kind(text: str) -> str:
    if cast(text, "long") is not None:
        return "longs"
    if cast(text, "double") is not None:
        return "doubles"
    if cast(text, "boolean") is not None:
        return "booleans"
    is_json = (text[:1], text[-1:]) in {("{", "}"), ("[", "]")} and len(text) > 1
    return "jsons" if is_json else "strings"


def expected(items: list[Event], *, without_nul: bool) -> dict[tuple[str, str, date, str], Counter[str]]:
    found: dict[tuple[str, str, date, str], Counter[str]] = {}
    for item in items:
        for key, text in item.metadata.items():
            if not key.startswith("ccaas."):
                name = key.replace("\x00", "") if without_nul else key
                value = text.replace("\x00", "") if without_nul else text
                counts = found.setdefault((item.vendor, str(item.type), item.time.date(), name), Counter())
                counts.update(["events", kind(value)])
    return found


def rows(warehouse: Warehouse, name: sa.Table) -> list[Any]:
    with writer(warehouse) as connection:
        return list(connection.execute(sa.select(name)).mappings().all())


def counted(warehouse: Warehouse) -> dict[tuple[str, str, date, str], Counter[str]]:
    return {
        (row["vendor"], row["event_type"], row["day"], row["field"]): +Counter(
            {name: row[name] for name in ("events", "longs", "doubles", "booleans", "strings", "jsons")}
        )
        for row in rows(warehouse, tables.metadata_field_usage)
    }


def days(warehouse: Warehouse) -> dict[tuple[str, str, date], tuple[int, int]]:
    return {
        (row["vendor"], row["event_type"], row["day"]): (row["events"], row["other_fields"])
        for row in rows(warehouse, tables.event_type_days)
    }


@pytest.mark.parametrize("frequent", [32, 3])
def test_the_counts_equal_an_independent_one(
    warehouse: Warehouse, engine: str, frequent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_usage, "_FREQUENT", frequent)
    items = events(1)
    land(warehouse.landing_dir, *items)
    load_events(warehouse, run_id="r")
    result = count_field_usage(warehouse, run_id="r")
    truth = expected(items, without_nul=engine == "postgresql")
    assert counted(warehouse) == truth
    assert result.rows == len(truth)
    totals = Counter((item.vendor, str(item.type), item.time.date()) for item in items)
    assert days(warehouse) == {key: (count, 0) for key, count in totals.items()}


def test_steps_late_events_and_windows_come_to_the_same(warehouse: Warehouse, engine: str) -> None:
    items = events(2)
    shuffled = random.Random(3).sample(items, len(items))
    for first in range(0, len(shuffled), 60):
        land(warehouse.landing_dir, *shuffled[first : first + 60])
        load_events(warehouse, run_id="r")
        count_field_usage(warehouse, run_id="r")
    truth = expected(items, without_nul=engine == "postgresql")
    assert counted(warehouse) == truth
    assert count_field_usage(warehouse, run_id="r").load_ids == ()
    count_field_usage_window(warehouse, WINDOW, run_id="r")
    assert counted(warehouse) == truth


def test_two_runs_at_once_count_once(warehouse: Warehouse, engine: str) -> None:
    items = events(4)
    land(warehouse.landing_dir, *items)
    load_events(warehouse, run_id="r")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(count_field_usage, warehouse, run_id=name) for name in ("a", "b")]
        assert sorted(len(run.result().load_ids) for run in runs) == [0, 1]
    assert counted(warehouse) == expected(items, without_nul=engine == "postgresql")


def test_names_that_are_ids_do_not_flood_the_table(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_usage, "MAX_FIELDS", 10)

    def event(number: int) -> Event:
        metadata = {"genesys.common": "1", f"genesys.{number:04}": "1"}
        return Event(
            EventType.STARTED, at("09:00:00"), {"conversation_id": f"c{number}"}, offset=number, metadata=metadata
        )

    land(warehouse.landing_dir, *[event(number) for number in range(50)])
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    found: dict[Any, Any] = {key[3]: counts["events"] for key, counts in counted(warehouse).items()}
    assert found == {"genesys.common": 50} | {f"genesys.{number:04}": 1 for number in range(9)}
    assert list(days(warehouse).values()) == [(50, 41)]


def test_a_name_too_long_for_an_index_does_not_stop_the_count(warehouse: Warehouse) -> None:
    rng = random.Random(6)
    name = "genesys." + "".join(chr(rng.randrange(0x100, 0x2000)) for _ in range(5_000))
    item = Event(EventType.STARTED, at("09:00:00"), {"conversation_id": "c"}, metadata={"genesys.a": "1", name: "1"})
    land(warehouse.landing_dir, item)
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    assert [key[3] for key in counted(warehouse)] == ["genesys.a"]
    assert list(days(warehouse).values()) == [(1, 1)]


def test_a_reconciled_event_that_gives_way_is_no_longer_counted_on_its_day(warehouse: Warehouse) -> None:
    """A new pair takes its neighbour's place, so an event gives way that is far from the one that came."""
    marked = {"ccaas.native_type": "t", "ccaas.recovered": "reconciled", "genesys.a": "1"}
    pushed = {"ccaas.native_type": "t", "genesys.a": "1"}
    first = replace(queued("23:59:52", "c"), metadata=marked)
    second = replace(queued("00:00:01", "c"), time=at("00:00:01", day=5), metadata=marked)
    near = replace(queued("23:59:56", "c"), metadata=pushed)
    late = replace(queued("23:59:48", "c"), metadata=pushed)
    *there, came = numbered([first, second, near, late])
    land(warehouse.landing_dir, *there)
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    assert {key[2]: counts["events"] for key, counts in counted(warehouse).items()} == {
        date(1999, 1, 4): 1,
        date(1999, 1, 5): 1,
    }
    land(warehouse.landing_dir, came)
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    assert {key[2]: counts["events"] for key, counts in counted(warehouse).items()} == {date(1999, 1, 4): 2}


def test_a_day_whose_events_are_gone_is_forgotten_by_window(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, *events(5, 20))
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")
    with writer(warehouse) as connection, connection.begin():
        connection.execute(tables.events.delete())
    count_field_usage_window(warehouse, WINDOW, run_id="r")
    assert counted(warehouse) == {}
    assert days(warehouse) == {}
