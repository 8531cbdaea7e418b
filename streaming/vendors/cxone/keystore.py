"""The vendor's signing keys in the state database: what one process fetched, all have, also after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import orjson
import sqlalchemy as sa
import structlog

from streaming.errors import CcaasError
from streaming.state import open_state, signing_key
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.jwks import public_jwk, usable_keys
from streaming.vendors.cxone.signature import PublicKey

log = structlog.get_logger()
T = TypeVar("T")

LOOK_S = 5.0
"""All tenants' rows are read at most so often."""

_PATIENCE_S = 2.0


class StoredKeys(NamedTuple):
    """A tenant's keys, and when they were fetched from the vendor, epoch s."""

    keys: list[PublicKey]
    fetched_at: float


class _Rows(NamedTuple):
    """A tenant's keys as they lie in the table."""

    jwks: list[str]
    fetched_at: float


class KeyStore:
    """Table ``signing_key``. Never raises: without the database, keys are those that a process has in memory.

    The database is used from one thread of the store's own, so that a slow one delays nothing else. Keys are public;
    whoever may write the table decides which signatures count.

    Args:
        url: SQLAlchemy URL of the state database. It is opened at the first use, and again after a failure.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: sa.Engine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="key-store")
        self._rows: dict[str, _Rows] = {}
        self._looked = 0.0
        self._looking: asyncio.Future[bool | None] | None = None

    async def newer(self, tenant_id: str, than: float) -> StoredKeys | None:
        """A tenant's keys, if they were fetched after ``than`` (epoch s); as of at most ``LOOK_S`` ago."""
        if self._looking is None or (self._looking.done() and time.monotonic() - self._looked >= LOOK_S):
            self._looked = time.monotonic()
            self._looking = asyncio.ensure_future(self._in_thread(self._look))
        # Not longer: the vendor is asked meanwhile. What the database says later is found at the next look.
        await asyncio.wait([self._looking], timeout=_PATIENCE_S)
        rows = self._rows.get(tenant_id)
        if rows is None or rows.fetched_at <= than:
            return None
        keys = usable_keys({"keys": [_parsed(jwk) for jwk in rows.jwks]})
        return StoredKeys(keys, rows.fetched_at) if keys else None

    async def write(self, tenant_id: str, keys: Sequence[PublicKey], fetched_at: float) -> bool:
        """Replace a tenant's keys, unless they were fetched later; those that the vendor no longer gives are gone.

        Returns:
            Whether these or newer ones are stored.
        """
        return await self._in_thread(lambda: self._replace(tenant_id, keys, fetched_at)) is not None

    def close(self) -> None:
        """Let go of the database."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            self._engine.dispose()

    async def _in_thread(self, work: Callable[[], T]) -> T | None:
        """The work's result, None if the database failed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (CcaasError, sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("state database: signing keys neither read nor stored; those in memory count", error=str(error))
            return None

    def _look(self) -> bool:
        newest_first = (
            sa.select(signing_key.c.tenant_id, signing_key.c.jwk, signing_key.c.fetched_at)
            .where(signing_key.c.vendor == VENDOR)
            .order_by(signing_key.c.fetched_at.desc())
        )
        rows: dict[str, _Rows] = {}
        with self._open().connect() as connection:
            for tenant_id, jwk, fetched_at in connection.execute(newest_first):
                # Of two fetches that were stored at the same moment the newer counts.
                if (kept := rows.setdefault(tenant_id, _Rows([], fetched_at))).fetched_at == fetched_at:
                    kept.jwks.append(jwk)
        self._rows = rows
        return True

    def _replace(self, tenant_id: str, keys: Sequence[PublicKey], fetched_at: float) -> bool:
        jwks = {str(key.kid): orjson.dumps(public_jwk(key)).decode() for key in keys}
        rows = [
            {"vendor": VENDOR, "tenant_id": tenant_id, "kid": kid, "jwk": jwk, "fetched_at": fetched_at}
            for kid, jwk in jwks.items()
        ]
        of_tenant = (signing_key.c.vendor == VENDOR, signing_key.c.tenant_id == tenant_id)
        try:
            with self._open().begin() as connection:
                connection.execute(sa.delete(signing_key).where(*of_tenant, signing_key.c.fetched_at < fetched_at))
                if connection.scalar(sa.select(sa.exists().where(*of_tenant))):
                    return True  # a slow fetch must not bring back what a later one no longer found
                connection.execute(sa.insert(signing_key), rows)
        except sa.exc.IntegrityError:
            log.info("another process stored the same keys at this moment", tenant_id=tenant_id)
        self._rows = {**self._rows, tenant_id: _Rows(list(jwks.values()), fetched_at)}
        return True

    def _open(self) -> sa.Engine:
        if self._engine is None:
            self._engine = open_state(self._url)
        return self._engine


def _parsed(jwk: str) -> Any:
    """A stored key; None, which is no key, if somebody damaged it."""
    try:
        return orjson.loads(jwk)
    except orjson.JSONDecodeError:
        return None
