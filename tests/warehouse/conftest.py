"""A warehouse on each engine: DuckDB in a fresh file, PostgreSQL in a fresh database of one server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from devstack.postgres import temporary_postgres
from warehouse.engine import Warehouse, writer
from warehouse.schema import migrate


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with temporary_postgres() as server:
        yield server.url


@pytest.fixture(params=["duckdb", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_warehouse(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Warehouse]:
    """Makes empty, migrated warehouses, after ``before``; each has its own landing folder unless one is given."""

    def make(before: Callable[[sa.Connection], None] | None = None, **settings: object) -> Warehouse:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        url = f"duckdb:///{folder}/warehouse.duckdb"
        if engine == "postgresql":
            url = _new_database(request.getfixturevalue("postgresql"))
        warehouse = Warehouse(**{"url": url, "landing_dir": folder / "landing", "lock_seconds": 20, **settings})  # type: ignore[arg-type]
        if before:
            with writer(warehouse) as connection, connection.begin():
                before(connection)
        migrate(warehouse)
        return warehouse

    return make


@pytest.fixture
def warehouse(make_warehouse: Callable[..., Warehouse]) -> Warehouse:
    return make_warehouse()


def _new_database(server: str) -> str:
    name = f"w{uuid.uuid4().hex}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    return url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
