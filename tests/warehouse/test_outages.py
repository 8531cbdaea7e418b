"""Killed loads, full disks, a database that is gone: the old tables stay, and the next loads come to the right ones."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from devstack.postgres import PostgresServer, temporary_postgres
from streaming.errors import ServiceUnavailableError
from tests.warehouse.child_loads import load_all
from tests.warehouse.events import Event, everything, land, numbered, queued, table
from tests.warehouse.test_load_intervals import END, a_day
from warehouse.engine import Warehouse
from warehouse.errors import WarehouseDownError
from warehouse.schema import migrate


@contextmanager
def loads(warehouse: Warehouse) -> Iterator[Callable[[str], str]]:
    """The process of ``child_loads``; called with an order it gives what came of it."""
    arguments = [warehouse.url, str(warehouse.landing_dir), END.isoformat()]
    command = [sys.executable, "-m", "tests.warehouse.child_loads", *arguments]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as child:

        def order(text: str) -> str:
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{text}\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        try:
            yield order
        finally:
            child.kill()


def assert_nothing_half_done(warehouse: Warehouse) -> None:
    """The ledger's rows of events are those that are there, and their files are noted."""
    runs = [run for run in table(warehouse, "load_runs") if run["dataset"] == "events"]
    assert {run["status"] for run in runs} <= {"succeeded"}
    assert sum(run["rows"] for run in runs) == len(table(warehouse, "events"))
    assert bool(runs) == bool(table(warehouse, "landed_files"))


def test_killed_at_any_statement_the_next_loads_come_to_the_same(make_warehouse: Callable[..., Warehouse]) -> None:
    events = a_day(2)
    plain, warehouse = make_warehouse(), make_warehouse()
    land(plain.landing_dir, *events)
    load_all(plain, END)
    killed = 0
    with loads(warehouse) as order:
        for part in (events[::2], events[1::2]):
            land(warehouse.landing_dir, *part)
            number = 9
            while (outcome := order(f"kill {number}")) == "killed":
                assert_nothing_half_done(warehouse)
                killed, number = killed + 1, number + 53
            assert outcome == "ended"
    assert killed >= 4
    assert everything(warehouse) == everything(plain)


def bulky(count: int) -> list[Event]:
    """Events of 8 kB that compress badly."""
    return numbered(
        [
            replace(queued("10:00:00", f"bulky{number}"), metadata={"test.bulk": os.urandom(4_000).hex()})
            for number in range(count)
        ]
    )


@pytest.mark.parametrize("engine", ["duckdb"])
def test_a_full_disk_under_duckdb(warehouse: Warehouse) -> None:
    """A file that can't grow is what a load sees of a full disk: here the log, at the commit."""
    assert warehouse.database
    land(warehouse.landing_dir, *a_day(2))
    load_all(warehouse, END)
    before = everything(warehouse)
    land(warehouse.landing_dir, *bulky(1_000))
    with loads(warehouse) as order:
        assert order(f"full {warehouse.database.stat().st_size + 262_144}") == "WarehouseDownError"
        assert everything(warehouse) == before
        failed = table(warehouse, "load_runs")[-1]
        assert (failed["dataset"], failed["status"], failed["rows"]) == ("events", "failed", 0)
        assert "File too large" in failed["error"]
        assert order("run") == "ended"
    assert len(table(warehouse, "events")) == len(before["events"]) + 1_000


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """For processes that start within: a server whose disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that may be killed; its files grow to 17 MiB, one more than the log's, until it starts anew."""
    with ExitStack() as stack:
        with files_of_at_most(17 * 1_048_576):
            server = stack.enter_context(temporary_postgres())
        yield server


@contextmanager
def killed_before(server: PostgresServer, table_: str) -> Iterator[None]:
    """kill -9 of the server where a load begins to write a table; afterwards it is started again."""

    def kill(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(f"INSERT INTO {table_} "):
            server.kill()

    sa.event.listen(sa.Engine, "before_cursor_execute", kill)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", kill)
        server.start()


def test_a_full_disk_under_postgresql_and_a_server_that_is_killed(
    own_server: PostgresServer, duckdb_template: Path, tmp_path: Path
) -> None:
    shutil.copy(duckdb_template, tmp_path / "plain.duckdb")
    plain = Warehouse(url=f"duckdb:///{tmp_path}/plain.duckdb", landing_dir=tmp_path / "landing")
    warehouse = replace(plain, url=own_server.url)
    migrate(warehouse)
    land(warehouse.landing_dir, *a_day(2))
    load_all(warehouse, END)
    before = everything(warehouse)
    land(warehouse.landing_dir, *bulky(2_400))
    with pytest.raises(ServiceUnavailableError, match="File too large"):
        load_all(warehouse, END)
    assert everything(warehouse) == before

    own_server.stop()
    own_server.start()
    runs = [run["dataset"] for run in table(warehouse, "load_runs") if run["status"] == "succeeded"]
    for name, dataset in (("events", "events"), ("queue_intervals", "wfm_intervals")):
        with pytest.raises(WarehouseDownError), killed_before(own_server, name):
            load_all(warehouse, END)
        runs += [] if dataset == "events" else ["events", "conversations", "daily_analytics"]
        assert [run["dataset"] for run in table(warehouse, "load_runs") if run["status"] == "succeeded"] == runs
        assert table(warehouse, "queue_intervals") == before["queue_intervals"]
    load_all(warehouse, END)
    load_all(plain, END)
    assert everything(warehouse) == everything(plain)
