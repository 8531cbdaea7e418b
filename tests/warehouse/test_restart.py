"""PostgreSQL goes away in the midst of a load: an error that is retried, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import sqlalchemy as sa

from streaming.errors import ServiceUnavailableError
from tests.warehouse.events import land, queued, table
from warehouse import quality, staging
from warehouse.engine import Warehouse, reader, writer
from warehouse.errors import WarehouseDownError
from warehouse.load_events import load_events


@pytest.fixture
def engine() -> str:
    return "postgresql"  # DuckDB lives in the load's own process


def _end_sessions(warehouse: Warehouse) -> None:
    """What a fast shutdown of the server does to its clients."""
    admin = sa.create_engine(warehouse.engine_url, poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def _ending_sessions(warehouse: Warehouse, function: Callable[..., object]) -> Callable[..., object]:
    def called(*args: object, **values: object) -> object:
        _end_sessions(warehouse)
        return function(*args, **values)

    return called


def test_a_restart_within_the_transaction(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    monkeypatch.setattr(quality, "check", _ending_sessions(warehouse, quality.check))

    with pytest.raises(WarehouseDownError, match="try again when it answers") as caught:
        load_events(warehouse, run_id="r")

    assert "SELECT" not in str(caught.value)
    assert table(warehouse, "load_runs") == []
    monkeypatch.undo()
    assert load_events(warehouse, run_id="r").rows == 1


def test_a_restart_while_files_are_copied(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    monkeypatch.setattr(staging, "_without_nul", _ending_sessions(warehouse, staging._without_nul))

    with pytest.raises(ServiceUnavailableError):
        load_events(warehouse, run_id="r")

    monkeypatch.undo()
    assert load_events(warehouse, run_id="r").rows == 1


@pytest.mark.parametrize("opened", [reader, writer])
def test_a_restart_between_statements(
    warehouse: Warehouse, opened: Callable[[Warehouse], AbstractContextManager[sa.Connection]]
) -> None:
    def work() -> None:
        with opened(warehouse) as connection:
            _end_sessions(warehouse)
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(WarehouseDownError):
        work()
