"""A warehouse on each engine: DuckDB in a fresh file, PostgreSQL in a fresh database of one server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pgserver
import pytest
import sqlalchemy as sa

from warehouse.engine import Warehouse
from warehouse.schema import migrate


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture(params=["duckdb", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_warehouse(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Warehouse]:
    """Makes empty, migrated warehouses; each has its own landing folder unless one is given."""

    def make(**settings: object) -> Warehouse:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        url = f"duckdb:///{folder}/warehouse.duckdb"
        if engine == "postgresql":
            url = _new_database(request.getfixturevalue("postgresql"))
        warehouse = Warehouse(**{"url": url, "landing_dir": folder / "landing", "lock_seconds": 20, **settings})  # type: ignore[arg-type]
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
