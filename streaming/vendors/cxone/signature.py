"""``X-CXone-Signature``: detached JWS or HMAC over the raw body. Public docs define none: it is configuration."""

from __future__ import annotations

import hmac
import math
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, RSAKey
from joserfc.util import urlsafe_b64decode

from streaming.errors import UntrustedError

SIGNATURE_HEADER = b"x-cxone-signature"
TIMESTAMP_HEADER = b"x-cxone-timestamp"
ALGORITHMS = ("RS256", "ES256")
MAX_KEYS = 16
"""Of one tenant: a bad signature costs a trial of each."""

_MAX_HEADER_BYTES = 8_192
# RSA of 8,192 bits in base64url.
_MAX_SIGNATURE_BYTES = 1_366
_MAX_TIMESTAMP_DIGITS = 15
MAX_SIGNATURE_HEADER_BYTES = _MAX_HEADER_BYTES + len("..") + _MAX_SIGNATURE_BYTES
"""No verifier takes a longer ``X-CXone-Signature``."""
MAX_TIMESTAMP_HEADER_BYTES = 64
"""No verifier takes a longer ``X-CXone-Timestamp``, whatever its format."""
# Protected headers kept parsed. Many requests share one, since iat has whole seconds; longer ones are unusual.
_CACHED_HEADERS = 256
_CACHED_HEADER_BYTES = 512

Headers = Mapping[bytes, bytes]
PublicKey = RSAKey | ECKey


def _registry() -> jws.JWSRegistry:
    # Ours is the list of algorithms: none and HS256 are refused whatever the header says. Not strict: the vendor's
    # header may hold parameters that RFC 7515 does not know, such as iat.
    registry = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    registry.max_header_length = _MAX_HEADER_BYTES
    return registry


_REGISTRY = _registry()
_MODELS = {name: _REGISTRY.get_alg(name) for name in ALGORITHMS}


class UnknownKeyError(UntrustedError):
    """The signature names no key, or one that is not among the current ones, and none verifies it: fetch them again."""


class Verifier(Protocol):
    """Checks that a body comes from the vendor."""

    def verify(self, headers: Headers, body: bytes) -> None:
        """As :meth:`check`, from a request's headers (names in lower case)."""
        ...

    def check(self, signature: bytes, timestamp: bytes, body: bytes, at: float | None = None) -> None:
        """Return if the signature is good.

        Args:
            signature: ``X-CXone-Signature``, empty if absent.
            timestamp: ``X-CXone-Timestamp``, empty if absent.
            body: As received.
            at: When it was received, epoch s; now if None. The time of signing must lie within the window around it.

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
        self.check(headers.get(SIGNATURE_HEADER, b""), headers.get(TIMESTAMP_HEADER, b""), body)

    def check(self, signature: bytes, timestamp: bytes, body: bytes, at: float | None = None) -> None:
        """See :class:`Verifier`."""
        digest = self._keyed.copy()  # the key's part is computed once
        digest.update(timestamp + b"." + body)
        if not hmac.compare_digest(b"sha256=" + digest.hexdigest().encode(), signature):
            msg = "HMAC signature does not match"
            raise UntrustedError(msg)
        if not (timestamp.isdigit() and len(timestamp) <= _MAX_TIMESTAMP_DIGITS):
            raise UntrustedError(_NO_TIME)
        _check_age(int(timestamp), time.time() if at is None else at, self._window)


class _Header(NamedTuple):
    """What a protected header says, once joserfc has read and checked it."""

    algorithm: str
    kid: str | None
    iat: float


class JwsVerifier:
    """Detached JWS (RFC 7515 Appendix F) with ``kid`` and ``iat`` in the protected header, RS256 or ES256.

    joserfc reads headers and keys and decides which key goes with which algorithm. The key that ``kid`` names is tried
    first, then every other current one of the algorithm. Keys in the header (``jwk``, ``jku``, ``x5u``, ``x5c``) count
    for nothing.

    Args:
        window: Greatest age and lead of ``iat`` (RFC 7519 NumericDate), s.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._keys: dict[str, tuple[PublicKey, ...]] = {}
        self._good_until = -math.inf
        self._headers: dict[bytes, _Header] = {}

    def use_keys(self, keys: Iterable[Key], good_until: float = math.inf) -> int:
        """Replace the current keys; those that could verify nothing here (symmetric, other types) are left out.

        Args:
            keys: At most ``MAX_KEYS`` are used.
            good_until: Nothing is verified with them after this time, epoch s.

        Returns:
            How many are used.
        """
        asymmetric = [key for key in keys if isinstance(key, RSAKey | ECKey)]
        usable = [key for key in asymmetric if any(fits(key, name) for name in ALGORITHMS)][:MAX_KEYS]
        self._keys = {name: tuple(key for key in usable if fits(key, name)) for name in ALGORITHMS}
        self._good_until = good_until
        return len(usable)

    def verify(self, headers: Headers, body: bytes) -> None:
        """See :class:`Verifier`."""
        self.check(headers.get(SIGNATURE_HEADER, b""), b"", body)

    def check(self, signature: bytes, timestamp: bytes, body: bytes, at: float | None = None) -> None:  # noqa: ARG002
        """See :class:`Verifier`.

        Hot path, once a request. joserfc's own deserialize_compact reads the header anew each time, which takes as long
        as the verification; here a header that was read before costs a look-up. A test holds the two to agree.
        """
        protected, detached, encoded = signature.partition(b"..")
        if not detached or len(encoded) > _MAX_SIGNATURE_BYTES:
            # With a payload of its own it would vouch for that payload, not for the body.
            msg = "no detached JWS (header..signature) in X-CXone-Signature"
            raise UntrustedError(msg)
        header = self._headers.get(protected) or self._read(protected)
        now = time.time() if at is None else at
        _check_age(header.iat, now, self._window, header)  # first, for it is cheap
        try:
            value = urlsafe_b64decode(encoded)
        except ValueError:
            msg = f"the signature in X-CXone-Signature, of key {_shown(header.kid)}, is not base64url"
            raise UntrustedError(msg) from None
        keys = self._keys.get(header.algorithm, ()) if now <= self._good_until else ()
        verify, signed = _MODELS[header.algorithm].verify, protected + b"." + urlsafe_b64encode(body).rstrip(b"=")
        is_known = False
        for key in keys:
            if key.kid == header.kid:
                is_known = True
                if verify(signed, value, key):
                    return
        for key in keys:
            if key.kid != header.kid and verify(signed, value, key):
                return
        if is_known:
            msg = f"JWS signature under key {_shown(header.kid)} is bad"
            raise UntrustedError(msg)
        msg = f"key {_shown(header.kid)} is not among the vendor's current keys"
        raise UnknownKeyError(msg)

    def _read(self, protected: bytes) -> _Header:
        header = _read_header(protected)
        if len(protected) <= _CACHED_HEADER_BYTES:
            if len(self._headers) >= _CACHED_HEADERS:
                # All go at once: an order of use would have to be kept on every look-up.
                self._headers.clear()
            self._headers[protected] = header
        return header


