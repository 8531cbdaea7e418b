"""Deployment cxone-register. The webhook registrations at CXone, after a change of address or token."""

from __future__ import annotations

from prefect import flow

from flows._load import show_table
from streaming.errors import CcaasError
from streaming.settings import load_settings
from streaming.vendors.cxone.access import cxone_tenants
from streaming.vendors.cxone.registration import register_webhooks


@flow(name="cxone-register")
def cxone_register(tenant: str | None = None) -> dict[str, str]:
    """Create or update each tenant's registration, with its first token.

    Args:
        tenant: Only this one. Empty: all CXone tenants.

    Returns:
        What changed, by tenant.

    Raises:
        CcaasError: a tenant could not be registered, or is registered several times; the others were done.
    """
    done = register_webhooks(cxone_tenants(load_settings(), tenant))
    rows = [
        {
            "tenant": item.tenant_id,
            "url": item.url,
            "registration": item.outcome.value,
            "tokens accepted": item.tokens,
            "to do": item.advice or "nothing",
        }
        for item in done
    ]
    show_table("cxone-registrations", rows)
    wrong = [f"{item.tenant_id}: {item.advice}" for item in done if item.error is not None or item.twins]
    if wrong:
        raise CcaasError("; ".join(wrong))
    return {item.tenant_id: item.outcome.value for item in done}
