"""The vendor's signing keys: fetched at the start, every 24 h, and when a signature names an unknown one."""

from __future__ import annotations

import asyncio
import time

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from streaming.vendors.cxone.signature import JwsVerifier

log = structlog.get_logger()

_REFRESH_S = 24 * 3600.0
_RETRY_S = 15.0


class KeyFetcher:
    """Keeps one tenant's verifier supplied with the current keys.

    If the endpoint fails or gives no usable key, the keys at hand stay in force.

    Args:
        http: Client.
        tenant_id: For the log.
        url: JWK Set (RFC 7517).
        verifier: Gets the keys.
        at_most_every: Seconds between fetches that unknown keys cause.
    """

    def __init__(
        self, http: httpx.AsyncClient, tenant_id: str, url: str, verifier: JwsVerifier, *, at_most_every: float
    ) -> None:
        self._http = http
        self._url = url
        self._verifier = verifier
        self._at_most_every = at_most_every
        self._begun = -at_most_every
        self._task: asyncio.Task[bool] | None = None
        self._good = False
        self._log = log.bind(tenant_id=tenant_id, url=url)

    async def run(self) -> None:
        """Fetch on schedule, for ever; soon again after a failure."""
        while True:
            await self._begin()
            await asyncio.sleep(_REFRESH_S if self._good else _RETRY_S)

    async def fetch_within(self, seconds: float) -> bool:
        """Fetch now, unless that was done a moment ago, and wait for it so long; it goes on if it takes longer.

        Requests that come together share one fetch.

        Returns:
            Whether the keys may have changed.
        """
        if self._task is None or self._task.done():
            pause = self._at_most_every if self._good else 1.0
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
        self._good = await self._fetched()
        return self._good

    async def _fetched(self) -> bool:
        try:
            response = await self._http.get(self._url)
            response.raise_for_status()
            keys = KeySet.import_key_set(response.json())
        except (httpx.HTTPError, JoseError, ValueError, KeyError, TypeError) as error:
            self._log.warning("signing keys not fetched; those at hand stay in force", error=type(error).__name__)
            return False
        if not any(key.kid for key in keys.keys):
            self._log.warning("the vendor gives no key with an id; those at hand stay in force")
            return False
        self._log.info("signing keys fetched", usable=self._verifier.use_keys(keys))
        return True
