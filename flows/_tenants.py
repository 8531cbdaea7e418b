"""What the recovery flows share: work for each tenant, whatever becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streaming.settings import Tenant

T = TypeVar("T")
RunLogger = logging.Logger | logging.LoggerAdapter[logging.Logger]

# Tenants at once: most of the work waits for the vendor and for Kafka. Each takes some 100 MB.
_AT_ONCE = 4


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
                logger.error("%s: %s", tenant.tenant_id, error)
                failures.append(f"{tenant.tenant_id}: {error or type(error).__name__}")
    return results, failures
