"""What docs/interop.md tells other engines to do, done, against what the loads read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from schemas.promoted import PromotedField
from streaming.sink.compaction import Limits, compact
from streaming.sink.store import LocalStore
from tests.streaming.sink.files import MONDAY_MS, Row, land, row, table_of
from warehouse.landing import list_files

DOCUMENT = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
FILES, DUCKDB, POLARS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
(SQL,) = re.findall(r"^```sql\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
TIER = PromotedField("genesys_tier", "genesys.tier", "string")
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()


def assigned(offset: int, queue: str, **more: Any) -> Row:
    payload = [("conversation_id", f"c{offset}"), ("queue_id", queue), ("wait_ms", "250")]
    return row(offset, event_type="conversation.assigned", payload=payload, **more)


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Compacted twice, with what that replaced and a killed compaction's file still there, raw files, and repeats."""
    folder = tmp_path_factory.mktemp("zone")
    store = LocalStore(folder / "landing")
    first = [assigned(n, "PS") for n in range(10)] + [row(n) for n in range(10, 20)]
    later = [assigned(n, "NE", at=MONDAY_MS + 86_400_000, tenant="south") for n in range(12)]
    for rows in (first, later, first[:5]):  # the last as of a sink that was killed before it committed
        land(store, rows)
    limits = Limits(min_rows=8)
    list(compact(store, 1, TOMORROW, limits=limits, scratch=folder / "s", is_ours=lambda: True))
    for rows in ([assigned(30, "NW")], [assigned(31, "NW")]):
        land(store, rows)
    list(compact(store, 2, TOMORROW, limits=limits, scratch=folder / "s", is_ours=lambda: True))
    killed = compact(store, 3, TOMORROW, limits=limits, scratch=folder / "s", is_ours=lambda: False)
    for rows in ([assigned(40, "NE")], [assigned(40, "NE"), assigned(41, "NE", genesys_tier="gold")]):
        land(store, rows, promoted=[TIER])
    with pytest.raises(Exception, match="another process compacts"):
        list(killed)
    # Published twice, and of another time then: the first place counts.
    land(store, [assigned(90, "PS", partition=1) | {"event_id": "north-0-3"}])
    return store


def expected(store: LocalStore) -> dict[str, tuple[Any, ...]]:
    """What the loads read, one row an id, by pyarrow alone."""
    found: dict[str, tuple[Any, ...]] = {}
    rows = [item for name in list_files(store, set()) for item in table_of(store, name).to_pylist()]
    for item in sorted(rows, key=lambda item: (item["_topic"], item["_partition"], item["_offset"])):
        values = (item["_partition"], item["_offset"], item["timestamp"], dict(item["payload"])["conversation_id"])
        found.setdefault(item["event_id"], values)
    assert len(rows) > len(found)
    return found


ANSWERED = [("north", "NE", 2), ("north", "NW", 2), ("north", "PS", 10), ("south", "NE", 12)]


def run(zone: LocalStore, snippet: str) -> dict[str, Any]:
    """The names that a snippet leaves."""
    names: dict[str, Any] = {"landing": str(zone.folder)}
    exec(compile(FILES + snippet, "docs/interop.md", "exec"), names)
    return names


def test_the_files_are_those_that_the_loads_read(zone: LocalStore, tmp_path: Path) -> None:
    files = run(zone, "")["landing_files"](str(zone.folder))
    assert sorted(files) == sorted(str(zone.folder / name) for name in list_files(zone, set()))
    everything = list(zone.folder.rglob("*.parquet"))
    assert len(files) < len(everything), "replaced files and those of a killed compaction are still there"
    store = LocalStore(tmp_path)  # before the first compaction
    assert run(store, "")["landing_files"](str(tmp_path)) == []
    name = land(store, [assigned(1, "PS")])
    assert run(store, "")["landing_files"](str(tmp_path)) == [str(tmp_path / name)]


def test_duckdb_from_python(zone: LocalStore) -> None:
    names = run(zone, DUCKDB)
    query = "SELECT event_id, _partition, _offset, timestamp, payload['conversation_id'], genesys_tier FROM events"
    found = names["events"].query("events", query).fetchall()
    assert {item[0]: item[1:5] for item in found} == expected(zone)
    assert [item[5] for item in found if item[5]] == ["gold"]
    assert names["answered"].fetchall() == ANSWERED


def test_duckdb_alone(zone: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(zone.folder)
    with duckdb.connect() as database:
        database.execute(SQL)
        query = "SELECT event_id, _partition, _offset, timestamp, payload['conversation_id'] FROM events"
        assert {item[0]: item[1:] for item in database.execute(query).fetchall()} == expected(zone)
        assert database.execute("SELECT count(genesys_tier) FROM events").fetchall() == [(1,)]


def test_polars(zone: LocalStore) -> None:
    names = run(zone, POLARS)
    columns = ["event_id", "_partition", "_offset", "timestamp"]
    found = names["events"].select(*columns, pl.col("payload").map.get("conversation_id")).collect()
    assert {item[0]: item[1:] for item in found.iter_rows()} == expected(zone)
    assert names["answered"].collect().rows() == ANSWERED
    types = names["scan"].collect_schema()
    assert types["payload"] == pl.Map(pl.String, pl.String)
