"""Deployment process-deferred-webhooks. CXone webhooks set aside: published once proven, in the end dead letters."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import show_table
from streaming.settings import load_settings
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.deferred import TenantReport, process_deferred

DEFERRED = "ccaas.webhooks.deferred"
"""Event raised when webhooks were never proven: somebody sent what the vendor does not know."""


@flow(name="process-deferred-webhooks")
def process_deferred_webhooks(max_seconds: int = 240) -> dict[str, int]:
    """Look at every deferred webhook once. Receivers may run; two runs at once are safe.

    A proven one verifies under newer keys, or the vendor's REST API confirms it. One that does neither within the
    tenant's ``deferred_limit_hours`` becomes a dead letter, and the event ``ccaas.webhooks.deferred`` is emitted, since
    somebody sent what the vendor does not know.

    Args:
        max_seconds: No further batch is begun after so long; the next run goes on.

    Returns:
        Webhook requests that are still set aside, by tenant.

    Raises:
        ServiceUnavailableError: a vendor's REST API, Kafka or the schema registry does not answer; the rows stay.
        ConfigurationError: a setting is wrong.
    """
    report = process_deferred(load_settings(), now=datetime.now(UTC), max_seconds=max_seconds)
    show_table("deferred-webhooks", [_for_people(tenant) for tenant in report.tenants])
    for tenant in report.tenants:
        if tenant.expired:
            emit_event(
                event=DEFERRED,
                resource={"prefect.resource.id": f"ccaas.tenant.{VENDOR}.{tenant.tenant_id}", ALERT_KEY: DEFERRED},
                payload={"dead_letters": tenant.expired, "waiting": tenant.waiting},
            )
    report.check()
    return {tenant.tenant_id: tenant.waiting for tenant in report.tenants}


def _for_people(tenant: TenantReport) -> dict[str, str | int]:
    return {
        "tenant": tenant.tenant_id,
        "verified": tenant.verified,
        "confirmed": tenant.confirmed,
        "expired (dead letters)": tenant.expired,
        "waiting": tenant.waiting,
        "events published": tenant.events,
        "trouble": str(tenant.error or "none"),
    }
