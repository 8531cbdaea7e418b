"""Deployment cxone-refresh-keys. The vendor's signing keys into the state database, where receivers find them."""

from __future__ import annotations

import asyncio

from prefect import flow

from flows._load import retry_while_down, show_table
from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings, Tenant, load_settings
from streaming.vendors.cxone.access import cxone_tenants
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.keys import refresh_keys


@flow(name="cxone-refresh-keys")
def cxone_refresh_keys(tenant: str | None = None) -> int:
    """Fetch the keys of CXone tenants with JWS signatures. Receivers use them within seconds, without a restart.

    Args:
        tenant: Only this one. Empty: all; without any there is nothing to do.

    Returns:
        Tenants whose keys were fetched.

    Raises:
        ConfigurationError: no such tenant.
        ServiceUnavailableError: an endpoint gave no usable keys; those stored count until their time is over.
    """
    settings = load_settings()
    return _refresh(settings, cxone_tenants(settings, tenant) if tenant else settings.tenants_of(VENDOR))


@retry_while_down
def _refresh(settings: Settings, tenants: tuple[Tenant, ...]) -> int:
    refreshed = asyncio.run(refresh_keys(settings, tenants)) if tenants else []
    rows = [
        {"tenant": done.tenant_id, "keys": ", ".join(done.kids) or "none", "fetched": done.error or "yes"}
        for done in refreshed
    ]
    show_table("cxone-keys", rows)
    failed = [f"{done.tenant_id}: {done.error}" for done in refreshed if done.error is not None]
    if failed:
        raise ServiceUnavailableError("; ".join(failed))
    return len(refreshed)
