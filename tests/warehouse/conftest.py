"""A warehouse on each engine: DuckDB in a fresh file, PostgreSQL in a fresh database of one server."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def duckdb_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated warehouse. Copying it takes a tenth of the migrations' time."""
    file = tmp_path_factory.mktemp("template") / "warehouse.duckdb"
    migrate(Warehouse(url=f"duckdb:///{file}", landing_dir=file.parent))
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As ``duckdb_template``: name of the database."""
    name = _new_database(postgresql)
    migrate(Warehouse(url=_url(postgresql, name), landing_dir=tmp_path_factory.mktemp("template")))
    return name


@pytest.fixture
def make_warehouse(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Warehouse]]:
    """Makes empty, migrated warehouses, after ``before``; each has its own landing folder unless one is given."""
    databases: list[str] = []

    def make(before: Callable[[sa.Connection], None] | None = None, **settings: object) -> Warehouse:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        if engine == "postgresql":
            server = request.getfixturevalue("postgresql")
            template = None if before else request.getfixturevalue("postgresql_template")
            databases.append(_new_database(server, template))
            url = _url(server, databases[-1])
        else:
            url = f"duckdb:///{folder}/warehouse.duckdb"
            if before is None:
                shutil.copy(request.getfixturevalue("duckdb_template"), folder / "warehouse.duckdb")
        warehouse = Warehouse(**{"url": url, "landing_dir": folder / "landing", "lock_seconds": 20, **settings})  # type: ignore[arg-type]
        if before:
            with writer(warehouse) as connection, connection.begin():
                before(connection)
            migrate(warehouse)
        return warehouse

    yield make
    if databases:
        # A database is 300 files, 7 MiB: gone before they are written to the disk.
        _administer(request.getfixturevalue("postgresql"), *(f'DROP DATABASE "{name}" (FORCE)' for name in databases))


@pytest.fixture
def warehouse(make_warehouse: Callable[..., Warehouse]) -> Warehouse:
    return make_warehouse()


def _new_database(server: str, template: str | None = None) -> str:
    """Make a database, empty or a copy; gives its name."""
    name = f"w{uuid.uuid4().hex}"
    _administer(server, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    return name


def _administer(server: str, *statements: str) -> None:
    admin = sa.create_engine(_url(server), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def _url(server: str, database: str | None = None) -> str:
    url = sa.make_url(server)
    return url.set(database=database or url.database, drivername="postgresql+psycopg").render_as_string(
        hide_password=False
    )
