"""A landing zone's folder: files appear whole or not at all, locally and in an object store."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyarrow import fs
from pydantic import ValidationError

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.settings import Settings
from streaming.sink.store import TEMPORARY, LocalStore, RemoteStore, Store, open_store
from tests.s3 import S3Server


def put(store: Store, name: str, content: bytes) -> None:
    with store.create(name) as file:
        file.write(content)


def names(store: Store, folder: str) -> list[str]:
    return sorted(entry.name for entry in store.entries(folder))


def test_what_is_written_is_read_and_listed(store: Store) -> None:
    assert store.entries("raw") == []
    before = datetime.now(UTC) - timedelta(seconds=2)  # S3 has whole seconds
    put(store, "raw/dt=2026-01-01/a.parquet", b"one")
    put(store, "raw/b.parquet", b"four" * 1000)
    put(store, "other/c", b"")
    assert names(store, "raw") == ["raw/b.parquet", "raw/dt=2026-01-01/a.parquet"]
    assert {entry.name: entry.size for entry in store.entries("raw")}["raw/b.parquet"] == 4000
    assert all(before <= entry.modified <= datetime.now(UTC) for entry in store.entries("raw"))
    assert store.read("raw/dt=2026-01-01/a.parquet") == b"one"
    with store.open("raw/b.parquet") as file:
        file.seek(3996)
        assert file.read() == b"four"


def test_a_file_is_not_there_before_its_block_ends_and_never_if_that_raises(store: Store) -> None:
    with store.create("raw/a") as file:
        file.write(b"half")
        assert store.entries("raw") == []
    assert names(store, "raw") == ["raw/a"]

    def fails() -> None:
        with store.create("raw/b") as file:
            file.write(b"half")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fails()
    assert names(store, "raw") == ["raw/a"]


def test_files_move_and_go(store: Store) -> None:
    put(store, "raw/a", b"1")
    store.move("raw/a", "quarantine/deep/a")
    assert names(store, "raw") == []
    assert store.read("quarantine/deep/a") == b"1"
    store.delete("quarantine/deep/a")
    store.delete("quarantine/deep/a")
    assert names(store, "quarantine") == []


def test_a_writer_that_was_held_up_does_not_write_into_the_file_of_another(store: Store) -> None:
    with store.create("raw/a") as slow:
        slow.write(b"slow")
        with store.create("raw/a") as quick:
            quick.write(b"quick one")
        slow.write(b" one")
        slow.flush()
        assert store.read("raw/a") == b"quick one"
    assert store.read("raw/a") == b"slow one"
    assert names(store, "raw") == ["raw/a"]


def test_what_is_not_there_is_told_alike(store: Store) -> None:
    put(store, "raw/a", b"1")
    with pytest.raises(FileNotFoundError):
        store.read("raw/none")
    with pytest.raises(FileNotFoundError):
        store.open("raw/none")
    with pytest.raises(FileNotFoundError):
        store.move("raw/none", "raw/b")


def test_files_are_at_hand_as_local_ones(store: Store) -> None:
    put(store, "raw/a.parquet", b"1")
    put(store, "raw/x/a.parquet", b"2")
    with store.here(["raw/x/a.parquet", "raw/a.parquet"]) as paths:
        assert [path.read_bytes() for path in paths] == [b"2", b"1"]
    assert store.read("raw/a.parquet") == b"1"


def test_a_store_that_does_not_answer_is_a_service_that_is_down(s3: S3Server) -> None:
    url = s3.new_folder().replace(f":{s3.port}", ":1")  # nobody listens there
    store = open_store(url)
    with pytest.raises(ServiceUnavailableError, match="landing zone s3://"), store.create("raw/a") as file:
        file.write(b"1")
    with pytest.raises(ServiceUnavailableError):
        store.entries("raw")


@pytest.mark.parametrize(
    ("location", "said"), [("s3://key:secret@bucket/x", "credentials"), ("gopher://host/x", "gopher://")]
)
def test_a_url_that_can_t_be_used_is_told_without_its_secrets(location: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_store(location)
    assert "secret" not in str(caught.value)


def test_orphans_of_one_writer_go_and_a_finished_file_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    put(store, "raw/dt=1/sink-1-7.parquet", b"1")
    for name in (f"{TEMPORARY}sink-1-8.parquet", f"{TEMPORARY}sink-10-8.parquet"):
        (tmp_path / "raw/dt=1" / name).write_bytes(b"half")
    assert names(store, "raw") == ["raw/dt=1/sink-1-7.parquet"]
    store.remove_orphans("raw", "sink-1-", datetime.now(UTC) - timedelta(hours=1))
    assert len(list((tmp_path / "raw/dt=1").iterdir())) == 3
    store.remove_orphans("raw", "sink-1-")
    assert sorted(path.name for path in (tmp_path / "raw/dt=1").iterdir()) == [
        f"{TEMPORARY}sink-10-8.parquet",
        "sink-1-7.parquet",
    ]


def test_a_remote_filesystem_that_shows_what_is_being_written_gets_temporary_names(tmp_path: Path) -> None:
    """pyarrow's local one stands for it: hdfs:// and the like behave so."""
    store = RemoteStore(fs.LocalFileSystem(), str(tmp_path), "here")
    assert store.entries("raw") == []
    put(store, "raw/dt=1/a.parquet", b"one")
    store.move("raw/dt=1/a.parquet", "quarantine/dt=1/a.parquet")
    put(store, "raw/dt=1/sink-1-7.parquet", b"1")
    for name in (f"{TEMPORARY}sink-1-8.parquet", f"{TEMPORARY}sink-10-8.parquet"):
        (tmp_path / "raw/dt=1" / name).write_bytes(b"half")
    assert names(store, "") == ["quarantine/dt=1/a.parquet", "raw/dt=1/sink-1-7.parquet"]
    store.remove_orphans("raw", "sink-1-", datetime.now(UTC) - timedelta(hours=1))
    assert len(list((tmp_path / "raw/dt=1").iterdir())) == 3
    store.remove_orphans("raw", "sink-1-")
    left = sorted(path.name for path in (tmp_path / "raw/dt=1").iterdir())
    assert left == [f"{TEMPORARY}sink-10-8.parquet", "sink-1-7.parquet"]


