from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from streaming.errors import ConfigurationError
from warehouse import tables
from warehouse.engine import Warehouse, writer
from warehouse.schema import HEAD, migrate, migrations, revision


def test_migrations_lead_to_the_tables_as_defined(warehouse: Warehouse) -> None:
    with writer(warehouse) as connection:
        for table in tables.metadata.tables.values():
            found = connection.execute(
                sa.text(
                    "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
                    "WHERE table_name = :name ORDER BY ordinal_position"
                ),
                {"name": table.name},
            ).all()
            kinds = {"text": "text", "varchar": "text", "character varying": "text", "bigint": "big_integer"}
            kinds |= {"integer": "integer", "boolean": "boolean", "date": "date"}
            kinds |= {"timestamp with time zone": "datetime"}
            assert [(name, kinds[kind.lower()], null == "YES") for name, kind, null in found] == [
                (column.name, column.type.__visit_name__, bool(column.nullable)) for column in table.columns
            ]


def test_migrating_again_changes_nothing(warehouse: Warehouse) -> None:
    migrate(warehouse)
    with writer(warehouse) as connection:
        assert revision(connection) == HEAD


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migrations()).get_current_head() == HEAD


def test_a_newer_database_is_refused(warehouse: Warehouse) -> None:
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("UPDATE ccaas_schema_version SET version_num = 'v9999'"))
    with pytest.raises(ConfigurationError, match="install the newer version"):
        migrate(warehouse)


def test_a_revision_that_is_not_ours_is_refused(warehouse: Warehouse) -> None:
    with writer(warehouse) as connection, connection.begin():
        connection.execute(sa.text("UPDATE ccaas_schema_version SET version_num = 'a1b2'"))
    with pytest.raises(ConfigurationError, match=f"from schema a1b2 to {HEAD}"):
        migrate(warehouse)


def test_another_applications_migrations_are_left_alone(make_warehouse: Callable[..., Warehouse]) -> None:
    def beside(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('v9999')"))

    warehouse = make_warehouse(before=beside)
    with writer(warehouse) as connection:
        assert revision(connection) == HEAD
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == ["v9999"]


def test_a_status_that_lasts_for_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longest_status_hours is 0"):
        Warehouse(url="duckdb:///x.duckdb", landing_dir=tmp_path, longest_status_hours=0)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "no url", "duckdb:///:memory:", "duckdb://"])
def test_a_url_that_cannot_serve_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"warehouse\.url"):
        Warehouse(url=url, landing_dir=tmp_path)
