"""What flows share that work tenant by tenant: which are meant, and work for each whatever becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streaming.errors import ConfigurationError
from streaming.settings import Settings, Tenant, config_file

T = TypeVar("T")
RunLogger = logging.Logger | logging.LoggerAdapter[logging.Logger]

# Tenants at once: most of the work waits for the vendor and for Kafka. Each takes some 100 MB.
_AT_ONCE = 4


def chosen_tenants(settings: Settings, tenant_id: str | None) -> list[Tenant]:
    """Tenants of that id, of whatever vendor; all if it is None.

    Raises:
        ConfigurationError: there is none; it names those that there are.
    """
    chosen = [tenant for tenant in settings.tenants if tenant_id in {None, tenant.tenant_id}]
    if tenant_id is not None and not chosen:
        known = ", ".join(name_of(tenant) for tenant in settings.tenants) or "none"
        msg = f"{config_file()}: tenants: no {tenant_id!r}; there are {known}"
        raise ConfigurationError(msg)
    return chosen


def name_of(tenant: Tenant) -> str:
    """``vendor/tenant_id``: two vendors may have a tenant of one id."""
    return f"{tenant.vendor}/{tenant.tenant_id}"


def for_each_tenant(
    tenants: Sequence[Tenant], work: Callable[[Tenant], T], logger: RunLogger
) -> tuple[list[T], list[str]]:
    """Do the work for every tenant, a few at a time; one tenant's failure harms no other.

    Returns:
        The results, and what is to be said of the tenants that failed.
    """
    results: list[T] = []
    failures: list[str] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [(tenant, pool.submit(work, tenant)) for tenant in tenants]
        for tenant, future in running:
            try:
                results.append(future.result())
            except Exception as error:  # noqa: BLE001 (whatever it was, the others go on; it is named at the end)
                logger.error("%s: %s", name_of(tenant), error)
                failures.append(f"{name_of(tenant)}: {error or type(error).__name__}")
    return results, failures
