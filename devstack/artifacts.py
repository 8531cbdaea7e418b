"""The cache of locked artifacts: what is missing or damaged is fetched, checked and put in place atomically.

``python -m devstack.artifacts`` fills the cache; ``python -m devstack.artifacts lock`` writes the lock file anew
from what Maven Central serves.

Layout of the cache folder (``CCAAS_CACHE_DIR``, else ``$XDG_CACHE_HOME/ccaas``, else ``~/.cache/ccaas``):
``maven/<path of the lock file>`` and ``unpacked/<archive's SHA-256>/``. Several processes may use it at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jgo
import jgo.constants
from filelock import FileLock, Timeout
from jgo.maven import MavenContext, PythonResolver
from rich.console import Console
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from devstack.errors import ArtifactError, DownloadCancelledError
from devstack.interrupt import deferred_interrupts
from devstack.lock import KAFKA_ENDPOINT, LOG_BINDING_PATH, REGISTRY_PATH, Lock, Pin, read_lock, split_path, write_lock
from devstack.progress import Download, stack_console

_PARALLEL = 4
_TRIES = 4
_CONNECT_AND_READ_SECONDS = 30
# Another process may be downloading 250 MB over a slow line; past this, something is stuck.
_LOCK_SECONDS = 1800


# What jgo calls with a file's name and size; the context is entered and told of every chunk's bytes.
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class _WrongChecksumError(Exception):
    """The bytes that came are not those of the lock."""


def cache_dir() -> Path:
    """Folder of downloads shared by every project of this user."""
    named = os.environ.get("CCAAS_CACHE_DIR")
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ccaas"


def maven_url() -> str:
    """The Maven repository: ``CCAAS_MAVEN_URL`` (a mirror), else Maven Central."""
    return os.environ.get("CCAAS_MAVEN_URL") or jgo.constants.MAVEN_CENTRAL_URL


class ArtifactCache:
    """Hands out local files of pinned artifacts.

    Args:
        folder: the cache.
        repository: URL of a Maven repository.
        console: where progress is shown.
        interrupted: true once downloads are to be given up.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        repository: str | None = None,
        console: Console | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder or cache_dir()
        self._repository = (repository or maven_url()).rstrip("/")
        self._console = console or stack_console()
        self._interrupted = interrupted

    def fetch(self, pins: tuple[Pin, ...], label: str) -> list[Path]:
        """Local files of these artifacts, in the same order, each checked against its SHA-256 in this call.

        Args:
            pins: what to fetch.
            label: what the files are for, for progress.

        Raises:
            ArtifactError: a file can't be had, or is not what the lock pins.
        """
        if self._unsound(pins):
            with self._locked():
                missing = self._unsound(pins)  # another process may have fetched them while we waited
                if missing:
                    self._download(missing, label)
        return [self._place(pin) for pin in pins]

    def unpacked(self, pin: Pin, label: str) -> Path:
        """Folder with the content of a pinned tar.gz, unpacked once; a damaged copy is replaced.

        Raises:
            ArtifactError: as in ``fetch``.
        """
        target = self.folder / "unpacked" / pin.sha256
        if _is_sound_tree(target):
            return target
        (archive,) = self.fetch((pin,), label)
        with self._locked(), self._scratch() as scratch:
            if _is_sound_tree(target):
                return target
            fresh = scratch / "tree"
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(fresh, filter="data")
                _write_sums(fresh)
            except (tarfile.TarError, OSError) as error:
                msg = (
                    f"{pin.coordinate}: can't unpack {pin.name} into {self.folder}: {error}. Check the free disk space."
                )
                raise ArtifactError(msg) from error
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(scratch / "damaged")  # a running server keeps the files that it has open
            fresh.rename(target)
        return target

    def _place(self, pin: Pin) -> Path:
        return self.folder / "maven" / pin.path

    def _unsound(self, pins: tuple[Pin, ...]) -> tuple[Pin, ...]:
        def is_sound(pin: Pin) -> bool:
            try:
                return self._place(pin).stat().st_size == pin.size and sha256_of(self._place(pin)) == pin.sha256
            except OSError:
                return False

        with ThreadPoolExecutor(_PARALLEL) as pool:
            return tuple(pin for pin, sound in zip(pins, pool.map(is_sound, pins), strict=True) if not sound)

    def _download(self, pins: tuple[Pin, ...], label: str) -> None:
        megabytes = sum(pin.size for pin in pins) / 1e6
        self._console.print(f"{label}: fetching {len(pins)} files, {megabytes:.0f} MB, into {self.folder}")
        with (
            Download(self._console, label, sum(pin.size for pin in pins)) as progress,
            ThreadPoolExecutor(_PARALLEL) as pool,
        ):
            cancelled = threading.Event()
            futures = [pool.submit(self._download_one, pin, progress, cancelled) for pin in pins]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                cancelled.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _download_one(self, pin: Pin, progress: Download, cancelled: threading.Event) -> None:
        retrying = Retrying(
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.5, max=10),
            retry=retry_if_exception_type((RuntimeError, OSError, _WrongChecksumError)),
            reraise=True,
        )
        try:
            retrying(self._try_once, pin, progress, cancelled)
        except _WrongChecksumError as error:
            msg = (
                f"{pin.coordinate}: {self._repository} served {error} for {pin.name}, the lock file pins "
                f"{pin.sha256} ({pin.size} bytes). A proxy or mirror may be altering it: try another network or set "
                "CCAAS_MAVEN_URL. If the artifact was really replaced, run `python -m devstack.artifacts lock` and "
                "review the difference."
            )
            raise ArtifactError(msg) from None
        except (RuntimeError, OSError) as error:
            msg = (
                f"{pin.coordinate}: can't fetch {pin.name} from {self._repository} in {_TRIES} tries: {error}. Check "
                "the network, the proxy (HTTPS_PROXY) and the disk, or name a mirror in CCAAS_MAVEN_URL; what has "
                "come so far is kept."
            )
            raise ArtifactError(msg) from error

    def _try_once(self, pin: Pin, progress: Download, cancelled: threading.Event) -> None:
        counted = 0

        @contextmanager
        def counting(_name: str, _total: int) -> Iterator[Callable[[int], None]]:
            def count(size: int) -> None:
                nonlocal counted
                if cancelled.is_set() or self._interrupted():
                    msg = f"{pin.coordinate}: the download was given up"
                    raise DownloadCancelledError(msg)
                counted += size
                progress.advance(size)

            yield count

        try:
            with self._scratch() as scratch:
                fresh = download(pin.path, scratch, self._repository, counting)
                _check(fresh, pin)
                place = self._place(pin)
                place.parent.mkdir(parents=True, exist_ok=True)
                fresh.replace(place)
        except BaseException:
            progress.advance(-counted)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        self._acquire(lock)
        try:
            # We hold the lock, so scratch folders of others belong to processes that died.
            for stale in self.folder.glob(".tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            yield
        finally:
            lock.release()

    def _acquire(self, lock: FileLock) -> None:
        end = time.monotonic() + _LOCK_SECONDS
        told = False
        while True:
            try:
                lock.acquire(timeout=0.2)
            except Timeout:
                if self._interrupted():
                    msg = f"no longer waiting for the process that fills {self.folder}"
                    raise DownloadCancelledError(msg) from None
                if time.monotonic() >= end:
                    msg = f"{lock.lock_file} has been held for {_LOCK_SECONDS} s: end the process that fills the cache"
                    raise ArtifactError(msg) from None
                if not told:
                    self._console.print(f"another download is filling {self.folder}; waiting for it")
                    told = True
            else:
                return

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder on the cache's own file system, so that renames out of it are atomic."""
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=self.folder, ignore_cleanup_errors=True) as name:
            yield Path(name)


