from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from schemas.canonical import EventType
from streaming.sink.landing import SCHEMA
from tests.warehouse.events import at, event, everything, land, numbered, queued, table
from warehouse.engine import Warehouse, writer
from warehouse.errors import QualityError, StagingError, WarehouseBusyError
from warehouse.ledger import LoadResult
from warehouse.load_events import load_events, load_events_window
from warehouse.windows import Window


def _ledger(warehouse: Warehouse) -> list[tuple[str, str, int]]:
    return [(row["dataset"], row["status"], row["rows"]) for row in table(warehouse, "load_runs")]


def test_an_event_keeps_all_it_had(warehouse: Warehouse) -> None:
    sent = event(
        EventType.ASSIGNED, "09:00:05", "c1", queue="PS", agent="ANNA", media="VOICE", wait_ms=5000, outcome="ANSWERED"
    )
    land(warehouse.landing_dir, replace(sent, offset=7))

    assert load_events(warehouse, run_id="r").rows == 1

    (row,) = table(warehouse, "events")
    assert row["event_id"] == sent.event_id
    assert row["timestamp"] == at("09:00:05")
    assert (row["conversation_id"], row["queue_id"], row["agent_id"]) == ("c1", "PS", "ANNA")
    assert (row["wait_ms"], row["talk_ms"], row["media_type"]) == (5000, None, "VOICE")
    assert row["payload"] == (
        '{"queue_id":"PS","agent_id":"ANNA","media_type":"VOICE","wait_ms":"5000","outcome":"ANSWERED",'
        '"conversation_id":"c1"}'
    )
    assert row["metadata"] == '{"ccaas.native_type":"test","genesys.note":"quote \\" and, comma"}'


def test_loading_again_changes_nothing_not_even_the_ledger(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    load_events(warehouse, run_id="first")
    before = everything(warehouse), table(warehouse, "load_runs"), table(warehouse, "landed_files")

    again = load_events(warehouse, run_id="second")

    assert again == LoadResult(dataset="events", rows=0)
    assert (everything(warehouse), table(warehouse, "load_runs"), table(warehouse, "landed_files")) == before


def test_repeats_within_and_between_files_are_dropped(warehouse: Warehouse) -> None:
    one, two = numbered([queued("09:00:00", "c1"), queued("09:00:01", "c2")])
    land(warehouse.landing_dir, one, two, replace(one, offset=2))
    assert load_events(warehouse, run_id="r").repeats == 1
    land(warehouse.landing_dir, replace(two, offset=3), replace(queued("09:00:02", "c3"), offset=4))

    result = load_events(warehouse, run_id="r")

    assert (result.rows, result.repeats) == (1, 1)
    assert sorted(row["conversation_id"] for row in table(warehouse, "events")) == ["c1", "c2", "c3"]


def test_of_two_rows_with_one_id_the_lowest_offset_stays(warehouse: Warehouse) -> None:
    late = replace(queued("09:00:01", "c1"), id="same", offset=9)
    early = replace(queued("09:00:00", "c1"), id="same", offset=3)
    land(warehouse.landing_dir, late)
    land(warehouse.landing_dir, early)

    load_events(warehouse, run_id="r")

    assert [row["timestamp"] for row in table(warehouse, "events")] == [at("09:00:00")]


def test_files_are_taken_in_bounded_batches(warehouse: Warehouse) -> None:
    for number in range(5):
        land(warehouse.landing_dir, queued(f"09:00:0{number}", f"c{number}"), queued(f"09:01:0{number}", f"c{number}"))

    result = load_events(warehouse, run_id="r", batch_rows=4)

    assert (result.rows, result.files, len(result.load_ids)) == (10, 5, 3)
    assert _ledger(warehouse) == [("events", "succeeded", 4), ("events", "succeeded", 4), ("events", "succeeded", 2)]


def test_temporary_files_are_ignored(warehouse: Warehouse) -> None:
    path = land(warehouse.landing_dir, queued("09:00:00", "c1"))
    path.rename(path.with_name(f".tmp-{path.name}"))
    assert load_events(warehouse, run_id="r").files == 0


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _spoil_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for number in range(metadata.num_columns):
        column = metadata.row_group(0).column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_columns(path: Path) -> None:
    pq.write_table(pa.table({"event_id": ["x"]}), path)


def _nulls(path: Path) -> None:
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(4, rows.schema.field("event_id"), pa.nulls(1, pa.string())), path)


def _no_partition(path: Path) -> None:
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(1, rows.schema.field("_partition"), pa.nulls(1, pa.int32())), path)


@pytest.mark.parametrize("spoil", [_cut, _spoil_a_page, _empty, _other_columns, _nulls, _no_partition])
def test_a_broken_file_is_named_and_set_aside_and_the_rest_loads(
    warehouse: Warehouse, spoil: Callable[[Path], None]
) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    bad = land(warehouse.landing_dir, queued("09:00:01", "c2"))
    spoil(bad)
    land(warehouse.landing_dir, queued("09:00:02", "c3"))

    result = load_events(warehouse, run_id="r")

    assert (result.rows, result.files) == (2, 2)
    moved = warehouse.landing_dir / result.quarantined[0]
    assert moved.is_file()
    assert moved.name == bad.name
    assert moved.with_name(moved.name + ".reason.txt").read_text().strip()
    assert not bad.exists()
    rows = {row["name"]: row for row in table(warehouse, "landed_files")}
    assert rows[bad.relative_to(warehouse.landing_dir).as_posix()]["status"] == "quarantined"
    assert load_events(warehouse, run_id="r").quarantined == ()