def fits(key: Key, algorithm: str) -> bool:
    """Whether a key may verify under an algorithm, by its type, curve, ``alg``, ``use`` and ``key_ops``."""
    try:
        _MODELS[algorithm].check_key(key)
        key.check_use("sig")
        key.check_key_op("verify")
    except (JoseError, ValueError):
        return False
    return True


def _read_header(protected: bytes) -> _Header:
    """The protected header, read and checked.

    Raises:
        UntrustedError: it is none, too large, or asks for what is not done here.
    """
    try:
        # Detached of everything but the header, which is all that is wanted.
        header: Any = jws.extract_compact(protected + b"..", registry=_REGISTRY).headers()
        if not isinstance(header, dict):
            msg = "no JSON object"
            raise TypeError(msg)
        if not header.keys().isdisjoint(("crit", "b64")):
            # RFC 7515 §4.1.11: what is critical must be understood; here nothing is. b64 would change what is signed.
            msg = "crit and b64 are not supported"
            raise ValueError(msg)
        # The embedded keys are ignored, so whether they are well-formed is of no interest either.
        header = {name: header[name] for name in ("alg", "kid", "iat") if name in header}
        _REGISTRY.check_header(header)
        algorithm = _REGISTRY.get_alg(header["alg"]).name
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        msg = f"no JWS in X-CXone-Signature: {type(error).__name__}: {error}"[:200]
        raise UntrustedError(msg) from None
    iat = header.get("iat")
    if isinstance(iat, bool) or not isinstance(iat, int | float):
        raise UntrustedError(_NO_TIME)
    try:
        made_at = float(iat)
    except OverflowError:
        raise UntrustedError(_NO_TIME) from None
    return _Header(algorithm, header.get("kid"), made_at)


_NO_TIME = "the signature carries no time"


def _shown(kid: str | None) -> str:
    """For messages: whoever signs chooses the id."""
    return "without an id" if kid is None else repr(kid[:100])


def _check_age(made_at: float, now: float, window: float, header: _Header | None = None) -> None:
    """The time of signing lies within the replay window; NaN never does."""
    if not abs(now - made_at) <= window:
        key = f" with key {_shown(header.kid)}" if header else ""
        msg = f"signed{key} {now - made_at:.0f} s before it was received; the replay window is {window:.0f} s"
        raise UntrustedError(msg)