def download(path: str, folder: Path, repository: str, progress: Counting | None = None) -> Path:
    """Fetch one artifact through jgo, the Maven client, into an empty folder.

    Raises:
        OSError, RuntimeError: unreachable, or not there.
    """
    group, artifact, version, classifier, packaging = split_path(path)
    context = MavenContext(
        resolver=PythonResolver(progress_callback=progress),
        repo_cache=folder,
        local_repos=[],
        remote_repos={"central": repository},
        timeout=_CONNECT_AND_READ_SECONDS,
    )
    found = context.project(group, artifact).at_version(version).artifact(classifier, packaging)
    file = context.resolver.download(found)
    if file is None:
        msg = f"{repository} has no {path}"
        raise RuntimeError(msg)
    return file


def _check(file: Path, pin: Pin) -> None:
    digest = sha256_of(file)
    if digest != pin.sha256:
        message = f"{digest} ({file.stat().st_size} bytes)"
        raise _WrongChecksumError(message)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums_file(tree: Path) -> Path:
    return tree / "SHA256SUMS"


def _write_sums(tree: Path) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(tree).as_posix()}\n" for path in files]
    _sums_file(tree).write_text("".join(lines), encoding="utf-8")


def _is_sound_tree(tree: Path) -> bool:
    try:
        lines = _sums_file(tree).read_text(encoding="utf-8").splitlines()
        sums = [line.split("  ", 1) for line in lines]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            digests = pool.map(sha256_of, [tree / name for _, name in sums])
            return bool(sums) and all(digest == wanted for digest, (wanted, _) in zip(digests, sums, strict=True))
    except (OSError, ValueError):
        return False


def resolve_lock(repository: str | None = None) -> Lock:
    """Resolve what the stack needs and download each artifact to learn its size and digest.

    Raises:
        OSError, RuntimeError: the repository is unreachable or lacks an artifact.
    """
    source = (repository or maven_url()).rstrip("/")
    found = jgo.resolve(KAFKA_ENDPOINT, repositories={"central": source})
    paths = {(item.component.path_prefix / item.filename).as_posix() for item in found} | {LOG_BINDING_PATH}

    def pin(path: str) -> Pin:
        with tempfile.TemporaryDirectory() as name:
            file = download(path, Path(name), source)
            return Pin(path, file.stat().st_size, sha256_of(file))

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return Lock(tuple(pool.map(pin, sorted(paths))), pin(REGISTRY_PATH))


def main(arguments: list[str]) -> int:
    """Fill the cache (no argument) or write the lock file (``lock``). Returns the exit status."""
    console = stack_console()
    if arguments == ["lock"]:
        lock = resolve_lock()
        write_lock(lock)
        console.print(f"locked {len(lock.kafka) + 1} artifacts; review the difference before you commit it")
        return 0
    if arguments:
        console.print("usage: python -m devstack.artifacts [lock]")
        return 2
    try:
        with deferred_interrupts() as interrupted:
            lock = read_lock()
            cache = ArtifactCache(console=console, interrupted=interrupted)
            cache.fetch(lock.kafka, "Apache Kafka")
            cache.unpacked(lock.registry, "schema registry")
    except KeyboardInterrupt:
        return 130
    except ArtifactError as error:
        console.print(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
