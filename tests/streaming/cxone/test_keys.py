"""Key sets over real HTTP, and their way through the state database."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import tenacity

from devstack.postgres import temporary_postgres
from flows import cxone_refresh_keys as flow_module
from streaming.errors import ConfigurationError, ServiceUnavailableError, UntrustedError
from streaming.settings import Settings, Tenant
from streaming.state import metadata, open_state, signing_key
from streaming.vendors.cxone import keystore
from streaming.vendors.cxone.jwks import fetch_keys, usable_keys
from streaming.vendors.cxone.keys import KeyFetcher, refresh_keys
from streaming.vendors.cxone.keystore import KeyStore
from streaming.vendors.cxone.signature import MAX_KEYS, JwsVerifier, UnknownKeyError
from tests.processes import HTTP, free_port, service, until
from tests.schemas.messages import cxone, raw
from tests.streaming.cxone.signing import KeyServer, SigningKey, b64

BODY = b'{"eventType":"CALL_STARTED"}'
OLD, NEW, EC = SigningKey("old"), SigningKey("new"), SigningKey("ec", "ES256")
WEAK = SigningKey("weak", bits=1024)
DEAD = "http://127.0.0.1:1/jwks"


def kids(found: list[Any]) -> list[str]:
    return [key.kid for key in found]


def accepts(verifier: JwsVerifier, key: SigningKey) -> bool:
    try:
        verifier.check(key.sign(BODY)["X-CXone-Signature"].encode(), b"", BODY)
    except UntrustedError:
        return False
    return True


@pytest.fixture
def server() -> Iterator[KeyServer]:
    made = KeyServer()
    made.keys = [OLD.jwk()]
    yield made
    made.close()


@pytest.fixture
def state_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with temporary_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def either_url(request: pytest.FixtureRequest, state_url: str) -> Iterator[str]:
    url = state_url if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    yield url
    engine = open_state(url)
    metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.vendors.cxone.keys.LOOK_S", 0.02)
    monkeypatch.setattr(keystore, "LOOK_S", 0.01)


def test_what_is_unusable_is_left_out_and_the_rest_used() -> None:
    unusable: list[Any] = [
        {"kty": "oct", "kid": "o", "k": b64(b"secret" * 8)}, {"kty": "XYZ", "kid": "x"}, {"kid": "no kty"},
        {"kty": ["RSA"], "kid": "l"}, {"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": b64(b"x" * 32)},
        WEAK.jwk(), OLD.jwk() | {"n": b64(b"\xff" * 1_100)},
        OLD.jwk() | {"e": "AQ"}, OLD.jwk() | {"n": "!!"}, OLD.jwk() | {"n": 5}, OLD.jwk() | {"kid": 5},
        OLD.jwk() | {"kid": "k" * 300}, OLD.jwk() | {"alg": "XX999"}, OLD.jwk() | {"use": "enc"},
        OLD.jwk() | {"key_ops": ["sign"]}, EC.jwk() | {"y": EC.jwk()["x"]}, EC.jwk() | {"crv": "P-384"},
        {"kty": "EC", "crv": "P-384", "kid": "p", "x": b64(b"1" * 48), "y": b64(b"2" * 48)}, None, "key", 5, [],
    ]  # fmt: skip
    assert kids(usable_keys({"keys": [*unusable, OLD.jwk(), *unusable, EC.jwk()]})) == ["old", "ec"]
    assert usable_keys({"keys": unusable}) == []


def test_private_parts_are_dropped() -> None:
    numbers = OLD.key.private_numbers()
    parts = {
        name: b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        for name, number in (
            ("d", numbers.d), ("p", numbers.p), ("q", numbers.q), ("dp", numbers.dmp1), ("dq", numbers.dmq1),
            ("qi", numbers.iqmp),
        )
    }  # fmt: skip
    (key,) = usable_keys({"keys": [OLD.jwk() | parts]})
    assert not key.is_private
    assert "d" not in key.as_dict(private=False)


def test_keys_without_an_id_or_with_a_taken_one_have_their_thumbprint() -> None:
    anonymous = {name: value for name, value in NEW.jwk().items() if name != "kid"}
    found = kids(usable_keys({"keys": [OLD.jwk(), EC.jwk() | {"kid": "old"}, anonymous, anonymous]}))
    assert found[0] == "old"
    assert len(found) == 3
    assert all(len(kid) == 43 for kid in found[1:])


def test_their_number_is_bounded() -> None:
    assert len(usable_keys({"keys": [EC.jwk() | {"kid": f"k{number}"} for number in range(100)]})) == MAX_KEYS


@pytest.mark.parametrize(
    ("status", "headers", "raw", "says"),
    [
        (503, {}, None, "503"),
        (302, {"Location": "/auth/jwks"}, None, "302"),
        (200, {}, b'{"keys":[]}', "none of its keys"),
        (200, {}, b"[]", "no JSON object"),
        (200, {}, b'{"keys":{}}', "no JSON object"),
        (200, {}, b"<html>", "unexpected"),
        (200, {}, b"\xff", "UTF-8"),
        (200, {}, b"[" * 2000, "recursion|depth|unexpected"),
        (200, {}, b" " * 300_000, "262144 bytes"),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 9_000_000), "gzip"),
        (200, {}, json.dumps({"keys": [OLD.jwk() | {"alg": "XX999"}]}).encode(), "none of its keys"),
    ],
)
def test_an_endpoint_that_gives_nothing_usable(
    server: KeyServer, status: int, headers: dict[str, str], raw: bytes | None, says: str
) -> None:
    server.status, server.headers, server.raw = status, headers, raw

    async def fetch() -> None:
        async with httpx.AsyncClient(follow_redirects=True) as http:
            await fetch_keys(http, server.url)

    with pytest.raises(ServiceUnavailableError, match=says):
        asyncio.run(fetch())
    assert server.requests == 1


@contextlib.asynccontextmanager
async def running(
    url: str, store: KeyStore | None = None, ttl: float = 3600, at_most_every: float = 0
) -> AsyncIterator[tuple[KeyFetcher, JwsVerifier]]:
    """A receiver's fetcher at work."""
    verifier = JwsVerifier(300)
    async with httpx.AsyncClient(timeout=5) as http:
        fetcher = KeyFetcher(http, "south", url, verifier, at_most_every=at_most_every, ttl=ttl, store=store)
        task = asyncio.create_task(fetcher.run())
        try:
            yield fetcher, verifier
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if store is not None:
                store.close()


