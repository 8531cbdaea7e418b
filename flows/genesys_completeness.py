"""Deployment genesys-completeness. Compares the bus with the vendor's REST API, and completes it."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import flow, get_run_logger
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, scheduled_time, window_of
from flows._tenants import for_each_tenant
from flows.genesys_backfill import show_backfill
from streaming.errors import CcaasError
from streaming.settings import load_settings
from streaming.vendors.genesys.backfill import backfill, genesys_tenant
from streaming.vendors.genesys.connection import VENDOR

MISSING = "ccaas.genesys.missing-above-threshold"
"""Event raised when more than the given share of a tenant's events was missing."""


@flow(name="genesys-completeness")
def genesys_completeness(
    tenant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    look_back_minutes: int = 120,
    settle_minutes: int = 15,
    alert_missing_share: float = 0.0,
) -> dict[str, int]:
    """Publish what REST knows of a window and the bus does not.

    Args:
        tenant: Tenant id; empty: all.
        start: Event time, UTC. Empty: the look-back before the scheduled time.
        end: Exclusive.
        look_back_minutes: Length of a scheduled run's window; windows overlap, so that one missed run costs nothing.
        settle_minutes: A scheduled run's window ends so long before its time: the vendor's analytics lag behind.
        alert_missing_share: Share of the expected events; with more missing the Prefect event
            ``ccaas.genesys.missing-above-threshold`` is emitted. A stream loses nothing, so by default one is enough.

    Returns:
        Missing events by tenant.

    Raises:
        CcaasError: a tenant's check failed; the others were done.
    """
    settings = load_settings()
    tenants = [genesys_tenant(settings, tenant)] if tenant else settings.tenants_of(VENDOR)
    window = window_of(start, end)
    until = window.end if window else scheduled_time() - timedelta(minutes=settle_minutes)
    since = window.start if window else until - timedelta(minutes=look_back_minutes)
    check = retry_while_down(backfill)
    reports, failed = for_each_tenant(tenants, lambda item: check(settings, item, since, until), get_run_logger())
    for report in reports:
        if report.missing_share > alert_missing_share:
            emit_event(
                event=MISSING,
                resource={"prefect.resource.id": f"ccaas.tenant.{VENDOR}.{report.tenant_id}", ALERT_KEY: MISSING},
                payload={
                    "start": since.isoformat(),
                    "end": until.isoformat(),
                    "missing": report.missing,
                    "share": report.missing_share,
                },
            )
    show_backfill("genesys-completeness", reports)
    if failed:
        msg = f"not checked: {'; '.join(failed)}"
        raise CcaasError(msg)
    return {report.tenant_id: sum(report.missing.values()) for report in reports}
