"""Opening the warehouse: one writer at a time, readers beside it.

DuckDB lets one process write, and an open writer shuts out readers (and the other way round). So a load opens the
file briefly under a file lock, and readers open a copy that replaces the last one atomically. PostgreSQL needs no copy;
there an advisory lock keeps the order of load numbers.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from pydantic import SecretStr
from sqlalchemy.pool import NullPool

from streaming.errors import ConfigurationError
from streaming.instants import HOUR_MS
from streaming.settings import Settings
from streaming.sink.store import Store, open_store
from warehouse.errors import NoReadCopyError, WarehouseBusyError, WarehouseDownError, primary_message

_ADVISORY_LOCK = 0x63636161  # "ccaa": any constant that no other program on that database uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Warehouse:
    """Where the warehouse is and how it counts. Holds nothing open.

    Args:
        url: SQLAlchemy URL, ``duckdb:///path`` or ``postgresql://…``.
        landing_dir: folder of the landing zone.
        landing: its path or URL if it lies elsewhere, see :func:`streaming.sink.store.open_store`.
        interval_minutes: length of an interval: 15, 30 or 60.
        service_level_seconds: an answer after at most this wait is within the threshold.
        longest_status_hours: a status other than OFF_QUEUE lasts at most this long; an agent that is silent for longer
            is unknown. So one wrong date from decades ago makes some hundred cells, not a million.
        read_copy_seconds: a copy for readers is at least this old before it is replaced (DuckDB).
        lock_seconds: longest wait for another load to end.
        memory_limit: DuckDB's own limit; beyond it, it spills to disk.
        threads: DuckDB's threads.
        erasure_key: secret by which loads know erased callers again (``erasure.key``).

    Raises:
        ConfigurationError: the URL is of another engine or of a DuckDB in memory, or a number is out of its range.
    """

    url: str
    landing_dir: Path
    landing: str = ""
    interval_minutes: int = 15
    service_level_seconds: int = 20
    longest_status_hours: int = 168
    read_copy_seconds: float = 300
    lock_seconds: float = 600
    memory_limit: str = "1GB"
    threads: int = 2
    erasure_key: SecretStr | None = None

    def __post_init__(self) -> None:
        if self.interval_minutes not in {15, 30, 60}:
            msg = f"interval_minutes is {self.interval_minutes}: choose 15, 30 or 60"
            raise ConfigurationError(msg)
        if self.longest_status_hours < 1:
            msg = f"longest_status_hours is {self.longest_status_hours}: give 1 or more, for example 168"
            raise ConfigurationError(msg)
        try:
            url = sa.make_url(self.url)
        except sa.exc.ArgumentError:
            url = None  # said without the text: it may hold a password
        if url is None or url.get_backend_name() not in {"duckdb", "postgresql"}:
            msg = "warehouse.url is neither duckdb:///path nor postgresql://user@host/database: mend it or leave it out"
            raise ConfigurationError(msg)
        if url.get_backend_name() == "duckdb" and url.database in {None, "", ":memory:"}:
            msg = "warehouse.url names a DuckDB in memory, which ends with the load: give a path, duckdb:///path"
            raise ConfigurationError(msg)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The warehouse that the settings name."""
        return cls(
            url=settings.warehouse_url,
            landing_dir=settings.landing_dir,
            landing=settings.landing,
            interval_minutes=settings.warehouse.interval_minutes,
            service_level_seconds=settings.warehouse.service_level_seconds,
            read_copy_seconds=settings.warehouse.read_copy_seconds,
            longest_status_hours=settings.warehouse.longest_status_hours,
            erasure_key=settings.erasure.key,
        )

    @property
    def store(self) -> Store:
        """The landing zone."""
        return open_store(self.landing or str(self.landing_dir))

    @property
    def engine_url(self) -> sa.URL:
        """URL with the driver that is installed: psycopg 3 for PostgreSQL."""
        url = sa.make_url(self.url)
        return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url

    @property
    def database(self) -> Path | None:
        """DuckDB's file, None on PostgreSQL."""
        url = self.engine_url
        return Path(str(url.database)) if url.get_backend_name() == "duckdb" else None

    @property
    def read_copy(self) -> Path | None:
        """The copy that readers open, None on PostgreSQL: they read the database itself."""
        return self.database.with_suffix(".read.duckdb") if self.database else None

    @property
    def step_ms(self) -> int:
        """Length of an interval, ms."""
        return self.interval_minutes * 60_000

    @property
    def longest_status_ms(self) -> int:
        """Longest time for which a status lasts, ms."""
        return self.longest_status_hours * HOUR_MS

    def duckdb_config(self) -> dict[str, Any]:
        """DuckDB's limits; the same for every connection of a process, which DuckDB demands for one file."""
        # Nothing relies on the order of rows, and to keep it costs a load a fifth of its time, and memory.
        return {"memory_limit": self.memory_limit, "threads": self.threads, "preserve_insertion_order": False}