async def becomes(verifier: JwsVerifier, key: SigningKey, *, accepted: bool = True) -> None:
    async with asyncio.timeout(10):
        while accepts(verifier, key) is not accepted:
            await asyncio.sleep(0.01)


def test_a_failing_endpoint_leaves_the_keys_in_force(server: KeyServer) -> None:
    async def scenario() -> None:
        async with running(server.url) as (fetcher, verifier):
            await becomes(verifier, OLD)
            for answer in (b'{"keys":[]}', b'{"keys":[{"kty":"oct","kid":"old","k":"c2VjcmV0"}]}', b"nonsense"):
                server.raw = answer
                assert not await fetcher.fetch_within(5)
                assert accepts(verifier, OLD)

    asyncio.run(scenario())


def test_keys_that_are_not_fetched_anew_expire(server: KeyServer) -> None:
    async def scenario() -> None:
        async with running(server.url, ttl=1) as (fetcher, verifier):
            assert await fetcher.fetch_within(5)
            assert accepts(verifier, OLD)
            server.status = 503
            await becomes(verifier, OLD, accepted=False)
            server.status = 200
            assert await fetcher.fetch_within(5)
            assert accepts(verifier, OLD)

    asyncio.run(scenario())


def test_a_key_that_the_vendor_no_longer_gives_is_gone(server: KeyServer) -> None:
    async def scenario() -> None:
        async with running(server.url) as (fetcher, verifier):
            await becomes(verifier, OLD)
            server.keys = [OLD.jwk(), NEW.jwk()]
            assert await fetcher.fetch_within(5)
            assert accepts(verifier, OLD)
            assert accepts(verifier, NEW)
            server.keys = [NEW.jwk()]
            assert await fetcher.fetch_within(5)
            assert not accepts(verifier, OLD)
            assert accepts(verifier, NEW)

    asyncio.run(scenario())


def test_unknown_ids_cause_few_fetches_and_share_one(server: KeyServer) -> None:
    async def scenario() -> None:
        async with running(server.url, at_most_every=60) as (fetcher, verifier):
            await becomes(verifier, OLD)
            assert not any(await asyncio.gather(*(fetcher.fetch_within(5) for _ in range(100))))
            server.status = 503  # a failure does not open the gate either
            assert not await fetcher.fetch_within(5)
        assert server.requests == 1
        server.status = 200
        async with running(server.url) as (fetcher, verifier):
            assert all(await asyncio.gather(*(fetcher.fetch_within(5) for _ in range(100))))
        assert server.requests <= 3

    asyncio.run(scenario())


