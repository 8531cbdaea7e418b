"""Deployment replay-topic. Landing zone and tables of a tenant's past window from Kafka, without any vendor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prefect import flow, get_run_logger

from flows._load import retry_while_down, run_id, scheduled_time, show_table, shown_progress
from flows._tenants import name_of
from streaming.errors import ConfigurationError
from streaming.replay_topic import TopicReplay
from streaming.settings import Settings, Tenant, load_settings
from warehouse.replay import Loaded, land_window, load_window
from warehouse.schema import open_warehouse
from warehouse.windows import Window


@flow(name="replay-topic")
def replay_topic(tenant: str, start: datetime, end: datetime, vendor: str | None = None) -> int:
    """Rebuild landing files and tables from the normalised events on Kafka. Idempotent; an interrupted run goes on.

    Args:
        tenant: Tenant id.
        start: Events' own time, UTC, inclusive.
        end: Exclusive.
        vendor: Only needed if two vendors have a tenant of that id.

    Returns:
        Events that landed.
    """
    settings = load_settings()
    window = Window(start, end)
    window.require_begun(scheduled_time())
    chosen = _tenant(settings, tenant, vendor)
    replay = _land(settings, chosen, window, shown_progress("replay-topic-progress", "Records read from Kafka"))
    loaded = _load(settings, chosen, window)
    show_table("replay-topic", [_row(chosen, window, replay, loaded)])
    if replay.complete_since and window.start < replay.complete_since:
        get_run_logger().warning(
            "%s: Kafka may have expired events dated before %s; of these only what is left was replayed",
            chosen.events_topic,
            replay.complete_since.isoformat(),
        )
    if loaded.expired_before:
        get_run_logger().warning(
            "retention has expired events dated before %s: they are passed over", loaded.expired_before.isoformat()
        )
    return replay.landed


def _tenant(settings: Settings, tenant_id: str, vendor: str | None) -> Tenant:
    found = [item for item in settings.tenants if item.tenant_id == tenant_id and vendor in {None, item.vendor}]
    if not found:
        msg = f"tenant {tenant_id!r} is not configured: compare with [[tenants]] in the configuration"
        raise ConfigurationError(msg)
    if len(found) > 1:
        msg = f"tenant {tenant_id!r} is of {', '.join(item.vendor for item in found)}: give vendor"
        raise ConfigurationError(msg)
    return found[0]


@retry_while_down
def _land(settings: Settings, tenant: Tenant, window: Window, progress: Callable[[float], None]) -> TopicReplay:
    return land_window(settings, tenant, window, progress)


@retry_while_down
def _load(settings: Settings, tenant: Tenant, window: Window) -> Loaded:
    with open_warehouse(settings) as warehouse:
        return load_window(warehouse, tenant, window, run_id=run_id(), known_until=scheduled_time())


def _row(tenant: Tenant, window: Window, replay: TopicReplay, loaded: Loaded) -> dict[str, str | int]:
    return {
        "tenant": name_of(tenant),
        "window": str(window),
        "records read": replay.read,
        "no events": replay.undecodable,
        "in the window": replay.in_window,
        "had landed": replay.already_landed,
        "landed now": replay.landed,
        "in events before": loaded.events_before,
        "in events now": loaded.events_after,
        "rows loaded": ", ".join(f"{load.dataset} {load.rows}" for load in loaded.loads),
        "Kafka is complete since": f"{replay.complete_since:%Y-%m-%d %H:%M}" if replay.complete_since else "its start",
    }
