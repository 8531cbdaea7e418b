"""Looking into spools that receivers write and publishers drain."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.settings import SpoolSettings
from streaming.spool.peek import deferred_bodies, pending_bodies, warn_if_missing
from streaming.spool.reader import Drained, SpoolReader
from streaming.spool.writer import Deferral, SpoolWriter

SETTINGS = SpoolSettings(min_free_disk_bytes=0)
FORGED = Deferral("unknown_key", "{}")


async def store(writer: SpoolWriter, *requests: tuple[str, bytes, int, Deferral | None]) -> None:
    for stored in [writer.append(*request) for request in requests]:
        await stored


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[SpoolWriter]]:
    made = [SpoolWriter(tmp_path, SETTINGS) for _ in range(2)]
    yield made
    for writer in made:
        writer.close()


def test_a_spool_of_another_layout_is_no_empty_one(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "receiver-000.db")
    database.executescript("CREATE TABLE event (x); PRAGMA user_version=1;")
    database.close()
    for peek in (pending_bodies, deferred_bodies):
        with pytest.raises(ConfigurationError, match=r"receiver-000\.db: a spool of layout 1"):
            list(peek(tmp_path, "t"))


def test_a_spool_without_tables_is_empty(tmp_path: Path) -> None:
    (tmp_path / "receiver-000.db").touch()
    assert list(pending_bodies(tmp_path, "t")) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with capture_logs() as logs:
        warn_if_missing(tmp_path)
        warn_if_missing(tmp_path / "elsewhere")
    assert [entry["spool_dir"] for entry in logs] == [str(tmp_path / "elsewhere")]


def test_all_spools_of_a_tenant_while_they_are_written(tmp_path: Path, writers: list[SpoolWriter]) -> None:
    async def fill() -> None:
        await store(writers[0], ("a", b"1", 10, None), ("b", b"2", 20, None), ("a", b"3", 30, FORGED))
        await store(writers[1], ("a", b"4", 40, None), ("a", b"5", 50, FORGED))

    asyncio.run(fill())

    assert list(pending_bodies(tmp_path, "a")) == [b"1", b"4"]
    assert list(deferred_bodies(tmp_path, "a")) == [b"3", b"5"]
    assert list(pending_bodies(tmp_path, "a", 40)) == [b"4"]
    assert list(deferred_bodies(tmp_path, "a", 31)) == [b"5"]
    assert list(pending_bodies(tmp_path, "nobody")) == []


def test_what_is_drained_is_not_there_any_more(tmp_path: Path, writers: list[SpoolWriter]) -> None:
    asyncio.run(store(writers[0], ("a", b"1", 10, None)))
    reader = SpoolReader.claim(writers[0].path)
    assert reader is not None
    ((key, _),) = reader.waiting()
    assert reader.delete([Drained(key, 1, 1, 1)], wait=True)
    reader.close()
    assert list(pending_bodies(tmp_path, "a")) == []


def test_no_folder_and_a_receiver_that_is_just_starting(tmp_path: Path) -> None:
    assert list(pending_bodies(tmp_path / "none", "a")) == []
    (tmp_path / "receiver-000.db").touch()
    assert list(pending_bodies(tmp_path, "a")) == list(deferred_bodies(tmp_path, "a")) == []


def test_a_file_that_is_no_spool_is_said(tmp_path: Path) -> None:
    (tmp_path / "receiver-000.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(ServiceUnavailableError, match=r"receiver-000\.db can't be read"):
        list(pending_bodies(tmp_path, "a"))