def test_a_failed_write_shows_no_half_file_where_writes_are_seen(tmp_path: Path) -> None:
    """The folder of the final name is there, but the rename fails: nothing has the final name."""
    store = RemoteStore(fs.LocalFileSystem(), str(tmp_path), "here")
    (tmp_path / "raw/a").mkdir(parents=True)
    with pytest.raises(ServiceUnavailableError, match="landing zone here"):
        put(store, "raw/a", b"1")
    assert store.entries("raw") == []


def test_a_folder_that_can_t_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "raw").symlink_to("raw")
    with pytest.raises(OSError, match="symbolic links"):
        store.entries("raw")


def test_a_disk_without_room_leaves_nothing(tmp_path: Path) -> None:
    """The limit on a file's size is the kernel's own "no": write fails as it does on a full disk."""
    script = """
import resource, sys
from pathlib import Path
from streaming.sink.store import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
store = LocalStore(Path(sys.argv[1]))
try:
    with store.create("raw/a") as file:
        file.write(b"x" * 2000)
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print([path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file()])
with store.create("raw/a") as file:
    file.write(b"x" * 2000)
print([path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file()])
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["27", "[]", "['a']"]  # EFBIG


def test_the_landing_zone_lies_where_the_settings_say(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).landing == f"{tmp_path}/landing"
    assert Settings(data_dir=tmp_path, sink={"landing": "s3://bucket/x"}).landing == "s3://bucket/x"
    with pytest.raises(ValidationError, match="absolute path or a URL"):
        Settings(data_dir=tmp_path, sink={"landing": "somewhere/else"})
