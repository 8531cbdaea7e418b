"""The CXone tenants of the settings, and a tenant's REST access."""

from __future__ import annotations

import httpx

from streaming.errors import ConfigurationError
from streaming.oauth import TokenSource
from streaming.rest import ATTEMPTS, RestClient
from streaming.settings import Settings, Tenant, config_file
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection


def cxone_tenants(settings: Settings, tenant_id: str | None = None) -> tuple[Tenant, ...]:
    """All CXone tenants, or the one of this id.

    Raises:
        ConfigurationError: there is none.
    """
    tenants = settings.tenants_of(VENDOR)
    chosen = tuple(tenant for tenant in tenants if tenant_id in {None, tenant.tenant_id})
    if not chosen:
        wanted = "none" if tenant_id is None else f"no {tenant_id!r}"
        known = ", ".join(tenant.tenant_id for tenant in tenants) or "no others either"
        msg = f"{config_file()}: tenants: {wanted} of vendor {VENDOR!r}; there are {known}"
        raise ConfigurationError(msg)
    return chosen


def rest_client(http: httpx.AsyncClient, connection: CxoneConnection, *, attempts: int = ATTEMPTS) -> RestClient:
    """REST calls of one tenant: its token and its rate limit.

    Args:
        http: Pool for token and REST calls.
        connection: The tenant's.
        attempts: Of one call.
    """
    tokens = TokenSource(
        http,
        token_url=connection.token_url,
        client_id=connection.client_id,
        client_secret=connection.client_secret.get_secret_value(),
    )
    return RestClient(http, tokens, requests_per_minute=connection.rest_requests_per_minute, attempts=attempts)
