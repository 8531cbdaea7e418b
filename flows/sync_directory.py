"""Deployment sync-directory. What the vendors call their queues and agents, into `queues` and `agents`."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows._load import retry_while_down, run_id, show_table
from flows._tenants import chosen_tenants, for_each_tenant
from streaming.directory import read_directory
from streaming.errors import CcaasError
from streaming.settings import Tenant, load_settings
from warehouse.directory import DirectoryChange, merge_directory
from warehouse.engine import Warehouse
from warehouse.schema import open_warehouse


class DirectoryFailedError(CcaasError):
    """Some tenants' names could not be had; the others' are up to date."""


@flow(name="sync-directory")
def sync_directory(tenant: str | None = None, *, believe_empty: bool = False) -> dict[str, int]:
    """Take over the names of queues and agents. Idempotent; two runs at once are safe.

    Args:
        tenant: Only this tenant. Empty: all.
        believe_empty: Also if a vendor lists no queues, or no agents, where there were some: they become inactive.

    Returns:
        Queues and agents listed, by tenant.

    Raises:
        ConfigurationError: there is no such tenant.
        DirectoryFailedError: some tenants failed; it names them and why.
    """
    settings = load_settings()
    chosen = chosen_tenants(settings, tenant)
    with open_warehouse(settings) as warehouse:
        work = partial(_sync, warehouse, run_id=run_id(), believe_empty=believe_empty)
        changes, failures = for_each_tenant(chosen, work, get_run_logger())
    show_table("directory", [_for_people(change) for change in changes])
    if failures:
        msg = f"{len(failures)} of {len(chosen)} tenants not synchronised: " + "; ".join(failures)
        raise DirectoryFailedError(msg)
    return {f"{change.vendor}/{change.tenant_id}": change.queues + change.agents for change in changes}


@retry_while_down
def _sync(warehouse: Warehouse, tenant: Tenant, *, run_id: str, believe_empty: bool) -> DirectoryChange:
    directory = read_directory(tenant)
    return merge_directory(
        warehouse, tenant.vendor, tenant.tenant_id, directory, run_id=run_id, believe_empty=believe_empty
    )


def _for_people(change: DirectoryChange) -> dict[str, Any]:
    return {
        "vendor": change.vendor,
        "tenant": change.tenant_id,
        "queues listed": change.queues,
        "queues active before": change.active_queues[0],
        "queues active now": change.active_queues[1],
        "agents listed": change.agents,
        "agents active before": change.active_agents[0],
        "agents active now": change.active_agents[1],
    }
