"""Downloads against a real HTTP server that misbehaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from devstack.artifacts import ArtifactCache, cache_dir
from devstack.errors import ArtifactError
from devstack.lock import Pin
from tests.devstack.maven import Repository, serving

JAR = "org/example/thing/1.0/thing-1.0.jar"
OTHER = "org/example/other_2.13/2.0/other_2.13-2.0.jar"
ARCHIVE = "org/example/server/1.0.Final/server-1.0.Final-all.tar.gz"


@pytest.fixture
def repository() -> Iterator[Repository]:
    with serving() as running:
        yield running


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=400, force_terminal=False)


@pytest.fixture
def cache(tmp_path: Path, repository: Repository, console: Console) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", repository=repository.url, console=console)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".tmp-*"))


def test_files_are_fetched_once(cache: ArtifactCache, repository: Repository, console: Console) -> None:
    pins = (repository.add(JAR, b"a" * 300_000), repository.add(OTHER, b"b" * 5))
    paths = cache.fetch(pins, "things")
    assert [path.read_bytes() for path in paths] == [b"a" * 300_000, b"b" * 5]
    assert [path.name for path in paths] == ["thing-1.0.jar", "other_2.13-2.0.jar"]
    assert cache.fetch(pins, "things") == paths
    assert repository.gets == {JAR: 1, OTHER: 1}
    assert leftovers(cache.folder) == []
    assert console.export_text().count("things: fetching 2 files") == 1


@pytest.mark.parametrize("damage", [b"a" * 99 + b"x", b"", b"a" * 101], ids=["changed", "emptied", "longer"])
def test_a_damaged_file_is_fetched_again(cache: ArtifactCache, repository: Repository, damage: bytes) -> None:
    pin, untouched = repository.add(JAR, b"a" * 100), repository.add(OTHER, b"b")
    (path, _) = cache.fetch((pin, untouched), "things")
    path.write_bytes(damage)
    assert cache.fetch((pin, untouched), "things")[0].read_bytes() == b"a" * 100
    assert repository.gets == {JAR: 2, OTHER: 1}


def test_a_transfer_that_breaks_is_tried_again(cache: ArtifactCache, repository: Repository) -> None:
    pin = repository.add(JAR, b"a" * 500_000)
    repository.cut_off[JAR] = 1
    (path,) = cache.fetch((pin,), "things")
    assert path.read_bytes() == b"a" * 500_000
    assert repository.gets[JAR] == 2


def test_other_content_than_pinned_is_refused(cache: ArtifactCache, repository: Repository) -> None:
    genuine = repository.add(JAR, b"genuine")
    repository.add(JAR, b"altered")
    with pytest.raises(ArtifactError) as caught:
        cache.fetch((genuine,), "things")
    message = str(caught.value)
    for part in ("org.example:thing:1.0", genuine.sha256, repository.url, "CCAAS_MAVEN_URL", "devstack.artifacts lock"):
        assert part in message
    assert not (cache.folder / "maven" / JAR).exists()
    assert leftovers(cache.folder) == []


def test_a_missing_artifact_names_itself_and_the_remedy(cache: ArtifactCache) -> None:
    with pytest.raises(ArtifactError, match=r"org\.example:thing:1\.0: can't fetch thing-1\.0\.jar .*CCAAS_MAVEN_URL"):
        cache.fetch((Pin(JAR, 1, "0" * 64),), "things")


def test_an_unreachable_repository_is_a_clear_error(tmp_path: Path, console: Console) -> None:
    cache = ArtifactCache(tmp_path / "cache", repository="http://127.0.0.1:9", console=console)
    with pytest.raises(ArtifactError, match=r"in 4 tries.*Check the network"):
        cache.fetch((Pin(JAR, 1, "0" * 64),), "things")


def test_scratch_of_a_killed_process_is_removed(cache: ArtifactCache, repository: Repository) -> None:
    stale = cache.folder / ".tmp-killed"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"a")
    cache.fetch((repository.add(JAR, b"a"),), "things")
    assert not stale.exists()


def test_two_processes_share_one_download(tmp_path: Path, repository: Repository) -> None:
    pin = repository.add(JAR, b"a" * 100_000)
    repository.delay_s = 1.0  # long enough for both to have begun
    script = (
        "import sys; from pathlib import Path\n"
        "from devstack.artifacts import ArtifactCache; from devstack.lock import Pin\n"
        f"pin = Pin({pin.path!r}, {pin.size}, {pin.sha256!r})\n"
        "print(ArtifactCache(Path(sys.argv[1]), repository=sys.argv[2]).fetch((pin,), 'things')[0])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), repository.url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs == [f"{tmp_path / 'cache' / 'maven' / JAR}\n"] * 2
    assert repository.gets[JAR] == 1


def test_an_archive_is_unpacked_once_and_mended(cache: ArtifactCache, repository: Repository) -> None:
    pin = repository.add_archive(ARCHIVE, {"server.jar": b"program", "lib/a.jar": b"library"})
    tree = cache.unpacked(pin, "server")
    assert (tree / "lib" / "a.jar").read_bytes() == b"library"
    written = (tree / "server.jar").stat().st_mtime_ns, (tree / "server.jar").stat().st_ino
    assert cache.unpacked(pin, "server") == tree
    assert ((tree / "server.jar").stat().st_mtime_ns, (tree / "server.jar").stat().st_ino) == written

    (tree / "lib" / "a.jar").write_bytes(b"librarx")
    assert cache.unpacked(pin, "server") == tree
    assert (tree / "lib" / "a.jar").read_bytes() == b"library"
    (tree / "server.jar").unlink()
    assert (cache.unpacked(pin, "server") / "server.jar").read_bytes() == b"program"
    assert repository.gets[ARCHIVE] == 1
    assert leftovers(cache.folder) == []


def test_an_archive_can_not_write_elsewhere(cache: ArtifactCache, repository: Repository, tmp_path: Path) -> None:
    pin = repository.add_archive(ARCHIVE, {"../../escaped": b"x"})
    with pytest.raises(ArtifactError, match=r"server-1\.0\.Final-all\.tar\.gz"):
        cache.unpacked(pin, "server")
    assert not list(tmp_path.rglob("escaped"))


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CCAAS_CACHE_DIR", raising=False)
    assert cache_dir() == tmp_path / "ccaas"
    monkeypatch.setenv("CCAAS_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
