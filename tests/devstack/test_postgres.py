"""PostgreSQL as a temporary server, as root (CI) or not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from devstack.postgres import temporary_postgres
from tests.devstack.leftovers import still_there


def query(url: str, *statements: str) -> object:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement))
        return result.scalar() if result.returns_rows else None


def test_it_serves_keeps_committed_rows_over_a_crash_and_leaves_nothing() -> None:
    before = set(Path(tempfile.gettempdir()).glob("ccaas-postgres-*"))
    shared_before = set(Path("/dev/shm").glob("PostgreSQL*"))
    with temporary_postgres() as server:
        assert str(query(server.url, "SELECT version()")).startswith("PostgreSQL 16")
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
    monkeypatch.setattr("devstack.postgres._open_to_all", lambda _: False)
    with temporary_postgres() as server:
        assert query(server.url, "SELECT 1") == 1
        assert "ccaas-postgres-" in psutil.Process(server.child.pid).exe()


def test_the_password_is_needed() -> None:
    with temporary_postgres() as server:
        url = sa.make_url(server.url).set(password="guess")
        with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
            query(url.render_as_string(hide_password=False), "SELECT 1")
