"""The spool: what was promised is on disk, in order, within its bounds."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from streaming.errors import ConfigurationError
from streaming.settings import SpoolSettings
from streaming.spool.batch import MAX_BYTES, MAX_REQUESTS, SpooledEvent
from streaming.spool.lanes import SpoolFullError
from streaming.spool.reader import Drained, SpoolReader
from streaming.spool.schema import lock_of, open_file, spool_files
from streaming.spool.writer import Deferral, SpoolWriter


def settings(**bounds: int) -> SpoolSettings:
    return SpoolSettings(min_free_disk_bytes=0, **bounds)  # type: ignore[arg-type]


def read(reader: SpoolReader, key: int, after: int = 0) -> list[SpooledEvent]:
    return [event for row in reader.read(key, after, requests=10_000, max_bytes=1 << 24) for event in row.events]


async def test_each_tenants_line_keeps_its_order(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    waiting = [writer.append(f"t{number % 3}", b"%d" % number, number) for number in range(300)]
    await asyncio.gather(*waiting)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    for key, name in reader.waiting():
        bodies = [int(event.body) for event in read(reader, key)]
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
    reader.delete([Drained(key, 1, 5, 5)])
    assert reader.waiting() == []
    writer.close()
    again = SpoolWriter(tmp_path, settings())
    await again.append("t", b"y", 0)
    assert [row.seq for row in reader.read(key, 0, requests=10, max_bytes=100)] == [2]
    assert again._database.execute("SELECT seq FROM deferred").fetchall() == [(1,)]
    reader.close()
    again.close()


async def test_bounds_count_live_bytes_by_tenant_and_in_all(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings(max_bytes_per_tenant=100, max_bytes=150))
    await writer.append("a", b"x" * 90, 0)
    with pytest.raises(SpoolFullError, match="tenant a"):
        writer.append("a", b"x" * 20, 0)
    await writer.append("b", b"x" * 50, 0)
    with pytest.raises(SpoolFullError, match="fill 150 bytes"):
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
    assert [event.body for event in read(reader, key)] == [b"y"]
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
    (stored,) = writer._database.execute("SELECT sum(requests) FROM event").fetchone()
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
    assert other.execute("SELECT bodies FROM event").fetchall() == [(b"body",)]
    assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert writer._database.execute("PRAGMA synchronous").fetchone() == (2,)
    other.close()
    writer.close()


async def test_a_row_holds_a_bounded_batch_and_each_request_keeps_its_time(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())
    bodies = [b"%d" % number for number in range(1200)] + [b"x" * (3 << 20)] * 3
    waiting = [writer.append("t", body, number) for number, body in enumerate(bodies)]
    await asyncio.gather(*waiting)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    ((key, _),) = reader.waiting()
    rows = reader.read(key, 0, requests=10_000, max_bytes=1 << 30)
    assert all(len(row.events) <= MAX_REQUESTS and row.bytes <= MAX_BYTES for row in rows)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert [tuple(event) for row in rows for event in row.events] == list(enumerate(bodies))
    reader.delete([Drained(key, row.seq, len(row.events), row.bytes) for row in rows[:2]])
    assert read(reader, key)[0] == SpooledEvent(len(rows[0].events) + len(rows[1].events), b"%d" % 1024)
    reader.close()
    writer.close()


async def test_one_who_no_longer_waits_harms_no_other_of_the_same_commit(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings())

    async def send() -> None:
        await writer.append("t", b"x", 0)

    tasks = [asyncio.create_task(send()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] is None
    assert results[2] is None
    writer.close()


async def test_room_that_a_failed_commit_had_taken_is_given_back(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings(max_rows_per_tenant=2, max_deferred_rows_per_tenant=1))
    await writer.append("t", b"x", 0)
    (pages,) = writer._database.execute("PRAGMA page_count").fetchone()
    writer._database.execute(f"PRAGMA max_page_count={pages}")
    for deferral in (None, Deferral("why", "{}")) * 2:
        with pytest.raises(SpoolFullError, match="can't store"):
            await writer.append("t", b"x" * 100_000, 0, deferral)
    assert not writer.can_store
    writer._database.execute("PRAGMA max_page_count=1000000")
    await writer.append("t", b"y", 0)
    await writer.append("t", b"z", 0, Deferral("why", "{}"))
    assert writer.can_store
    for deferral in (None, Deferral("why", "{}")):
        with pytest.raises(SpoolFullError, match="tenant t"):
            writer.append("t", b"one too many", 0, deferral)
    writer.close()


async def test_released_rows_make_room_in_the_deferred_lane(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, settings(max_deferred_rows_per_tenant=2))
    for _ in range(2):
        await writer.append("t", b"x", 0, Deferral("why", "{}"))
    with pytest.raises(SpoolFullError, match="deferred"):
        writer.append("t", b"x", 0, Deferral("why", "{}"))
    other = open_file(writer.path, durable=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM deferred WHERE seq = 1")
    other.execute("UPDATE tenant SET released_rows = released_rows + 1, released_bytes = released_bytes + 1")
    other.execute("COMMIT")
    other.close()
    async with asyncio.timeout(5):
        while True:
            try:
                await writer.append("t", b"x", 0, Deferral("why", "{}"))
                break
            except SpoolFullError:
                await asyncio.sleep(0.05)
    assert writer._database.execute("SELECT seq FROM deferred ORDER BY seq").fetchall() == [(2,), (3,)]
    writer.close()


def old_layout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE event (tenant INTEGER, seq INTEGER, received_us INTEGER, body BLOB)")


def rubbish(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)


def torn(path: Path) -> None:
    """The first page is whole, those of the tables are not."""
    open_file(path, durable=True).close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


def test_a_file_of_another_layout_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "receiver-000.db"
    old_layout(path)
    with pytest.raises(ConfigurationError, match=r"receiver-000\.db: .*layout 0.*reconcile"):
        SpoolReader.claim(path)
    assert lock_of(path, "drain") is not None, "it keeps no lock"


@pytest.mark.parametrize("damage", [old_layout, rubbish, torn])
async def test_a_receiver_passes_over_a_file_that_it_can_not_use(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    first = tmp_path / "receiver-000.db"
    damage(first)
    with structlog.testing.capture_logs() as logs:
        writer = SpoolWriter(tmp_path, settings())
    await writer.append("t", b"x", 0)
    writer.close()
    assert writer.path.name == "receiver-001.db"
    ((file, remedy),) = [(line["file"], line["remedy"]) for line in logs if line["log_level"] == "error"]
    assert file == str(first)
    assert "reconcile" in remedy
    assert lock_of(first, "write") is not None, "its lock is free again"


def test_a_folder_where_no_file_can_be_made_is_an_error_and_not_an_endless_search(tmp_path: Path) -> None:
    with beyond(0), pytest.raises(sqlite3.OperationalError):
        SpoolWriter(tmp_path, settings())
    assert len(spool_files(tmp_path)) <= 1
    SpoolWriter(tmp_path, settings()).close()


async def filled(tmp_path: Path, rows: int = 40, **bounds: int) -> SpoolWriter:
    writer = SpoolWriter(tmp_path, SpoolSettings(**({"min_free_disk_bytes": 0} | bounds)))
    for number in range(rows):
        await writer.append("t", b"x" * 200_000, number)
    return writer


async def test_what_is_drained_is_given_back_to_the_file_system_wholly(tmp_path: Path) -> None:
    writer = await filled(tmp_path)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    ((key, _),) = reader.waiting()
    while not reader.tidy():
        pass
    assert writer.path.stat().st_size > 40 * 200_000
    assert reader.delete([Drained(key, 40, 40, 40 * 200_000)], wait=True)
    turns = 0
    while not reader.tidy():
        turns += 1
        assert turns < 100
    assert turns > 3, "a little at a time: it holds the write lock"
    assert writer.path.stat().st_size + writer.path.with_name("receiver-000.db-wal").stat().st_size < 5 << 20
    reader.close()
    writer.close()


async def test_pages_that_are_free_within_the_file_count_as_free_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(folder: Path) -> Disk:
        """A disk of 6 MB that holds nothing but the spool's file."""
        return Disk(6_000_000 - (folder / "receiver-000.db").stat().st_size)

    monkeypatch.setattr("streaming.spool.writer.shutil.disk_usage", free)
    writer = await filled(tmp_path, 20, min_free_disk_bytes=3_000_000)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    reader._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    await becomes(writer, able=False)
    ((key, _),) = reader.waiting()
    assert reader.delete([Drained(key, 20, 20, 20 * 200_000)], wait=True)
    assert writer.path.stat().st_size > 4_000_000, "nothing is given back yet"
    await becomes(writer, able=True)
    await writer.append("t", b"x", 0)
    reader.close()
    writer.close()


