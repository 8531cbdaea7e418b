"""PostgreSQL 16 from the ``pgserver`` wheel, for tests and for trying the platform on it.

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

# A server that lives for a test: data need not survive a crash of the machine; a crash of the process they do survive.
_TEMPORARY = ("-c", "fsync=off", "-c", "full_page_writes=off")
# Kept in files of the data folder, so that a kill -9 leaves no segment in /dev/shm.
_SHARED_MEMORY = ("-c", "dynamic_shared_memory_type=mmap")


class PostgresServer(Server):
    """A server with one role that owns everything, reached over loopback by password.

    Args:
        processes: who starts and ends it.
        folder: its data. Root can't run PostgreSQL: then ``nobody`` does, and must be able to reach the folder.
        port: where it listens; by default a free one is chosen.
    """

    label = "PostgreSQL"
    remedy = "name another port for the local PostgreSQL"

    def __init__(self, processes: ProcessTable, folder: Path, port: int | None = None) -> None:
        super().__init__(processes, folder, port)
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of its database, with the password; known once it was started."""
        return f"postgresql+psycopg://{_ROLE}:{self._password.read_text(encoding='utf-8')}@{HOST}:{self.port}/postgres"

    @property
    def _password(self) -> Path:
        return self._folder / "password"

    def _launch(self) -> ChildProcess:
        self._own(self._folder)
        programs = self._programs()
        data = self._folder / "data"
        if not (data / "PG_VERSION").exists():
            self._create(programs / "initdb", data)
        listen = ("-c", f"listen_addresses={HOST}", "-c", f"port={self.port}", "-c", "unix_socket_directories=")
        return self._processes.start(
            "postgres",
            [programs / "postgres", "-D", data, *listen, *_SHARED_MEMORY, *_TEMPORARY],
            environment=self._environment(),
            folder=self._folder,
            probe=self._answers(),
            deadline_s=_START_SECONDS,
            # SIGTERM would wait until the last client has gone.
            stop_signal=signal.SIGINT,
            user=self._user,
        )

    def _create(self, initdb: Path, data: Path) -> None:
        shutil.rmtree(data, ignore_errors=True)  # of a start that was cut off
        self._password.write_text(secrets.token_urlsafe(16), encoding="utf-8")
        self._password.chmod(0o600)
        self._own(self._password)
        options = [f"--username={_ROLE}", "--auth=scram-sha-256", f"--pwfile={self._password}", "--encoding=UTF8"]
        self._processes.run(
            "postgres-initdb",
            [initdb, "-D", data, *options, "--locale=C", "--no-sync"],
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
            for part in (package / "pginstall", package.with_name("pgserver.libs")):
                if part.exists():
                    target = copy / part.relative_to(package.parent)
                    shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (copy, *copy.rglob("*")):
                self._own(path)
        return copy / "pgserver" / "pginstall" / "bin"

    def _answers(self) -> Probe:
        def probe() -> bool:
            try:
                with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2) as connection:
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
            server = PostgresServer(processes, root / "postgres")
            server.start()
            yield server


def _package() -> Path:
    """The wheel's folder, found without importing it: the import makes a folder and a lock of the launcher's."""
    spec = importlib.util.find_spec("pgserver")
    if spec is None or spec.origin is None:
        msg = "the pgserver package is not installed: run `make install`, or name a PostgreSQL that runs"
        raise StackError(msg)
    return Path(spec.origin).parent


def _open_to_all(path: Path) -> bool:
    """Whether any user may execute this file and pass the folders above it."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))
