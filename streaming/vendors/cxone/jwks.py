"""The vendor's key set (RFC 7517): fetched within bounds, and what of it can verify a signature here."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from streaming.errors import ServiceUnavailableError
from streaming.vendors.cxone.signature import ALGORITHMS, MAX_KEYS, PublicKey, fits

log = structlog.get_logger()

_MAX_BYTES = 256 * 1024
_FETCH_TIMEOUT_S = 10.0
# NIST SP 800-131A wants at least 2,048 bits; far above that a single verification takes too long.
_RSA_BITS = range(2_048, 8_193)
_MAX_KID_CHARS = 256


async def fetch_keys(http: httpx.AsyncClient, url: str) -> list[PublicKey]:
    """The usable keys that the endpoint gives now; at least one.

    No redirect is followed, at most 256 KiB are read, and 10 s are waited in all.

    Args:
        http: Client.
        url: JWK Set.

    Raises:
        ServiceUnavailableError: it does not answer, or gives nothing usable. Keys at hand stay in force.
    """
    try:
        async with asyncio.timeout(_FETCH_TIMEOUT_S):
            body = await _read(http, url)
        keys = usable_keys(orjson.loads(body))
    except (httpx.HTTPError, TimeoutError) as error:
        msg = f"key endpoint {url}: {type(error).__name__}"
        raise ServiceUnavailableError(msg) from None
    except ValueError as error:
        msg = f"key endpoint {url}: {error}"
        raise ServiceUnavailableError(msg) from None
    if not keys:
        msg = f"key endpoint {url}: none of its keys can verify {' or '.join(ALGORITHMS)}"
        raise ServiceUnavailableError(msg)
    return keys


async def _read(http: httpx.AsyncClient, url: str) -> bytes:
    # Uncompressed: a few bytes of gzip could become hundreds of MB.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with http.stream("GET", url, headers=headers, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK or "content-encoding" in response.headers:
            msg = f"answers {response.status_code} {response.headers.get('content-encoding', '')}".rstrip()
            raise ValueError(msg)
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_BYTES:
                msg = f"gives more than {_MAX_BYTES} bytes"
                raise ValueError(msg)
        return bytes(body)


def usable_keys(document: Any) -> list[PublicKey]:
    """The keys of a JWK Set that can verify a signature here; the others are left out with a line in the log.

    Left out are symmetric keys and unknown types, RSA outside 2,048 to 8,192 bits, keys for another algorithm or use,
    and whatever can't be read. Private parts are dropped. A key without an id, or with one that came before, has its
    thumbprint (RFC 7638) as id.

    Raises:
        ValueError: the document is no key set.
    """
    if not isinstance(document, dict) or not isinstance(entries := document.get("keys"), list):
        msg = "no JSON object with a list of keys"
        raise ValueError(msg)  # noqa: TRY004 (what the vendor says is no mistake of the caller's)
    found: dict[str, PublicKey] = {}
    for number, entry in enumerate(entries):
        try:
            key = _key(entry)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("a key of the vendor's is not usable", number=number, reason=f"{type(error).__name__}: {error}")
            continue
        if len(found) == MAX_KEYS:
            log.warning("the vendor gives more keys than are used", given=len(entries), used=MAX_KEYS)
            break
        kid = str(key.kid)
        found.setdefault(kid if kid not in found else key.thumbprint(), key)
    return [key if key.kid == kid else _renamed(key, kid) for kid, key in found.items()]


def public_jwk(key: PublicKey) -> dict[str, Any]:
    """A key as JSON, without private parts."""
    return dict(key.as_dict(private=False))


def _key(entry: Any) -> PublicKey:
    """One entry as a public key.

    Raises:
        JoseError, ValueError, TypeError, KeyError, AttributeError: it is unusable.
    """
    if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC"}:
        msg = "its kty is neither RSA nor EC"
        raise ValueError(msg)
    if entry["kty"] == "RSA" and isinstance(entry.get("n"), str) and len(entry["n"]) * 6 < _RSA_BITS.start:
        msg = f"RSA of less than {_RSA_BITS.start} bits"
        raise ValueError(msg)
    given = JWKRegistry.import_key(entry)
    key = JWKRegistry.import_key(given.as_dict(private=False))
    if not isinstance(key, RSAKey | ECKey) or not any(fits(key, algorithm) for algorithm in ALGORITHMS):
        msg = f"neither for {' nor for '.join(ALGORITHMS)}"
        raise ValueError(msg)
    if isinstance(key, RSAKey) and key.public_key.key_size not in _RSA_BITS:
        msg = f"RSA of {key.public_key.key_size} bits"
        raise ValueError(msg)
    if not key.kid:
        return _renamed(key, key.thumbprint())
    if len(key.kid) > _MAX_KID_CHARS:
        msg = f"its kid has more than {_MAX_KID_CHARS} characters"
        raise ValueError(msg)
    return key


def _renamed(key: PublicKey, kid: str) -> PublicKey:
    renamed = JWKRegistry.import_key({**public_jwk(key), "kid": kid})
    assert isinstance(renamed, RSAKey | ECKey)  # it was one  # noqa: S101
    return renamed
