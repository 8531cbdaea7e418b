from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from streaming.settings import Settings, WarehouseSettings
from tests.warehouse.events import land, queued, table
from warehouse.engine import Warehouse, publish_read_copy, reader, writer
from warehouse.errors import NoReadCopyError, WarehouseBusyError
from warehouse.load_events import load_events
from warehouse.schema import migrate, open_warehouse


@pytest.fixture
def engine() -> str:
    return "duckdb"  # files, locks and copies are DuckDB's matter


def _count(connection: sa.Connection) -> int:
    return int(connection.execute(sa.text("SELECT count(*) FROM events")).scalar_one())


def test_readers_see_the_copy_as_it_was_published(warehouse: Warehouse) -> None:
    with pytest.raises(NoReadCopyError, match="run a load"), reader(warehouse):
        pass
    land(warehouse.landing_dir, queued("09:00:00", "c1"))
    load_events(warehouse, run_id="r")
    assert publish_read_copy(warehouse) == warehouse.read_copy
    land(warehouse.landing_dir, queued("09:00:00", "c2"))

    with reader(warehouse) as connection:
        load_events(warehouse, run_id="r")  # an open reader does not shut out a load
        assert publish_read_copy(warehouse) is None  # too young
        assert publish_read_copy(warehouse, force=True)
        assert _count(connection) == 1
    with reader(warehouse) as connection:
        assert _count(connection) == 2


def test_an_old_copy_is_replaced(warehouse: Warehouse) -> None:
    copy = publish_read_copy(warehouse)
    assert copy
    os.utime(copy, (0, time.time() - 301))
    assert publish_read_copy(warehouse) == copy
    assert publish_read_copy(warehouse) is None


def test_a_reader_cannot_write(warehouse: Warehouse) -> None:
    publish_read_copy(warehouse)
    with reader(warehouse) as connection, pytest.raises(sa.exc.DBAPIError, match="read-only"):
        connection.execute(sa.text("DELETE FROM events"))


def test_sessions_are_in_utc_and_limited(warehouse: Warehouse) -> None:
    with writer(replace(warehouse, memory_limit="300MB", threads=1)) as connection:
        query = "SELECT current_setting('TimeZone'), current_setting('threads'), current_setting('memory_limit')"
        assert connection.execute(sa.text(query)).one() == ("UTC", 1, "286.1 MiB")


def test_open_warehouse_makes_it_from_the_settings_and_publishes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, warehouse=WarehouseSettings(interval_minutes=30))
    with open_warehouse(settings) as warehouse:
        assert warehouse.interval_minutes == 30
        assert warehouse.landing_dir == tmp_path / "landing"
    with reader(warehouse) as connection:
        assert _count(connection) == 0


_HOLD = """
import sys, time
from pathlib import Path
from warehouse.engine import Warehouse, writer
from warehouse.ledger import load_run
import sqlalchemy as sa
with writer(Warehouse(url=sys.argv[1], landing_dir=Path("."))) as connection:
    with load_run(connection, "events", "arrival", "killed"):
        connection.execute(sa.text("INSERT INTO landed_files (name, status) VALUES ('f', 'loaded')"))
        print("holding", flush=True)
        time.sleep(60)
"""


def test_a_load_killed_midway_leaves_nothing_and_frees_the_lock(warehouse: Warehouse) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, warehouse.url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(WarehouseBusyError, match="another load"):
            migrate(replace(warehouse, lock_seconds=0.2))
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()
    assert table(warehouse, "landed_files") == []
    assert table(warehouse, "load_runs") == []