def test_a_page_that_shows_to_be_broken_only_when_rows_are_inserted(warehouse: Warehouse) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    bad = land(warehouse.landing_dir, queued("09:00:01", "c2"))
    values = pq.read_metadata(bad).row_group(0).column(SCHEMA.names.index("payload") + 1)
    assert values.path_in_schema == "payload.key_value.value"
    content = bytearray(bad.read_bytes())
    content[values.data_page_offset : values.data_page_offset + values.total_compressed_size] = bytes(
        values.total_compressed_size
    )
    bad.write_bytes(content)

    result = load_events(warehouse, run_id="r")

    assert (result.rows, result.files, len(result.quarantined)) == (1, 1, 1)
    assert [row["conversation_id"] for row in table(warehouse, "events")] == ["c1"]
    assert _ledger(warehouse) == [("events", "succeeded", 1)]


def test_a_failure_to_stage_shows_no_event(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_partition(land(warehouse.landing_dir, queued("09:00:00", "c1", ani="+49301234567")))
    monkeypatch.setattr("warehouse.landing.read_through", lambda *_: None)  # as if the check had missed it

    with pytest.raises(StagingError, match=r"1 landing files could not be staged: .*partition") as caught:
        load_events(warehouse, run_id="r")

    shown = "".join(traceback.format_exception(caught.value))
    assert "+49301234567" not in shown
    assert "INSERT" not in str(caught.value)


def test_a_file_that_was_mended_and_put_back_loads(warehouse: Warehouse) -> None:
    bad = land(warehouse.landing_dir, queued("09:00:01", "c2"))
    good = bad.read_bytes()
    _cut(bad)
    load_events(warehouse, run_id="r")
    bad.write_bytes(good)

    assert load_events(warehouse, run_id="r").rows == 1
    assert [row["status"] for row in table(warehouse, "landed_files")] == ["loaded"]


def test_values_that_are_no_measurements_do_not_stop_a_load(warehouse: Warehouse) -> None:
    land(
        warehouse.landing_dir,
        queued("09:00:00", "c1", wait_ms="soon", talk_ms="1e3", hold_ms="-5", acw_ms="9" * 30, ani="nul\x00l"),
        replace(queued("09:00:00", "c2"), time=datetime(1969, 12, 31, tzinfo=UTC)),
    )

    assert load_events(warehouse, run_id="r").rows == 2

    rows = {row["conversation_id"]: row for row in table(warehouse, "events")}
    assert [rows["c1"][name] for name in ("wait_ms", "talk_ms", "hold_ms", "acw_ms")] == [None, None, -5, None]
    assert rows["c2"]["timestamp"] is None
    assert rows["c2"]["timestamp_ms"] == -86_400_000


def test_two_loads_at_once_load_once(warehouse: Warehouse) -> None:
    for number in range(20):
        land(warehouse.landing_dir, queued("09:00:00", f"c{number}"))
    results: list[LoadResult] = []

    def load() -> None:
        results.append(load_events(warehouse, run_id="r"))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(result.rows for result in results) == [0, 0, 20]
    assert len(table(warehouse, "events")) == 20


def test_a_lock_that_does_not_come_free_is_an_error(warehouse: Warehouse) -> None:
    with writer(warehouse), pytest.raises(WarehouseBusyError, match="another load"):
        load_events(replace(warehouse, lock_seconds=0.3), run_id="r")


def test_a_broken_rule_keeps_the_previous_data(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    rules = {"events.never": sa.text("SELECT 1")}
    monkeypatch.setattr("warehouse.quality.statements", lambda _: rules)

    with pytest.raises(QualityError, match=r"events\.never: 1 breaches"):
        load_events(warehouse, run_id="r")

    assert table(warehouse, "events") == []
    assert table(warehouse, "landed_files") == []
    assert _ledger(warehouse) == [("events", "failed", 0)]
    monkeypatch.undo()
    assert load_events(warehouse, run_id="r").rows == 1


def test_a_window_is_restored_from_the_landing_zone(warehouse: Warehouse) -> None:
    events = [queued(f"{hour:02}:30:00", f"c{hour}") for hour in range(6)]
    for item in events:
        land(warehouse.landing_dir, item, replace(item, offset=1))
    load_events(warehouse, run_id="r")
    before = table(warehouse, "events")
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("DELETE FROM events WHERE conversation_id IN ('c2', 'c3', 'c5')"))

    result = load_events_window(warehouse, Window(at("02:00:00"), at("04:00:00")), run_id="r", batch_rows=4)

    assert result.rows == 2
    assert [row["conversation_id"] for row in sorted(table(warehouse, "events"), key=lambda row: row["timestamp"])] == [
        "c0", "c1", "c2", "c3", "c4"
    ]  # fmt: skip
    load_events_window(warehouse, Window(at("00:00:00"), at("06:00:00")), run_id="r", batch_rows=4)
    assert table(warehouse, "events") == before


def test_a_window_keeps_what_the_landing_zone_no_longer_has(warehouse: Warehouse) -> None:
    path = land(warehouse.landing_dir, queued("09:00:00", "c1"))
    load_events(warehouse, run_id="r")
    path.unlink()

    assert load_events_window(warehouse, Window(at("09:00:00"), at("10:00:00")), run_id="r").rows == 0
    assert len(table(warehouse, "events")) == 1
