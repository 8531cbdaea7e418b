"""The spool: what was promised is on disk, in order, within its bounds."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

from streaming.settings import SpoolSettings
from streaming.spool.reader import Drained, SpoolReader
from streaming.spool.writer import Deferral, SpoolFullError, SpoolWriter


def settings(**bounds: int) -> SpoolSettings:
    return SpoolSettings(min_free_disk_bytes=0, **bounds)  # type: ignore[arg-type]


async def test_each_tenants_line_keeps_its_order(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    waiting = [writer.append(f"t{number % 3}", b"%d" % number, number) for number in range(300)]
    await asyncio.gather(*waiting)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    for key, name in reader.waiting():
        bodies = [int(row.body) for row in reader.read(key, 0, rows=1000, max_bytes=1 << 20)]
        assert bodies == list(range(int(name[1:]), 300, 3))
    reader.close()
    writer.close()


async def test_numbers_go_on_after_a_restart_and_deletions(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    await asyncio.gather(*(writer.append("t", b"x", 0) for _ in range(5)))
    await writer.append("t", b"aside", 0, Deferral("why", "{}"))
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    ((key, _),) = reader.waiting()
    reader.delete([Drained(key, 5, 5, 5)])
    assert reader.waiting() == []
    writer.close()
    again = SpoolWriter(tmp_path, settings())
    await again.append("t", b"y", 0)
    assert [row.seq for row in reader.read(key, 0, rows=10, max_bytes=100)] == [7]
    reader.close()
    again.close()


async def test_bounds_count_live_bytes_by_tenant_and_in_all(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings(max_bytes_per_tenant=100, max_bytes=150))
    await writer.append("a", b"x" * 90, 0)
    with pytest.raises(SpoolFullError, match="tenant a"):
        writer.append("a", b"x" * 20, 0)
    await writer.append("b", b"x" * 50, 0)
    with pytest.raises(SpoolFullError, match="150 bytes"):
        writer.append("c", b"x" * 20, 0)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    key = next(key for key, name in reader.waiting() if name == "a")
    reader.delete([Drained(key, 1, 1, 90)])
    async with asyncio.timeout(5):
        while True:
            try:
                await writer.append("a", b"x" * 80, 0)
                break
            except SpoolFullError:
                await asyncio.sleep(0.05)
    reader.close()
    writer.close()


async def test_a_failed_commit_is_said_and_a_new_tenant_is_not_half_known(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    # What a full disk does to SQLite: the file may not grow.
    (pages,) = writer._database.execute("PRAGMA page_count").fetchone()
    writer._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(SpoolFullError, match="can't store"):
        await writer.append("new", b"x" * 100_000, 0)
    writer._database.execute("PRAGMA max_page_count=1000000")
    await writer.append("new", b"y", 0)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    ((key, name),) = reader.waiting()
    assert name == "new"
    assert [row.body for row in reader.read(key, 0, rows=10, max_bytes=100)] == [b"y"]
    assert writer.can_store
    reader.close()
    writer.close()


async def test_nothing_is_acknowledged_that_is_not_stored(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places as often as they can
    acknowledged = 0

    async def send(sender: int) -> None:
        nonlocal acknowledged
        for number in range(400):
            await writer.append(f"t{sender % 5}", b"x", number)
            acknowledged += 1

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(send(sender) for sender in range(64)))
    finally:
        sys.setswitchinterval(interval)
    (stored,) = writer._database.execute("SELECT count(*) FROM event").fetchone()
    assert stored == acknowledged == 64 * 400
    writer.close()


async def test_a_disk_that_can_not_be_asked_is_full_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, settings())

    def broken(_path: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("streaming.spool.writer.shutil.disk_usage", broken)
        async with asyncio.timeout(5):
            while writer.can_store:
                await asyncio.sleep(0.05)
        assert writer.is_alive
    async with asyncio.timeout(5):
        while not writer.can_store:
            await asyncio.sleep(0.05)
    await writer.append("t", b"x", 0)
    writer.close()


def test_a_spool_has_one_writer_and_one_drain(tmp_path: Path) -> None:
    first, second = SpoolWriter(tmp_path, settings()), SpoolWriter(tmp_path, settings())
    assert first.path != second.path
    reader = SpoolReader.claim(first.path)
    assert reader is not None
    first.close()
    third = SpoolWriter(tmp_path, settings())
    assert third.path == first.path, "an orphaned spool is written on"
    reader.close()
    second.close()
    third.close()


async def test_what_was_answered_is_in_the_file_at_once(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    await writer.append("t", b"body", 1)
    other = sqlite3.connect(writer.path)
    assert other.execute("SELECT body FROM event").fetchall() == [(b"body",)]
    assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert writer._database.execute("PRAGMA synchronous").fetchone() == (2,)
    other.close()
    writer.close()