@pytest.mark.parametrize("work", ["delete", "tidy"])
async def test_a_full_disk_fails_the_drain_s_transactions_and_leaves_none_open(tmp_path: Path, work: str) -> None:
    writer = await filled(tmp_path, 5)
    reader = SpoolReader.claim(writer.path)
    assert reader is not None
    ((key, _),) = reader.waiting()
    gone = Drained(key, 5, 5, 5 * 200_000)
    if work == "tidy":
        reader.delete([gone], wait=True)
    with beyond(0), pytest.raises(sqlite3.OperationalError):
        reader.tidy() if work == "tidy" else reader.delete([gone], wait=True)
    await writer.append("t", b"x", 0)  # nobody holds the write lock
    if work == "delete":
        assert reader.delete([gone], wait=True)
    async with asyncio.timeout(10):
        while not reader.tidy():
            await asyncio.sleep(0)
    assert len(read(reader, key)) == 1
    reader.close()
    writer.close()


async def becomes(writer: SpoolWriter, *, able: bool) -> None:
    async with asyncio.timeout(10):
        while writer.can_store is not able:
            await asyncio.sleep(0.02)


@contextmanager
def beyond(size: int) -> Iterator[None]:
    """This process can write no byte of a file beyond this size, as on a full disk; Python ignores the signal."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Disk(NamedTuple):
    free: int


async def test_two_receivers_in_a_folder_are_drained_apart(tmp_path: Path) -> None:
    writers = [SpoolWriter(tmp_path, settings()) for _ in range(2)]
    await asyncio.gather(*(writer.append("t", b"%d" % number, 0) for number, writer in enumerate(writers)))
    assert spool_files(tmp_path) == [writer.path for writer in writers]
    for number, writer in enumerate(writers):
        reader = SpoolReader.claim(writer.path)
        assert reader is not None
        assert SpoolReader.claim(writer.path) is None
        ((key, _),) = reader.waiting()
        assert [event.body for event in read(reader, key)] == [b"%d" % number]
        reader.close()
        writer.close()
