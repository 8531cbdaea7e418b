"""Signatures on what a simulator sends, and the keys behind them."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal, Protocol

from joserfc import jws
from joserfc.jwk import ECKey, KeyParameters, RSAKey

Algorithm = Literal["ES256", "RS256"]
Fault = Literal["wrong", "unknown"]
_Key = ECKey | RSAKey

# Not strict: iat is no header parameter of RFC 7515, but the contract wants it there.
_REGISTRY = jws.JWSRegistry(algorithms=["ES256", "RS256"], strict_check_header=False)


class Signer(Protocol):
    """Makes the headers that vouch for a body.

    Attributes:
        has_keys: Whether receivers fetch keys, so that they can be rotated.
    """

    has_keys: bool

    def rotate(self, overlap_seconds: float) -> None:
        """Sign with a new key from now on; publish the old one for the overlap."""
        ...

    def jwks(self) -> dict[str, Any]:
        """The published keys (RFC 7517), the current one first."""
        ...

    def headers(self, body: bytes, fault: Fault | None = None) -> dict[str, str]:
        """The headers.

        Args:
            body: As it is sent.
            fault: ``wrong``: made with another key than the one named; ``unknown``: with one never published.
        """
        ...


class HmacSigner:
    """``sha256=<hex>`` of HMAC-SHA256 over ``{timestamp}.{body}``, the time in epoch s.

    Args:
        secret: Shared with the receiver.
        wall: Wall clock, epoch s.
    """

    has_keys = False

    def __init__(self, secret: str, wall: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._wrong = secrets.token_bytes(32)
        self._wall = wall

    def rotate(self, overlap_seconds: float) -> None:
        """Impossible: the secret is shared by hand.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def jwks(self) -> dict[str, Any]:
        """None are published."""
        return {"keys": []}

    def headers(self, body: bytes, fault: Fault | None = None) -> dict[str, str]:
        """See :class:`Signer`; without key ids both faults are the same."""
        timestamp = str(int(self._wall()))
        secret = self._wrong if fault else self._secret
        digest = hmac.new(secret, timestamp.encode() + b"." + body, sha256).hexdigest()
        return {"X-CXone-Timestamp": timestamp, "X-CXone-Signature": f"sha256={digest}"}


class JwsSigner:
    """Detached JWS (RFC 7515 Appendix F) with ``kid`` and ``iat`` in the protected header.

    Args:
        algorithm: Of every key.
        wall: Wall clock, epoch s.
    """

    has_keys = True

    def __init__(self, algorithm: Algorithm = "ES256", wall: Callable[[], float] = time.time) -> None:
        self._algorithm: Algorithm = algorithm
        self._wall = wall
        self._current = self._generate()
        self._faulty: dict[Fault, _Key] = {}
        # Keys that no longer sign but are published until an instant, epoch s.
        self._retired: list[tuple[_Key, float]] = []

    def rotate(self, overlap_seconds: float) -> None:
        """See :class:`Signer`."""
        self._retired.append((self._current, self._wall() + overlap_seconds))
        self._current = self._generate()

    def jwks(self) -> dict[str, Any]:
        """See :class:`Signer`."""
        now = self._wall()
        self._retired = [(key, until) for key, until in self._retired if until > now]
        keys = [self._current, *(key for key, _ in self._retired)]
        return {"keys": [{**key.as_dict(private=False), "alg": self._algorithm, "use": "sig"} for key in keys]}

    def headers(self, body: bytes, fault: Fault | None = None) -> dict[str, str]:
        """See :class:`Signer`."""
        if fault and fault not in self._faulty:
            self._faulty[fault] = self._generate()
        key = self._faulty[fault] if fault else self._current
        kid = key.kid if fault == "unknown" else self._current.kid
        header = {"alg": self._algorithm, "kid": kid, "iat": int(self._wall())}
        return {"X-CXone-Signature": jws.detach_content(jws.serialize_compact(header, body, key, registry=_REGISTRY))}

    def _generate(self) -> _Key:
        parameters: KeyParameters = {"kid": secrets.token_hex(8)}
        if self._algorithm == "ES256":
            return ECKey.generate_key("P-256", parameters)
        return RSAKey.generate_key(2048, parameters)