@contextmanager
def writer(warehouse: Warehouse) -> Iterator[sa.Connection]:
    """A connection that alone may write, with UTC as its time zone. The caller begins transactions on it.

    Raises:
        WarehouseBusyError: another load kept the lock for ``lock_seconds``, or the database does not open.
        WarehouseDownError: the database went away within the block, or could not do its work (disk full).
    """
    if warehouse.database:
        with _file_lock(warehouse), _duckdb(warehouse, warehouse.database, read_only=False) as connection:
            yield connection
    else:
        with _postgresql(warehouse) as connection:
            _advisory_lock(connection, warehouse.lock_seconds)
            yield connection


@contextmanager
def reader(warehouse: Warehouse) -> Iterator[sa.Connection]:
    """A read-only connection: to the published copy on DuckDB, to the database itself on PostgreSQL.

    Raises:
        NoReadCopyError: nothing is published yet.
        WarehouseBusyError: the database does not open.
        WarehouseDownError: the database went away within the block.
    """
    if warehouse.read_copy:
        if not warehouse.read_copy.is_file():
            msg = f"{warehouse.read_copy} does not exist yet: run a load, it publishes the copy that readers open"
            raise NoReadCopyError(msg)
        with _duckdb(warehouse, warehouse.read_copy, read_only=True) as connection:
            yield connection
    else:
        with _postgresql(warehouse) as connection:
            connection.execute(sa.text("SET default_transaction_read_only = on"))
            connection.commit()
            yield connection


def publish_read_copy(warehouse: Warehouse, *, force: bool = False) -> Path | None:
    """Checkpoint DuckDB's file and replace the readers' copy atomically; who has the old one open keeps it.

    Args:
        warehouse: the warehouse.
        force: also if the copy is younger than ``read_copy_seconds``.

    Returns:
        The copy if it was replaced, else None.

    Raises:
        WarehouseBusyError: another load kept the lock.
        OSError: the disk is full; the old copy stays.
    """
    database, copy = warehouse.database, warehouse.read_copy
    if not database or not copy or not database.is_file():
        return None
    if not force and copy.is_file() and time.time() - copy.stat().st_mtime < warehouse.read_copy_seconds:
        return None
    temporary = copy.with_name(f".tmp-{os.getpid()}-{copy.name}")
    with _file_lock(warehouse):
        for orphan in copy.parent.glob(f".tmp-*-{copy.name}"):  # under the lock nobody else is copying
            orphan.unlink(missing_ok=True)
        with _duckdb(warehouse, database, read_only=False) as connection:
            connection.execute(sa.text("CHECKPOINT"))
            connection.commit()
        try:
            shutil.copyfile(database, temporary)
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)
    return copy


@contextmanager
def _file_lock(warehouse: Warehouse) -> Iterator[None]:
    assert warehouse.database  # noqa: S101 (callers have asked)
    path = warehouse.database.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=warehouse.lock_seconds)
    try:
        lock.acquire()
    except Timeout:
        msg = f"{path} was held for {warehouse.lock_seconds:g} s: another load is running; try again when it has ended"
        raise WarehouseBusyError(msg) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _duckdb(warehouse: Warehouse, path: Path, *, read_only: bool) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        sa.URL.create("duckdb", database=str(path)),
        poolclass=NullPool,  # a pooled connection would keep the file open, and locked, after the load
        connect_args={"read_only": read_only, "config": warehouse.duckdb_config()},
        hide_parameters=True,
    )
    with _connected(engine, str(path)) as connection:
        connection.execute(sa.text("SET TimeZone = 'UTC'"))
        connection.commit()
        yield connection


@contextmanager
def _postgresql(warehouse: Warehouse) -> Iterator[sa.Connection]:
    engine = sa.create_engine(warehouse.engine_url, poolclass=NullPool, hide_parameters=True)
    with _connected(engine, warehouse.engine_url.render_as_string(hide_password=True)) as connection:
        connection.execute(sa.text("SET TIME ZONE 'UTC'"))
        connection.commit()
        yield connection


@contextmanager
def _connected(engine: sa.Engine, where: str) -> Iterator[sa.Connection]:
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        engine.dispose()
        msg = f"{where} does not open: {error.orig}. Close other programs that have it open, or check the address"
        raise WarehouseBusyError(msg) from error
    try:
        yield connection
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        msg = f"{where} failed: {primary_message(error)}. What was not committed is undone; try again when it answers"
        raise WarehouseDownError(msg) from error
    finally:
        connection.close()
        engine.dispose()


def _advisory_lock(connection: sa.Connection, seconds: float) -> None:
    """Held by the session: it ends with the connection, also after kill -9."""
    deadline = time.monotonic() + seconds
    while not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_ADVISORY_LOCK))).scalar_one():
        connection.commit()
        if time.monotonic() > deadline:
            msg = f"the warehouse's advisory lock was held for {seconds:g} s: another load is running; try again later"
            raise WarehouseBusyError(msg)
        time.sleep(0.2)
    connection.commit()