@pytest.mark.usefixtures("looks_often")
def test_a_receiver_starts_from_the_store_when_the_endpoint_is_down(server: KeyServer, state_url: str) -> None:
    async def scenario() -> None:
        async with running(server.url, KeyStore(state_url)) as (_, verifier):
            await becomes(verifier, OLD)
            async with asyncio.timeout(10):
                while not stored(state_url):
                    await asyncio.sleep(0.01)
        async with running(DEAD, KeyStore(state_url)) as (_, verifier):
            await becomes(verifier, OLD)
        async with running(DEAD, KeyStore(state_url), ttl=0.001) as (_, verifier):
            await asyncio.sleep(0.5)
            assert not accepts(verifier, OLD), "too old, wherever they come from"

    asyncio.run(scenario())


def stored(url: str) -> dict[str, Any]:
    engine = open_state(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(signing_key.c.kid, signing_key.c.jwk)).all()
    engine.dispose()
    return {row.kid: json.loads(row.jwk) for row in rows}


def settings_for(state_url: str, *urls: str) -> Settings:
    connection = {
        "token_url": "http://127.0.0.1:1/t", "api_url": "http://127.0.0.1:1", "client_id": "i", "client_secret": "s",
        "webhook_tokens": ["token-of-16-chars"],
    }  # fmt: skip
    names = ["south", "west", "east"][: len(urls)]
    tenants = [
        Tenant(tenant_id=name, vendor="cxone", connection=connection | {"jwks_url": url})
        for name, url in zip(names, urls, strict=True)
    ]
    mac = {"signature": "hmac", "hmac_secret": "hmac-secret-0001", "jwks_url": DEAD}
    tenants.append(Tenant(tenant_id="mac", vendor="cxone", connection=connection | mac))
    return Settings(state={"url": state_url}, tenants=tuple(tenants))


@pytest.mark.usefixtures("looks_often")
def test_a_refresh_by_the_flow_reaches_a_running_receiver(server: KeyServer, state_url: str) -> None:
    async def scenario() -> None:
        # The receiver's own fetches are not due for 24 h, nor does anything ask for them.
        async with running(server.url, KeyStore(state_url), at_most_every=3600) as (_, verifier):
            await becomes(verifier, OLD)
            server.keys = [NEW.jwk(), WEAK.jwk()]
            settings = settings_for(state_url, server.url)
            (done,) = await refresh_keys(settings, settings.tenants)
            assert (done.tenant_id, done.kids, done.error) == ("south", ("new",), None)
            await becomes(verifier, NEW)
            assert not accepts(verifier, OLD)

    asyncio.run(scenario())
    assert stored(state_url) == {"new": NEW.jwk()}


def test_one_tenants_dead_endpoint_harms_no_other_and_keeps_what_is_stored(server: KeyServer, state_url: str) -> None:
    both = settings_for(state_url, server.url, server.url)
    assert [done.error for done in asyncio.run(refresh_keys(both, both.tenants))] == [None, None]
    one_dead = settings_for(state_url, DEAD, server.url)
    server.keys = [NEW.jwk()]
    south, west = asyncio.run(refresh_keys(one_dead, one_dead.tenants))
    assert (south.kids, "ConnectError" in (south.error or "")) == (("old",), True)
    assert (west.kids, west.error) == (("new",), None)


@pytest.mark.usefixtures("looks_often")
def test_without_the_state_database_keys_in_memory_stay_in_force(server: KeyServer, tmp_path: Path) -> None:
    folder = tmp_path / "state.db"
    folder.mkdir()  # no database can be opened here
    url = f"sqlite:///{folder}"

    async def scenario() -> None:
        async with running(server.url, KeyStore(url)) as (fetcher, verifier):
            await becomes(verifier, OLD)
            server.keys = [NEW.jwk()]
            assert await fetcher.fetch_within(5)
            assert accepts(verifier, NEW)

    asyncio.run(scenario())
    settings = settings_for(url, server.url)
    (done,) = asyncio.run(refresh_keys(settings, settings.tenants))
    assert "did not take them" in (done.error or "")


@pytest.mark.usefixtures("looks_often")
def test_the_newest_of_two_fetches_counts_and_damaged_rows_do_not(either_url: str) -> None:
    async def scenario() -> None:
        store, other = KeyStore(either_url), KeyStore(either_url)
        now = time.time()
        await store.write("south", usable_keys({"keys": [OLD.jwk()]}), now - 10)
        await store.write("west", usable_keys({"keys": [EC.jwk()]}), now - 10)
        engine = open_state(either_url)
        rows = [("new", json.dumps(NEW.jwk())), ("bad", json.dumps({"kty": "RSA"})), ("worse", "{")]
        with engine.begin() as connection:
            connection.execute(
                sa.insert(signing_key),
                [
                    {"vendor": "cxone", "tenant_id": "south", "kid": kid, "jwk": jwk, "fetched_at": now}
                    for kid, jwk in rows
                ],
            )
        found = await other.newer("south", 0)
        assert found is not None
        assert (kids(found.keys), found.fetched_at) == (["new"], now)
        assert await other.newer("south", now) is None
        assert await other.newer("east", 0) is None
        assert await store.write("south", usable_keys({"keys": [EC.jwk(), NEW.jwk()]}), now + 1)
        assert stored(either_url).keys() == {"ec", "new"}
        await asyncio.sleep(0.05)
        found = await other.newer("south", now)
        assert found is not None
        assert sorted(kids(found.keys)) == ["ec", "new"]
        with engine.begin() as connection:
            connection.execute(sa.update(signing_key).values(jwk="{", fetched_at=now + 2))
        await asyncio.sleep(0.05)
        assert await other.newer("south", now + 1) is None, "no keys replace none"
        for opened in (store, other):
            opened.close()
        engine.dispose()

    asyncio.run(scenario())


