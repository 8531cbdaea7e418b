"""``X-CXone-Signature``: detached JWS or HMAC over the raw body. Public docs define none: it is configuration."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Protocol

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from streaming.errors import UntrustedError

SIGNATURE_HEADER = b"x-cxone-signature"
TIMESTAMP_HEADER = b"x-cxone-timestamp"
_ALGORITHMS = ["RS256", "ES256"]
# Ours is the list of algorithms: none and HS256 are refused whatever the header says. Not strict: the vendor's header
# may hold parameters that RFC 7515 does not know, such as iat.
_REGISTRY = jws.JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)

Headers = Mapping[bytes, bytes]
PublicKey = RSAKey | ECKey


class UnknownKeyError(UntrustedError):
    """The signature names a key that is not among the current ones: fetch them again."""


class Verifier(Protocol):
    """Checks that a body comes from the vendor."""

    def verify(self, headers: Headers, body: bytes) -> None:
        """Return if the signature is good.

        Raises:
            UnknownKeyError: see there.
            UntrustedError: it is missing, wrong, or outside the replay window.
        """
        ...


class HmacVerifier:
    """``sha256=<hex>`` of HMAC-SHA256 over ``{timestamp}.{body}``, the time (epoch s) in ``X-CXone-Timestamp``.

    Args:
        secret: Shared with the vendor.
        window: Greatest age and lead of the time, s.
    """

    def __init__(self, secret: str, window: float) -> None:
        self._keyed = hmac.new(secret.encode(), digestmod=sha256)
        self._window = window

    def verify(self, headers: Headers, body: bytes) -> None:
        """See :class:`Verifier`."""
        signature, timestamp = headers.get(SIGNATURE_HEADER, b""), headers.get(TIMESTAMP_HEADER, b"")
        digest = self._keyed.copy()  # the key's part is computed once
        digest.update(timestamp + b"." + body)
        if not hmac.compare_digest(b"sha256=" + digest.hexdigest().encode(), signature):
            msg = "HMAC signature does not match"
            raise UntrustedError(msg)
        _check_age(timestamp, self._window)


class JwsVerifier:
    """Detached JWS (RFC 7515 Appendix F) with ``kid`` and ``iat`` in the protected header, RS256 or ES256.

    Args:
        window: Greatest age and lead of ``iat``, s.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._keys: dict[str, PublicKey] = {}

    def use_keys(self, keys: KeySet) -> int:
        """Replace the current keys; those that could verify nothing here (symmetric, other types) are left out.

        Returns:
            How many are used.
        """
        usable = {str(key.kid): key for key in keys.keys if key.kid and isinstance(key, RSAKey | ECKey)}
        self._keys = usable
        return len(usable)

    def verify(self, headers: Headers, body: bytes) -> None:
        """See :class:`Verifier`."""
        compact = headers.get(SIGNATURE_HEADER, b"")
        if b".." not in compact:
            # With a payload of its own it would vouch for that payload, not for the body.
            msg = "no detached JWS (header..signature) in X-CXone-Signature"
            raise UntrustedError(msg)
        try:
            signature = jws.extract_compact(compact, payload=body, registry=_REGISTRY)
        except (JoseError, ValueError) as error:
            msg = f"no JWS in X-CXone-Signature: {type(error).__name__}"
            raise UntrustedError(msg) from None
        header = signature.headers()
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            msg = f"key {str(kid)[:100]!r} is not among the vendor's current keys"
            raise UnknownKeyError(msg)
        try:
            good = jws.validate_compact(signature, key, registry=_REGISTRY)
        except (JoseError, ValueError) as error:
            msg = f"JWS under key {kid!r}: {type(error).__name__}"
            raise UntrustedError(msg) from None
        if not good:
            msg = f"JWS signature under key {kid!r} is bad"
            raise UntrustedError(msg)
        _check_age(header.get("iat"), self._window)


def _check_age(made_at: object, window: float) -> None:
    """The time of signing lies within the replay window of this machine's wall clock."""
    try:
        age = time.time() - float(made_at)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        msg = "the signature carries no time"
        raise UntrustedError(msg) from None
    if not abs(age) <= window:
        msg = f"signed {age:.0f} s ago; the replay window is {window:.0f} s"
        raise UntrustedError(msg)
