"""Columns of promoted fields: filled for what is there and by every load, whatever the landing files have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from schemas.canonical import EventType
from schemas.promoted import MAX_TEXT, PromotedField, cast
from streaming.errors import ConfigurationError
from streaming.sink.landing import SCHEMA, LandingZone, Offsets, promoted_column
from streaming.sink.store import LocalStore
from tests.warehouse.events import Event, at, everything, land, numbered, queued
from tests.warehouse.test_field_usage import VALUES
from warehouse import tables
from warehouse.engine import Warehouse, writer
from warehouse.load_events import load_events, load_events_window
from warehouse.promoted import add_promoted, promoted
from warehouse.windows import Window

SCORE = PromotedField("genesys_score", "genesys.score", "long")
RATIO = PromotedField("genesys_ratio", "genesys.ra/t~io", "double")
FLAG = PromotedField("genesys_flag", 'genesys.fl"ag', "boolean")
NOTE = PromotedField("genesys_note", "genesys.note", "string")
FIELDS = (SCORE, RATIO, FLAG, NOTE)
DAY = Window(at("00:00:00"), at("00:00:00", day=5))


def events(*values: str, first: int = 0) -> list[Event]:
    """One event a value, which all fields have."""
    metadata = [{"ccaas.native_type": "t", **{field.key: value for field in FIELDS}} for value in values]
    return [
        Event(EventType.STARTED, at("09:00:00"), {"conversation_id": f"c{number}"}, offset=number, metadata=found)
        for number, found in enumerate(metadata, first)
    ]


def land_typed(landing_dir: Path, items: list[Event], fields: tuple[PromotedField, ...]) -> None:
    """A file with a typed column for each field, as the sink writes it."""
    rows = [item.row() for item in items]
    typed = [{field.name: cast(item.metadata[field.key], field.type) for field in fields} for item in items]
    columns: dict[str, list[object]] = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {field.name: [row[field.name] for row in typed] for field in fields}
    offsets = {"t": {0: (items[0].offset, items[-1].offset)}}
    write(landing_dir, columns, offsets, fields)


def write(
    landing_dir: Path, columns: dict[str, list[object]], offsets: Offsets, fields: Sequence[PromotedField]
) -> None:
    schema = pa.schema([*SCHEMA, *map(promoted_column, fields)])
    rows = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    LandingZone(LocalStore(landing_dir), "test").write(schema, [rows], offsets, "0")


def promote(warehouse: Warehouse, *fields: PromotedField) -> None:
    with writer(warehouse) as connection, connection.begin():
        add_promoted(connection, fields, 2)


def values(warehouse: Warehouse, *fields: PromotedField) -> list[tuple[Any, ...]]:
    """Of the promoted columns, in the order of conversations."""
    c: list[sa.ColumnClause[Any]] = [sa.column(field.name) for field in fields]
    query = sa.select(*c).select_from(sa.table("events")).order_by(sa.func.length(sa.column("conversation_id")))
    with writer(warehouse) as connection:
        return [tuple(row) for row in connection.execute(query.order_by(sa.column("conversation_id")))]


def expected(engine: str, *texts: str) -> list[tuple[Any, ...]]:
    clean = [text.replace("\x00", "") if engine == "postgresql" else text for text in texts]
    return [tuple(cast(text, field.type) for field in FIELDS) for text in clean]


def test_events_that_are_there_get_their_values(warehouse: Warehouse, engine: str) -> None:
    land(warehouse.landing_dir, *events(*VALUES))
    load_events(warehouse, run_id="r")
    before = everything(warehouse)
    promote(warehouse, *FIELDS)
    assert values(warehouse, *FIELDS) == expected(engine, *VALUES)
    names = {field.name for field in FIELDS}
    after = everything(warehouse)
    after["events"] = [{key: value for key, value in row.items() if key not in names} for row in after["events"]]
    assert after == before
    promote(warehouse, *FIELDS)
    with writer(warehouse) as connection:
        assert set(promoted(connection)) == set(FIELDS)


def test_loads_fill_the_columns_from_files_with_and_without_them(warehouse: Warehouse, engine: str) -> None:
    promote(warehouse, *FIELDS)
    half = len(VALUES) // 2
    land(warehouse.landing_dir, *events(*VALUES[:half]))
    land_typed(warehouse.landing_dir, events(*VALUES[half:], first=half), FIELDS)
    load_events(warehouse, run_id="r")
    assert values(warehouse, *FIELDS) == expected(engine, *VALUES)
    load_events_window(warehouse, DAY, run_id="r")
    assert values(warehouse, *FIELDS) == expected(engine, *VALUES)


def test_a_typed_column_fills_in_for_metadata_that_is_gone(warehouse: Warehouse) -> None:
    (item,) = events("7")
    promote(warehouse, SCORE)
    rows: dict[str, list[object]] = {name: [value] for name, value in item.row().items()}
    rows |= {"metadata": [[]], SCORE.name: [7]}
    write(warehouse.landing_dir, rows, {"t": {0: (0, 0)}}, (SCORE,))
    load_events(warehouse, run_id="r")
    assert values(warehouse, SCORE) == [(7,)]


def test_a_column_that_the_warehouse_does_not_know_yet_is_filled_once_it_does(warehouse: Warehouse) -> None:
    land_typed(warehouse.landing_dir, events("1", "two", "3"), (SCORE,))
    load_events(warehouse, run_id="r")
    promote(warehouse, SCORE)
    assert values(warehouse, SCORE) == [(1,), (None,), (3,)]


def test_a_reconciled_event_keeps_its_value_wherever_it_lies(warehouse: Warehouse) -> None:
    promote(warehouse, SCORE)
    marked = {"ccaas.native_type": "t", "ccaas.recovered": "reconciled", SCORE.key: "5"}
    alone = replace(queued("09:00:00", "c1"), metadata=marked)
    twin = replace(queued("10:00:00", "c2"), metadata=marked)
    pushed = replace(queued("10:00:01", "c2"), metadata={"ccaas.native_type": "t", SCORE.key: "6"})
    for item in numbered([alone, twin, pushed]):
        land(warehouse.landing_dir, item)
        load_events(warehouse, run_id="r")
    assert values(warehouse, SCORE) == [(5,), (6,)]
    with writer(warehouse) as connection:
        column: sa.ColumnClause[Any] = sa.column(SCORE.name)
        kept = sa.select(column).select_from(sa.table("reconciled_events"))
        assert connection.execute(kept).scalars().all() == [5, 5]


@pytest.mark.parametrize("key", ["genesys.a\x1fb", 'genesys."', "genesys.\\", "genesys.\tü", "genesys.\x0b"])
def test_a_key_that_json_escapes_is_found(warehouse: Warehouse, key: str) -> None:
    field = PromotedField("genesys_odd", key, "long")
    (item,) = events("7")
    land(warehouse.landing_dir, replace(item, metadata={"ccaas.native_type": "t", key: "5"}))
    load_events(warehouse, run_id="r")
    promote(warehouse, field)
    assert values(warehouse, field) == [(5,)]


def test_the_longest_text_is_a_value_and_a_longer_one_is_null(warehouse: Warehouse) -> None:
    texts = ["ü" * MAX_TEXT, "ü" * (MAX_TEXT + 1)]
    there, came = events(*texts), events(*texts, first=2)
    land(warehouse.landing_dir, *there)
    load_events(warehouse, run_id="r")
    promote(warehouse, NOTE)
    land(warehouse.landing_dir, *came)
    load_events(warehouse, run_id="r")
    assert [cast(text, "string") for text in texts] == [texts[0], None]
    assert values(warehouse, NOTE) == [(texts[0],), (None,)] * 2


@pytest.mark.parametrize(
    "odd", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array(["8"]), pa.array([True]), pa.array([1.6])]
)
def test_a_column_of_another_type_is_none_of_the_sinks_and_stops_no_load(warehouse: Warehouse, odd: pa.Array) -> None:
    promote(warehouse, SCORE)
    first, second = events("7", "8")
    path = land(warehouse.landing_dir, first)
    pq.write_table(pq.read_table(path).append_column(SCORE.name, odd), path)
    land_typed(warehouse.landing_dir, [second], (SCORE,))
    load_events(warehouse, run_id="r")
    assert values(warehouse, SCORE) == [(7,), (8,)]


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        (PromotedField("queue_id", "genesys.q", "string"), "does not begin with genesys_"),
        (PromotedField("queue_id", "queue.id", "string"), "events has a column of that name"),
        (PromotedField("Genesys_Q", "genesys.q", "long"), "a to z"),
        (PromotedField("g" * 64, "genesys.q", "long"), "longer than 63"),
        (SCORE._replace(type="string"), "genesys.score as long already"),
        (SCORE._replace(key="genesys.other"), "genesys.score as long already"),
    ],
)
def test_a_name_that_is_taken_or_none_changes_nothing(warehouse: Warehouse, field: PromotedField, problem: str) -> None:
    promote(warehouse, SCORE)
    with pytest.raises(ConfigurationError, match=problem):
        promote(warehouse, NOTE, field)
    with writer(warehouse) as connection:
        assert promoted(connection) == (SCORE,)
        names = {column["name"] for column in sa.inspect(connection).get_columns(tables.events.name)}
    assert names == {*tables.events.c.keys(), SCORE.name}
