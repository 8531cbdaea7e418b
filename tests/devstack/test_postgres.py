"""PostgreSQL as a temporary server, as root (CI) or not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from devstack.errors import StackError
from devstack.postgres import PostgresServer, temporary_postgres
from devstack.processes import ProcessTable
from tests.devstack.leftovers import still_there


def query(url: str, *statements: str) -> object:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement))
        return result.scalar() if result.returns_rows else None


@pytest.fixture
def stack_folder() -> Iterator[Path]:
    """A stack's folder that every user can get to; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="ccaas-open-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def data_folder(server: PostgresServer) -> Path:
    arguments = psutil.Process(server.child.pid).cmdline()
    return Path(arguments[arguments.index("-D") + 1])


def test_it_serves_keeps_committed_rows_over_a_crash_and_leaves_nothing() -> None:
    before = set(Path(tempfile.gettempdir()).glob("ccaas-postgres-*"))
    shared_before = set(Path("/dev/shm").glob("PostgreSQL*"))
    with temporary_postgres() as server:
        assert str(query(server.url, "SELECT version()")).startswith("PostgreSQL 18")
        query(server.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
        server.kill()
        with pytest.raises(sa.exc.OperationalError):
            query(server.url, "SELECT 1")
        server.start()
        assert query(server.url, "SELECT x FROM t") == 7
        children = [psutil.Process(server.child.pid), *psutil.Process(server.child.pid).children(recursive=True)]
        assert len(children) > 3
        # An open session does not hold up the end.
        lingering = sa.create_engine(server.url).connect()
    assert still_there(children) == []
    lingering.invalidate()
    lingering.close()
    assert set(Path(tempfile.gettempdir()).glob("ccaas-postgres-*")) == before
    assert set(Path("/dev/shm").glob("PostgreSQL*")) == shared_before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_root_s_venv_may_be_closed_to_the_server_s_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.postgres._open_to_all", lambda path: path.name != "postgres")
    with temporary_postgres() as server:
        assert query(server.url, "SELECT 1") == 1
        assert "ccaas-postgres-" in psutil.Process(server.child.pid).exe()


def test_the_password_is_needed() -> None:
    with temporary_postgres() as server:
        url = sa.make_url(server.url).set(password="guess")
        with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
            query(url.render_as_string(hide_password=False), "SELECT 1")


def test_a_lasting_server_keeps_its_rows_in_the_stack_s_folder_over_stacks(stack_folder: Path) -> None:
    with ProcessTable(stack_folder) as processes:
        first = PostgresServer(processes, stack_folder / "database")
        first.start()
        assert data_folder(first).is_relative_to(stack_folder)
        query(first.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
    with ProcessTable(stack_folder) as processes:
        second = PostgresServer(processes, stack_folder / "database")
        second.start()
        assert query(second.url, "SELECT x FROM t") == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_root_s_stack_may_be_closed_to_the_server_s_user(stack_folder: Path) -> None:
    closed = stack_folder / "closed"
    closed.mkdir(mode=0o700)
    with ProcessTable(closed) as processes:
        server = PostgresServer(processes, closed / "database")
        server.start()
        elsewhere = data_folder(server)
        assert not elsewhere.is_relative_to(closed)
        query(server.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
        server.stop()
        server.start()
        assert data_folder(server) == elsewhere
        assert query(server.url, "SELECT x FROM t") == 7
    assert not elsewhere.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_no_folder_that_the_server_s_user_reaches_is_said(stack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = stack_folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(closed))
    with ProcessTable(closed) as processes, pytest.raises(StackError, match="TMPDIR"):
        PostgresServer(processes, closed / "database").start()
    assert not list(closed.glob("ccaas-*"))
