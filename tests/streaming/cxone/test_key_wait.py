"""Requests that wait for keys, inside one receiver whose key endpoint the test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from streaming.settings import Settings, SpoolSettings, Tenant
from streaming.spool.writer import SpoolWriter
from streaming.vendors.cxone import receiver as receiver_module
from streaming.vendors.cxone.keys import KeyFetcher
from streaming.vendors.cxone.receiver import Receiver
from streaming.vendors.cxone.rsgi import HttpProtocol, Scope
from tests.schemas.messages import cxone, raw
from tests.streaming.cxone.signing import SigningKey

TOKEN = "s3cret-of-16-chars"
BODY = raw(cxone("CALL_STARTED"))
UNKNOWN = SigningKey("unknown", "ES256")


class Request:
    """One request, given to the application as Granian does."""

    def __init__(self) -> None:
        headers = {
            "authorization": f"Bearer {TOKEN}", "content-type": "application/json", "content-length": str(len(BODY)),
            "x-cxone-signature": UNKNOWN.sign(BODY)["X-CXone-Signature"],
        }  # fmt: skip
        of = SimpleNamespace(get=headers.get, get_all=lambda name: [headers[name]] if name in headers else [])
        self.scope = cast("Scope", SimpleNamespace(path="/cxone/webhook/south", method="POST", headers=of))
        self.status: dict[str, Any] | None = None

    async def __call__(self) -> bytes:
        return BODY

    def response_bytes(self, _status: int, _headers: Any, body: bytes) -> None:
        self.status = orjson.loads(body)


@asynccontextmanager
async def held_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Receiver, asyncio.Event]]:
    """A receiver whose fetches of keys end, in vain, when the event is set."""
    gate = asyncio.Event()

    async def fetch_within(_self: KeyFetcher, _seconds: float) -> bool:
        await gate.wait()
        return False

    monkeypatch.setattr(KeyFetcher, "fetch_within", fetch_within)
    connection = {
        "token_url": "http://127.0.0.1:1/t", "api_url": "http://127.0.0.1:1", "client_id": "i", "client_secret": "s",
        "webhook_tokens": [TOKEN], "jwks_url": "http://127.0.0.1:1/jwks",
    }  # fmt: skip
    spool = SpoolSettings(min_free_disk_bytes=0)
    tenants = (Tenant(tenant_id="south", vendor="cxone", connection=connection),)
    settings = Settings(data_dir=folder, spool=spool, tenants=tenants)
    writer = SpoolWriter(settings.spool_dir, spool)
    receiver = Receiver(settings, writer)
    try:
        yield receiver, gate
    finally:
        await receiver.close()
        writer.close()


@pytest.mark.parametrize(("bound", "most"), [("_MOST_WAITING", 3), ("_MOST_WAITING_BYTES", 3 * len(BODY))])
async def test_above_the_bound_nobody_waits_for_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(receiver_module, bound, most)
    async with held_up(tmp_path, monkeypatch) as (receiver, gate), asyncio.timeout(20):
        for _ in range(2):  # once they are answered there is room again
            gate.clear()
            requests = [Request() for _ in range(8)]
            tasks = [
                asyncio.create_task(receiver.__rsgi__(request.scope, cast("HttpProtocol", request)))
                for request in requests
            ]
            while sum(request.status is not None for request in requests) < 5:
                await asyncio.sleep(0.01)
            assert [request.status for request in requests] == [None] * 3 + [{"status": "deferred"}] * 5
            gate.set()
            await asyncio.gather(*tasks)
            assert all(request.status == {"status": "deferred"} for request in requests)
