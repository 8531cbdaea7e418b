"""Where landing files lie: a local folder, or a folder of any filesystem that pyarrow knows by URL.

Names are relative to that folder, with ``/``. Whoever writes or reads the landing zone does it through a store, so that
a file is there as a whole or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import structlog
from pyarrow import fs

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.files import sync_folder

log = structlog.get_logger()
T = TypeVar("T")
AnyPath = TypeVar("AnyPath", Path, PurePosixPath)

TEMPORARY = ".tmp-"
"""How the name of a file begins that is still being written; in an object store there is none."""

_WHOLE = ("s3", "gcs")
"""pyarrow's filesystems in which a file appears when its upload ends."""

_IN_MEMORY = 64 << 20  # bytes of a file on its way to a remote store; beyond, it waits in a temporary file


class Entry(NamedTuple):
    """A file of a store."""

    name: str
    size: int
    modified: datetime


class Store(Protocol):
    """A landing zone's folder.

    Any method may raise ServiceUnavailableError where the store is remote and does not answer, and OSError where it is
    local and the disk does not do its work. A file that is not there is a FileNotFoundError on both.
    """

    def entries(self, folder: str) -> list[Entry]:
        """Every file below a folder, in no order; files still being written are left out. None if it is not there."""

    def create(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file, written within the block: it appears, durable, when the block ends, and not if it raises."""

    def open(self, name: str) -> pa.NativeFile:
        """A file for reading, seekable. Of a remote file any read may raise OSError: :meth:`read` tells it apart."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def here(self, names: Sequence[str]) -> AbstractContextManager[list[Path]]:
        """The files as local ones, for the length of the block: themselves, or copies in a temporary folder."""

    def move(self, name: str, target: str) -> None:
        """Give a file another name."""

    def delete(self, name: str) -> None:
        """Delete a file; not there is as good."""

    def remove_orphans(self, folder: str, beginning: str, older_than: datetime | None = None) -> None:
        """Delete what a killed writer left half-written below a folder, of files whose name would begin so."""


@lru_cache(maxsize=32)
def open_store(location: str) -> Store:
    """The store of a path or URL.

    Args:
        location: Path of a local folder, or a URL that pyarrow knows: ``file://``, ``s3://``, ``gs://``, ``abfs://``,
            ``hdfs://``; options are its query (``s3://bucket/folder?region=eu-central-1``). Credentials come from the
            environment, as each cloud's own tools take them.

    Raises:
        ConfigurationError: the URL is of no kind that pyarrow knows, or holds credentials.
    """
    if "://" not in location:
        return LocalStore(Path(location))
    parts = urlsplit(location)
    if parts.username or parts.password:
        msg = "sink.landing holds credentials: leave them out of the URL, they are taken from the environment"
        raise ConfigurationError(msg)
    try:
        filesystem, root = fs.FileSystem.from_uri(location)
    except (pa.ArrowException, OSError, ValueError) as error:
        msg = f"sink.landing: {parts.scheme}:// is no store that opens: {error}; give a path or another URL"
        raise ConfigurationError(msg) from None
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalStore(Path(root))
    return RemoteStore(filesystem, root.rstrip("/"), f"{parts.scheme}://{parts.hostname}")


class LocalStore:
    """A folder of a local disk.

    Args:
        folder: It is made when the first file is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self, folder: str) -> list[Entry]:
        """See :class:`Store`."""
        found = []
        # A folder that can't be read must not look like one without files.
        for parent, folders, names in os.walk(self.folder / folder, onerror=_unless_gone):
            folders.sort()
            for name in names:
                if name.startswith(TEMPORARY):
                    continue
                path = Path(parent, name)
                try:
                    status = path.stat()
                except FileNotFoundError:  # deleted or moved since
                    continue
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                found.append(Entry(path.relative_to(self.folder).as_posix(), status.st_size, modified))
        return found

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """See :class:`Store`: temporary name, fsync, atomic rename, fsync of the folder."""
        final = self.folder / name
        _make_folder(final.parent)
        temporary = _temporary(final)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)  # a full disk needs the room; a killed writer's is an orphan
            raise
        temporary.rename(final)
        sync_folder(final.parent)

    def open(self, name: str) -> pa.NativeFile:
        """See :class:`Store`."""
        return pa.OSFile(str(self.folder / name))

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        return (self.folder / name).read_bytes()

    @contextmanager
    def here(self, names: Sequence[str]) -> Iterator[list[Path]]:
        """See :class:`Store`."""
        yield [self.folder / name for name in names]

    def move(self, name: str, target: str) -> None:
        """See :class:`Store`."""
        final = self.folder / target
        _make_folder(final.parent)
        (self.folder / name).rename(final)
        sync_folder(final.parent)

    def delete(self, name: str) -> None:
        """See :class:`Store`."""
        (self.folder / name).unlink(missing_ok=True)

    def remove_orphans(self, folder: str, beginning: str, older_than: datetime | None = None) -> None:
        """See :class:`Store`."""
        for path in (self.folder / folder).rglob(f"{TEMPORARY}{beginning}*"):
            try:
                modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            except FileNotFoundError:  # its writer has ended
                continue
            if older_than and modified >= older_than:
                continue
            path.unlink(missing_ok=True)
            log.info("orphaned temporary file deleted", file=str(path))


class RemoteStore:
    """A folder of an object store, or of another remote filesystem.

    In an object store one upload makes a file, which appears whole when the upload ends. What a killed upload leaves is
    no file and in no list; a rule of the bucket for incomplete uploads clears it away. Other filesystems show what is
    being written: there the file has a temporary name until it is whole.

    Args:
        filesystem: pyarrow's.
        root: The folder's path there.
        label: What messages call it.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, label: str) -> None:
        self._fs = filesystem
        self._root = root
        self._label = label
        self._is_whole = filesystem.type_name in _WHOLE

    def entries(self, folder: str) -> list[Entry]:
        """See :class:`Store`."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        return [
            Entry(
                str(PurePosixPath(info.path).relative_to(self._root)), info.size or 0, info.mtime or datetime.now(UTC)
            )
            for info in self._ask(lambda: self._fs.get_file_info(selector))
            if info.type == fs.FileType.File and not info.base_name.startswith(TEMPORARY)
        ]

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """See :class:`Store`. The whole content is there before the upload begins, so that no part of it appears."""
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
            yield file
            file.seek(0)
            self._ask(lambda: self._upload(name, file))

    def _upload(self, name: str, file: IO[bytes]) -> None:
        path = PurePosixPath(self._path(name))
        while_written = path if self._is_whole else _temporary(path)
        if not self._is_whole:
            self._fs.create_dir(str(path.parent))
        with self._fs.open_output_stream(str(while_written)) as stream:
            shutil.copyfileobj(file, stream, 8 << 20)
        if not self._is_whole:
            self._fs.move(str(while_written), str(path))

    def open(self, name: str) -> pa.NativeFile:
        """See :class:`Store`."""
        return self._ask(lambda: self._fs.open_input_file(self._path(name)))

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""

        def whole() -> bytes:
            with self._fs.open_input_file(self._path(name)) as file:
                return bytes(file.read())

        return self._ask(whole)

    @contextmanager
    def here(self, names: Sequence[str]) -> Iterator[list[Path]]:
        """See :class:`Store`."""
        with tempfile.TemporaryDirectory(prefix="ccaas-landing-") as folder:
            paths = [Path(folder, f"{number}.parquet") for number in range(len(names))]
            for name, path in zip(names, paths, strict=True):
                path.write_bytes(self.read(name))
            yield paths

    def move(self, name: str, target: str) -> None:
        """See :class:`Store`."""
        if self._ask(lambda: self._fs.get_file_info(self._path(name))).type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        final = PurePosixPath(self._path(target))
        if not self._is_whole:
            self._ask(lambda: self._fs.create_dir(str(final.parent)))
        self._ask(lambda: self._fs.move(self._path(name), str(final)))

    def delete(self, name: str) -> None:
        """See :class:`Store`."""
        try:
            self._ask(lambda: self._fs.delete_file(self._path(name)))
        except FileNotFoundError:
            return

    def remove_orphans(self, folder: str, beginning: str, older_than: datetime | None = None) -> None:
        """See :class:`Store`."""
        if self._is_whole:
            return
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        for info in self._ask(lambda: self._fs.get_file_info(selector)):
            ours = info.type == fs.FileType.File and info.base_name.startswith(f"{TEMPORARY}{beginning}")
            if ours and not (older_than and info.mtime and info.mtime >= older_than):
                self.delete(str(PurePosixPath(info.path).relative_to(self._root)))
                log.info("orphaned temporary file deleted", file=info.path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _ask(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except FileNotFoundError:
            raise
        except OSError as error:
            msg = f"landing zone {self._label}: {error}"
            raise ServiceUnavailableError(msg) from None


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _temporary(final: AnyPath) -> AnyPath:
    """Of this writer alone: one that was held up must not write into the file that another has put in place."""
    return final.with_name(f"{TEMPORARY}{final.name}.{uuid.uuid4().hex}")


def _make_folder(folder: Path) -> None:
    """A new folder is durable only once its parent is."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