async def test_a_slow_fetch_does_not_replace_what_a_later_one_stored(either_url: str) -> None:
    store = KeyStore(either_url)
    now = time.time()
    assert await store.write("south", usable_keys({"keys": [NEW.jwk()]}), now)
    assert await store.write("south", usable_keys({"keys": [OLD.jwk(), NEW.jwk()]}), now - 1)
    assert stored(either_url).keys() == {"new"}
    found = await store.newer("south", 0)
    assert found is not None
    assert (kids(found.keys), found.fetched_at) == (["new"], now)
    assert await store.write("south", usable_keys({"keys": [OLD.jwk()]}), now + 1)
    assert stored(either_url).keys() == {"old"}
    store.close()


@pytest.mark.parametrize("database", ["there", "down"])
def test_a_receiver_process_without_key_endpoint_or_without_database(
    server: KeyServer, tmp_path: Path, database: str
) -> None:
    """With the endpoint down it starts from the database; with the database down, from the endpoint."""
    state = tmp_path / "state.db"
    settings = settings_for(f"sqlite:///{state}", server.url)
    if database == "there":
        asyncio.run(refresh_keys(settings, settings.tenants))
        server.status = 503
    else:
        state.mkdir()
    port, config = free_port(), tmp_path / "ccaas.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[receiver]\nport = {port}\n[spool]\nmin_free_disk_bytes = 0\n'
        '[[tenants]]\ntenant_id = "south"\nvendor = "cxone"\n[tenants.connection]\n'
        'token_url = "http://127.0.0.1:1/t"\napi_url = "http://127.0.0.1:1"\nclient_id = "i"\nclient_secret = "s"\n'
        f'webhook_tokens = ["s3cret-of-16-chars"]\njwks_url = "{server.url}"\n',
        encoding="utf-8",
    )
    bearer = {"Authorization": "Bearer s3cret-of-16-chars", "Content-Type": "application/json"}
    body = raw(cxone("CALL_STARTED"))
    url = f"http://127.0.0.1:{port}/cxone/webhook/south"
    with service("cxone-receiver", config, port) as process:
        until(lambda: "signing keys in force" in process.log.read_text(), what="it has keys")
        assert HTTP.post(url, content=body, headers=bearer | OLD.sign(body)).json() == {"status": "accepted"}
        assert HTTP.post(url, content=body, headers=bearer | NEW.sign(body)).json() == {"status": "deferred"}


def test_the_flow_refreshes_all_and_fails_for_those_that_could_not(
    server: KeyServer, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(flow_module._refresh.retry, "wait", tenacity.wait_none())
    # Artifacts need a Prefect server.
    monkeypatch.setattr(flow_module, "show_table", lambda _key, rows: shown.extend(rows))
    monkeypatch.setattr(flow_module, "load_settings", Settings)
    assert flow_module.cxone_refresh_keys.fn() == 0, "without tenants there is nothing to do"
    monkeypatch.setattr(flow_module, "load_settings", lambda: settings_for(state_url, server.url))
    assert flow_module.cxone_refresh_keys.fn() == 1
    monkeypatch.setattr(flow_module, "load_settings", lambda: settings_for(state_url, DEAD, server.url))
    assert flow_module.cxone_refresh_keys.fn("west") == 1
    with pytest.raises(ServiceUnavailableError, match="south: key endpoint"):
        flow_module.cxone_refresh_keys.fn()
    assert [(row["tenant"], row["keys"]) for row in shown] == [
        ("south", "old"), ("west", "old"), *[("south", "old"), ("west", "old")] * 3,
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="there are south, west, mac"):
        flow_module.cxone_refresh_keys.fn("nobody")


def test_unknown_key_is_what_a_verifier_without_keys_says() -> None:
    with pytest.raises(UnknownKeyError):
        JwsVerifier(300).check(OLD.sign(BODY)["X-CXone-Signature"].encode(), b"", BODY)
