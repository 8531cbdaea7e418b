"""The deferred lane as its processor sees it, beside a receiver that goes on writing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from streaming.errors import ServiceUnavailableError
from streaming.settings import SpoolSettings
from streaming.spool.deferred import DeferredReader, DeferredRow
from streaming.spool.lanes import SpoolFullError
from streaming.spool.schema import open_file
from streaming.spool.writer import Deferral, SpoolWriter

WHY = Deferral("bad signature", '{"x-cxone-signature":"a..b"}')


def settings(**bounds: int) -> SpoolSettings:
    return SpoolSettings(min_free_disk_bytes=0, **bounds)


def claimed(path: Path) -> DeferredReader:
    reader = DeferredReader.claim(path)
    assert reader is not None
    return reader


def read_all(reader: DeferredReader, key: int) -> list[DeferredRow]:
    return reader.read(key, 0, rows=1_000, max_bytes=1 << 20)


async def test_rows_come_in_order_of_arrival_and_by_tenant_within_bounds(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    await asyncio.gather(*(writer.append(f"t{n % 2}", b"%d" % n, n, WHY) for n in range(20)))
    await writer.append("t0", b"an ordinary one", 99)
    reader = claimed(writer.path)
    assert [(name, rows) for _, name, rows in reader.waiting()] == [("t0", 10), ("t1", 10)]
    key = next(key for key, name, _ in reader.waiting() if name == "t1")
    rows = read_all(reader, key)
    assert [(row.received_us, row.body) for row in rows] == [(n, b"%d" % n) for n in range(1, 20, 2)]
    assert {(row.signature, row.reason) for row in rows} == {(WHY.signature, WHY.reason)}
    assert reader.read(key, rows[2].seq, rows=3, max_bytes=1 << 20) == rows[3:6]
    assert reader.read(key, 0, rows=10, max_bytes=2 * rows[0].size) == rows[:2]
    assert reader.read(key, rows[-1].seq, rows=10, max_bytes=2) == []
    reader.close()
    writer.close()


async def test_released_rows_are_gone_and_their_room_is_free_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings(max_deferred_rows_per_tenant=4))
    await asyncio.gather(*(writer.append("t", b"xx", n, WHY) for n in range(4)))
    with pytest.raises(SpoolFullError):
        writer.append("t", b"xx", 5, WHY)
    reader = claimed(writer.path)
    ((key, _, _),) = reader.waiting()
    rows = read_all(reader, key)
    reader.release([rows[0], rows[2]])
    reader.release([rows[0]])  # as after a crash between Kafka and this: counted once
    reader.release([])
    assert reader.waiting() == [(key, "t", 2)]
    assert [row.seq for row in read_all(reader, key)] == [rows[1].seq, rows[3].seq]
    database = open_file(writer.path, durable=False)
    assert database.execute("SELECT released_rows, released_bytes FROM tenant").fetchone() == (2, 2 * WHY.size(b"xx"))
    database.close()
    async with asyncio.timeout(10):
        while True:
            try:
                await writer.append("t", b"yy", 6, WHY)
                break
            except SpoolFullError:
                await asyncio.sleep(0.05)
    assert read_all(reader, key)[-1].seq > rows[3].seq
    reader.close()
    writer.close()


async def test_signature_and_reason_take_room_too_and_give_it_back(tmp_path: Path) -> None:
    long = Deferral("why, wégen", '{"x-cxone-signature":"' + "ü" * 500 + '"}')
    room = 2 * long.size(b"xx")
    writer = SpoolWriter(tmp_path, settings(max_deferred_bytes_per_tenant=room))
    for number in range(2):
        await writer.append("t", b"xx", number, long)
    with pytest.raises(SpoolFullError, match="deferred"):
        writer.append("t", b"", 3, WHY)
    writer.close()
    writer = SpoolWriter(tmp_path, settings(max_deferred_bytes_per_tenant=room))
    assert writer.lanes["deferred"].usage.bytes == room, "the file has counted the same"
    reader = claimed(writer.path)
    ((key, _, _),) = reader.waiting()
    reader.release(read_all(reader, key))
    async with asyncio.timeout(10):
        while writer.lanes["deferred"].usage.bytes:
            await asyncio.sleep(0.02)
    reader.close()
    writer.close()


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    reader = claimed(writer.path)
    assert DeferredReader.claim(writer.path) is None
    reader.close()
    claimed(writer.path).close()
    writer.close()


async def test_a_file_that_is_locked_for_long_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, settings())
    await writer.append("t", b"x", 1, WHY)
    writer.close()
    monkeypatch.setattr("streaming.spool.schema._BUSY_TIMEOUT_S", 0.1)
    reader = claimed(writer.path)
    ((key, _, _),) = reader.waiting()
    rows = read_all(reader, key)
    other = sqlite3.connect(writer.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceUnavailableError, match="receiver-000"):
        reader.release(rows)
    other.execute("ROLLBACK")
    other.close()
    assert read_all(reader, key) == rows
    reader.release(rows)
    assert reader.waiting() == []
    reader.close()


def test_a_file_that_is_none_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "receiver-000.db"
    path.write_bytes(b"no database at all" * 100)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError):
            DeferredReader.claim(path)
