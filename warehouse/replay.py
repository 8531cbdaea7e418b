"""The landing zone and the tables of a tenant's past window, rebuilt from what Kafka still holds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
import structlog

from streaming.replay_topic import TopicReplay, land_from_topic
from streaming.settings import Settings, Tenant
from streaming.sink.landed_rows import LandedRows
from streaming.sink.store import Store
from warehouse import expired, tables
from warehouse.engine import Warehouse, writer
from warehouse.field_usage import count_field_usage_window
from warehouse.landing import list_files
from warehouse.ledger import LoadResult
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events_window
from warehouse.load_intervals import load_wfm_intervals
from warehouse.windows import Window

log = structlog.get_logger()

# Longer than a topic takes to read.
_ORPHANED_S = 7 * 86_400

_PLACES = ["_topic", "_partition", "_offset", "event_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the loads made of it.

    Attributes:
        events_before: The tenant's events of the window that were in ``events`` before.
        events_after: After the loads.
        loads: Their results, in order.
        expired_before: Retention's horizon, if it lies within the window or after it: earlier events stay expired.
    """

    events_before: int
    events_after: int
    loads: tuple[LoadResult, ...]
    expired_before: datetime | None


def land_window(
    settings: Settings, tenant: Tenant, window: Window, progress: Callable[[float], None] = lambda _: None
) -> TopicReplay:
    """Land what Kafka holds of a tenant's window and the landing zone does not. Again lands nothing.

    Raises:
        ConfigurationError: the tenant has no topic.
        ServiceUnavailableError: a service does not answer; what has landed stays.
        OSError: the disk is full; likewise.
    """
    warehouse = Warehouse.from_settings(settings)
    with _scratch(settings.data_dir) as folder, LandedRows(folder) as known:
        for rows in _landed(warehouse.store, tenant.events_topic, window):
            known.add(rows)
        return land_from_topic(settings, tenant, window.start, window.end, known=known, progress=progress)


def load_window(
    warehouse: Warehouse, tenant: Tenant, window: Window, *, run_id: str, known_until: datetime | None = None
) -> Loaded:
    """Rebuild every table of a window from the landing zone; all tenants', since files hold several. Idempotent.

    Args:
        warehouse: the warehouse, migrated.
        tenant: whose events are counted.
        window: any bounds; cells of the intervals that it touches are rebuilt, whole.
        run_id: the caller's id for the ledger.
        known_until: see :func:`warehouse.load_intervals.load_wfm_intervals`.

    Raises:
        WarehouseBusyError: another load kept the lock.
        QualityError: a hard rule is broken; that table keeps its old data.
    """
    before = _events(warehouse, tenant, window)
    grid = window.widened(warehouse.interval_minutes)
    loads = (
        load_events_window(warehouse, window, run_id=run_id),
        load_conversations(warehouse, window, run_id=run_id),
        load_wfm_intervals(warehouse, grid, run_id=run_id, known_until=known_until),
        load_daily_analytics(warehouse, window, run_id=run_id),
        count_field_usage_window(warehouse, window, run_id=run_id),
    )
    with writer(warehouse) as connection:
        horizon = expired.horizon(connection)
    return Loaded(
        events_before=before,
        events_after=_events(warehouse, tenant, window),
        loads=loads,
        expired_before=horizon if horizon and horizon > window.start else None,
    )


@contextmanager
def _scratch(data_dir: Path) -> Iterator[Path]:
    """A folder on the local disk; those of killed runs go."""
    parent = data_dir / "scratch-replay"
    parent.mkdir(parents=True, exist_ok=True)
    for orphan in parent.iterdir():
        if time.time() - orphan.stat().st_mtime > _ORPHANED_S:
            shutil.rmtree(orphan, ignore_errors=True)
    with TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def _landed(store: Store, topic: str, window: Window) -> Iterator[pa.Table]:
    """Places of a topic's rows in files that may hold something of the window, a row group at a time."""
    for name in list_files(store, set(), window):
        try:
            with store.open(name) as file, pq.ParquetFile(file) as parquet:
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, _PLACES)
                    yield rows.filter(pc.equal(rows["_topic"], topic))
        except FileNotFoundError:  # compacted since: its rows land again, as repeats
            continue
        except (OSError, pa.ArrowException, KeyError) as error:
            # The load sets it aside. What it holds of the window lands anew.
            log.warning("a landing file can't be read", file=name, error=str(error))


def _events(warehouse: Warehouse, tenant: Tenant, window: Window) -> int:
    e = tables.events.c
    query = sa.select(sa.func.count()).where(
        e.vendor == tenant.vendor,
        e.tenant_id == tenant.tenant_id,
        e.timestamp_ms >= window.start_ms,
        e.timestamp_ms < window.end_ms,
    )
    with writer(warehouse) as connection:
        return int(connection.execute(query).scalar_one())
