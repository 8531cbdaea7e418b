"""The vendor's signing keys: fetched at the start, every 24 h, and when a signature names an unknown one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx
import structlog

from streaming.errors import ServiceUnavailableError
from streaming.settings import Settings, Tenant
from streaming.vendors import connection_of
from streaming.vendors.cxone.connection import CxoneConnection
from streaming.vendors.cxone.jwks import fetch_keys
from streaming.vendors.cxone.keystore import LOOK_S, KeyStore, StoredKeys
from streaming.vendors.cxone.signature import JwsVerifier, PublicKey

log = structlog.get_logger()

_REFRESH_S = 24 * 3600.0
_RETRY_S = 15.0
# Without a usable key everything is set aside, so fetches that unknown ids cause may then come so often.
_WITHOUT_KEYS_S = 1.0
DEFAULT_TTL_S = 72 * 3600.0
_AT_ONCE = 16


class KeyFetcher:
    """Keeps one tenant's verifier supplied with the current keys.

    If the endpoint fails or gives no usable key, the keys at hand stay in force until they are ``ttl`` old. A key that
    the vendor no longer gives is gone with the next fetch. With a store, what another process fetched is in force here
    within ``LOOK_S``, and the first keys come from there.

    Args:
        http: Client.
        tenant_id: Whose keys.
        url: JWK Set (RFC 7517).
        verifier: Gets the keys.
        at_most_every: Seconds between fetches that unknown keys cause.
        ttl: Seconds after which keys that could not be fetched anew verify nothing any more.
        store: Shared with other processes.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        tenant_id: str,
        url: str,
        verifier: JwsVerifier,
        *,
        at_most_every: float,
        ttl: float = DEFAULT_TTL_S,
        store: KeyStore | None = None,
    ) -> None:
        self._http = http
        self._tenant_id = tenant_id
        self._url = url
        self._verifier = verifier
        self._at_most_every = at_most_every
        self._ttl = ttl
        self._store = store
        self._fetched_at = 0.0  # of the keys in force, epoch s
        self._begun = -at_most_every
        self._task: asyncio.Task[bool] | None = None
        self._storing: asyncio.Task[bool] | None = None
        self._log = log.bind(tenant_id=tenant_id, url=url)

    async def run(self) -> None:
        """Fetch on schedule, for ever; soon again after a failure. Look into the store meanwhile."""
        await self._look()
        due = 0.0
        while True:
            if time.time() >= due:
                good = await self._begin()
                due = time.time() + (_REFRESH_S if good else _RETRY_S)
            await asyncio.sleep(min(LOOK_S, max(due - time.time(), 0)))
            if await self._look():
                due = max(due, self._fetched_at + _REFRESH_S)

    async def fetch_within(self, seconds: float) -> bool:
        """Fetch now, unless that was done a moment ago, and wait for it so long; it goes on if it takes longer.

        Requests that come together share one fetch.

        Returns:
            Whether the keys may have changed.
        """
        if self._task is None or self._task.done():
            has_keys = time.time() <= self._fetched_at + self._ttl
            pause = self._at_most_every if has_keys else min(self._at_most_every, _WITHOUT_KEYS_S)
            if time.monotonic() - self._begun < pause:
                return False
        try:
            return await asyncio.wait_for(asyncio.shield(self._begin()), seconds)
        except TimeoutError:
            return False

    def _begin(self) -> asyncio.Task[bool]:
        if self._task is None or self._task.done():
            self._begun = time.monotonic()
            self._task = asyncio.create_task(self._fetch())
        return self._task

    async def _fetch(self) -> bool:
        try:
            keys = await fetch_keys(self._http, self._url)
        except ServiceUnavailableError as error:
            left = self._fetched_at + self._ttl - time.time()
            self._log.warning("signing keys not fetched", error=str(error), those_at_hand_count_for_s=max(0, int(left)))
            return False
        fetched_at = time.time()
        self._use(StoredKeys(keys, fetched_at), "vendor")
        if self._store is not None:
            # Not waited for: whoever waits for the keys has them.
            self._storing = asyncio.create_task(self._store.write(self._tenant_id, keys, fetched_at))
        return True

    async def _look(self) -> bool:
        """Take over what another process fetched since; whether there was anything."""
        found = None if self._store is None else await self._store.newer(self._tenant_id, self._fetched_at)
        if found is None:
            return False
        self._use(found, "state database")
        return True

    def _use(self, found: StoredKeys, source: str) -> None:
        self._fetched_at = found.fetched_at
        self._verifier.use_keys(found.keys, good_until=found.fetched_at + self._ttl)
        self._log.info("signing keys in force", source=source, kids=[key.kid for key in found.keys])


class Refreshed(NamedTuple):
    """A tenant's keys after a refresh.

    Attributes:
        tenant_id: Whose.
        kids: Ids of the keys now stored.
        error: Why they were not fetched; then ``kids`` are those fetched before.
    """

    tenant_id: str
    kids: tuple[str, ...]
    error: str | None


async def refresh_keys(settings: Settings, tenants: Sequence[Tenant]) -> list[Refreshed]:
    """Fetch the keys of tenants with JWS signatures and store them, where receivers find them within seconds.

    A tenant whose endpoint fails harms no other and keeps what is stored.

    Args:
        settings: The platform's.
        tenants: CXone tenants; those with another signature scheme are passed over.
    """
    store, turn = KeyStore(settings.state_url), asyncio.Semaphore(_AT_ONCE)
    urls = [(tenant, connection.jwks_url) for tenant in tenants if (connection := _jws_connection(tenant))]
    async with httpx.AsyncClient(timeout=5) as http:

        async def refresh(tenant: Tenant, url: str) -> Refreshed:
            async with turn:
                keys, error = await current_keys(http, tenant, url, store)
            return Refreshed(tenant.tenant_id, tuple(str(key.kid) for key in keys.keys), error)

        try:
            return await asyncio.gather(*(refresh(tenant, url) for tenant, url in urls if url is not None))
        finally:
            store.close()


def _jws_connection(tenant: Tenant) -> CxoneConnection | None:
    connection = connection_of(tenant, CxoneConnection)
    return connection if connection.signature == "jws" else None


async def current_keys(
    http: httpx.AsyncClient, tenant: Tenant, url: str, store: KeyStore
) -> tuple[StoredKeys, str | None]:
    """A tenant's keys from the vendor, which are then stored; else those stored, and why.

    Args:
        http: Client.
        tenant: Whose.
        url: JWK Set.
        store: Where they go.
    """
    try:
        keys: list[PublicKey] = await fetch_keys(http, url)
    except ServiceUnavailableError as error:
        return await store.newer(tenant.tenant_id, 0) or StoredKeys([], 0.0), str(error)
    fetched = StoredKeys(keys, time.time())
    is_stored = await store.write(tenant.tenant_id, keys, fetched.fetched_at)
    return fetched, None if is_stored else "fetched, but the state database did not take them; see the log"
