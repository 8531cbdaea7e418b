from __future__ import annotations

import hashlib
import hmac
import json
import time
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, OctKey

from streaming.errors import UntrustedError
from streaming.vendors.cxone.signature import (
    MAX_KEYS,
    MAX_SIGNATURE_HEADER_BYTES,
    HmacVerifier,
    JwsVerifier,
    UnknownKeyError,
)
from tests.streaming.cxone.signing import SigningKey, b64, sign_hmac

BODY = b'{"eventType":"CALL_STARTED"}'
RSA = SigningKey("r1")
EC = SigningKey("e1", "ES256")
STRANGER = SigningKey("r1")  # another key under a known id
FAR = 10**400


def imported(*keys: SigningKey | dict[str, Any]) -> list[Key]:
    jwks: Any = [key if isinstance(key, dict) else key.jwk() for key in keys]
    return KeySet.import_key_set({"keys": jwks}).keys


@pytest.fixture
def verifier() -> JwsVerifier:
    made = JwsVerifier(300)
    assert made.use_keys(imported(RSA, EC)) == 2
    return made


def wire(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


def compact(header: Any, signature: bytes = b"", payload: str = "") -> dict[str, str]:
    text = header if isinstance(header, str) else json.dumps(header)
    return {"X-CXone-Signature": f"{b64(text.encode())}.{payload}.{b64(signature)}"}


def with_secret(secret: bytes, alg: str = "HS256") -> dict[str, str]:
    """Signed as if the secret were shared: what an algorithm confusion would accept."""
    header = {"alg": alg, "kid": "r1", "iat": int(time.time())}
    signed = f"{b64(json.dumps(header).encode())}.{b64(BODY)}".encode()
    return compact(header, hmac.new(secret, signed, hashlib.sha256).digest())


@pytest.mark.parametrize("key", [RSA, EC])
@pytest.mark.parametrize("age", [0, 299, -299])
def test_a_good_signature_passes_also_with_a_skewed_clock(verifier: JwsVerifier, key: SigningKey, age: int) -> None:
    headers = wire(key.sign(BODY, age=age))
    for _ in range(2):  # the second time from the kept header
        verifier.verify(headers, BODY)
    verifier.check(headers[b"x-cxone-signature"], b"", BODY)


def test_an_empty_and_a_large_body_are_verified_too(verifier: JwsVerifier) -> None:
    for body in (b"", b"x" * 1_048_576):
        verifier.verify(wire(RSA.sign(body)), body)
        with pytest.raises(UntrustedError):
            verifier.verify(wire(RSA.sign(body)), body + b"x")


def test_iat_may_have_a_fraction(verifier: JwsVerifier) -> None:
    verifier.verify(wire(RSA.sign(BODY, iat=time.time() - 0.5)), BODY)


def _attached() -> dict[str, str]:
    head, _, signature = RSA.sign(BODY)["X-CXone-Signature"].split(".")
    return {"X-CXone-Signature": f"{head}.{b64(BODY)}.{signature}"}


def _twice() -> dict[str, str]:
    """As a receiver joins two headers of one name."""
    return {"X-CXone-Signature": ",".join(key.sign(BODY)["X-CXone-Signature"] for key in (RSA, EC))}


def _altered() -> dict[str, str]:
    head, _, signature = EC.sign(BODY)["X-CXone-Signature"].split(".")
    return {"X-CXone-Signature": f"{head}..{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"}


def _unencoded() -> dict[str, str]:
    """RFC 7797, well signed: b64 false, so the body itself is what is signed."""
    header = {"alg": "RS256", "kid": "r1", "iat": int(time.time()), "b64": False, "crit": ["b64"]}
    signed = b64(json.dumps(header).encode()).encode() + b"." + BODY
    return compact(header, RSA.key.sign(signed, padding.PKCS1v15(), SHA256()))


PEM = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def wrong() -> dict[str, tuple[dict[str, str], bytes]]:
    """Requests that must not pass, made now: none is refused for its age only."""
    now = {"kid": "r1", "iat": int(time.time())}
    return {
        "none": ({}, BODY),
        "nonsense": ({"X-CXone-Signature": "nonsense"}, BODY),
        "broken": ({"X-CXone-Signature": "a..b"}, BODY),
        "dots": ({"X-CXone-Signature": "...."}, BODY),
        "only dots": ({"X-CXone-Signature": ".."}, BODY),
        "not base64": ({"X-CXone-Signature": "é..é"}, BODY),
        "body": (RSA.sign(BODY), BODY + b" "),
        "signature altered": (_altered(), BODY),
        "another key under the id": (STRANGER.sign(BODY), BODY),
        "attached": (_attached(), b'{"another":"body"}'),
        "attached, same body": (_attached(), BODY),
        "two headers": (_twice(), BODY),
        "alg none": (compact({"alg": "none"} | now), BODY),
        "alg none with a key's id": (compact({"alg": "None"} | now, b"x"), BODY),
        "alg of another key type": (RSA.sign(BODY, alg="ES256"), BODY),
        "alg RS256 for an EC key": (EC.sign(BODY, alg="RS256"), BODY),
        "alg RS512": (RSA.sign(BODY, alg="RS512"), BODY),
        "alg no text": (compact({"alg": ["RS256"]} | now), BODY),
        "alg missing": (compact(now), BODY),
        "HS256 with the public key, PEM": (with_secret(PEM), BODY),
        "HS256 with the public key, DER": (with_secret(DER), BODY),
        "HS256 with the public key, JWK": (with_secret(json.dumps(RSA.jwk()).encode()), BODY),
        "HS256 with the modulus": (with_secret(RSA.jwk()["n"].encode()), BODY),
        "HMAC under RS256": (with_secret(PEM, "RS256"), BODY),
        "too old": (RSA.sign(BODY, age=301), BODY),
        "future": (RSA.sign(BODY, age=-302), BODY),
        "no iat": (RSA.sign(BODY, iat=None), BODY),
        "iat text": (RSA.sign(BODY, iat=str(int(time.time()))), BODY),
        "iat negative": (RSA.sign(BODY, iat=-5), BODY),
        "iat bool": (RSA.sign(BODY, iat=True), BODY),
        "iat NaN": (RSA.sign(BODY, iat=float("nan")), BODY),
        "iat infinite": (RSA.sign(BODY, iat=float("inf")), BODY),
        "iat beyond any float": (RSA.sign(BODY, iat=FAR), BODY),
        "iat object": (RSA.sign(BODY, iat={"at": 1}), BODY),
        "kid a number": (RSA.sign(BODY, kid=1), BODY),
        "kid a list": (RSA.sign(BODY, kid=["r1"]), BODY),
        "kid null": (RSA.sign(BODY, kid=None), BODY),
        "crit": (RSA.sign(BODY, crit=["x"], x=1), BODY),
        "crit no list": (RSA.sign(BODY, crit=5), BODY),
        "crit empty": (RSA.sign(BODY, crit=[]), BODY),
        "b64 false": (RSA.sign(BODY, b64=False), BODY),
        "b64 false, critical, signed so": (_unencoded(), BODY),
        "b64 true": (RSA.sign(BODY, b64=True), BODY),
        "header a list": (compact(["alg", "kid", "iat"]), BODY),
        "header text": (compact('"alg"'), BODY),
        "header too deep": (compact("[" * 6_000), BODY),
        "header too large": (RSA.sign(BODY, filler="x" * 8_000), BODY),
        "signature too large": (compact({"alg": "RS256"} | now, b"x" * 5_000), BODY),
    }


@pytest.fixture(scope="module")
def made_wrong() -> dict[str, tuple[dict[str, str], bytes]]:
    return wrong()


@pytest.mark.parametrize("name", wrong())
def test_nothing_wrong_is_accepted(
    verifier: JwsVerifier, made_wrong: dict[str, tuple[dict[str, str], bytes]], name: str
) -> None:
    headers, body = made_wrong[name]
    for _ in range(2):
        with pytest.raises(UntrustedError):
            verifier.verify(wire(headers), body)


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c"])
def test_keys_in_the_header_count_for_nothing(verifier: JwsVerifier, member: str) -> None:
    own: dict[str, Any] = {
        "jwk": STRANGER.jwk(), "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x", "x5c": ["MIIB"],
    }  # fmt: skip
    stranger: dict[str, Any] = {member: own[member]}
    with pytest.raises(UntrustedError, match="is bad"):
        verifier.verify(wire(STRANGER.sign(BODY, **stranger)), BODY)
    # A signer that sends its own, of whatever form, is believed for its known key.
    for value in (own[member], 5):
        known: dict[str, Any] = {member: value}
        verifier.verify(wire(RSA.sign(BODY, **known)), BODY)


def test_a_key_that_is_not_there_is_said_to_be_unknown(verifier: JwsVerifier) -> None:
    with pytest.raises(UnknownKeyError, match="'r2'"):
        verifier.verify(wire(SigningKey("r2").sign(BODY)), BODY)
    with pytest.raises(UnknownKeyError, match="without an id"):
        verifier.verify(wire(STRANGER.sign(BODY, kid=...)), BODY)
    with pytest.raises(UntrustedError, match="'r1' is bad") as bad:
        verifier.verify(wire(STRANGER.sign(BODY)), BODY)
    assert not isinstance(bad.value, UnknownKeyError), "no reason to fetch keys"


def test_every_current_key_is_tried_whatever_the_id_says(verifier: JwsVerifier) -> None:
    for kid in (..., "another", "e1", ""):
        verifier.verify(wire(RSA.sign(BODY, kid=kid)), BODY)
    two = JwsVerifier(300)
    two.use_keys(imported(RSA, STRANGER.jwk() | {"kid": "r2"}))
    two.verify(wire(STRANGER.sign(BODY)), BODY)  # the vendor mixed up its ids


def test_a_retired_key_verifies_nothing_any_more(verifier: JwsVerifier) -> None:
    headers = wire(RSA.sign(BODY))
    verifier.verify(headers, BODY)
    verifier.use_keys(imported(EC))
    with pytest.raises(UnknownKeyError):
        verifier.verify(headers, BODY)


def test_keys_expire() -> None:
    verifier = JwsVerifier(300)
    verifier.use_keys(imported(RSA), good_until=time.time() + 60)
    verifier.verify(wire(RSA.sign(BODY)), BODY)
    verifier.use_keys(imported(RSA), good_until=time.time() - 1)
    with pytest.raises(UnknownKeyError):
        verifier.verify(wire(RSA.sign(BODY)), BODY)


def test_the_window_lies_around_the_arrival(verifier: JwsVerifier) -> None:
    arrived = time.time() - 90_000
    signature = RSA.sign(BODY, age=90_010)["X-CXone-Signature"].encode()
    verifier.check(signature, b"", BODY, at=arrived)
    with pytest.raises(UntrustedError, match="replay window"):
        verifier.check(signature, b"", BODY)
    mac = HmacVerifier("key", 300)
    headers = wire(sign_hmac("key", BODY, age=90_010))
    mac.check(headers[b"x-cxone-signature"], headers[b"x-cxone-timestamp"], BODY, at=arrived)
    with pytest.raises(UntrustedError, match="replay window"):
        mac.verify(headers, BODY)


def test_keys_for_other_purposes_are_left_out() -> None:
    octet = {"kty": "oct", "kid": "o", "k": b64(b"secret" * 8)}
    purposes: list[dict[str, Any]] = [{"use": "enc"}, {"alg": "RS512"}, {"key_ops": ["encrypt"]}]
    others = [octet, *(RSA.jwk() | purpose for purpose in purposes)]
    for other in others:
        verifier = JwsVerifier(300)
        assert verifier.use_keys(imported(other, EC)) == 1
        with pytest.raises(UntrustedError):
            verifier.verify(wire(RSA.sign(BODY)), BODY)


def test_the_number_of_keys_is_bounded() -> None:
    keys = imported(*(EC.jwk() | {"kid": f"e{number}"} for number in range(MAX_KEYS + 5)))
    assert JwsVerifier(300).use_keys(keys) == MAX_KEYS


def test_the_kept_headers_are_bounded(verifier: JwsVerifier) -> None:
    for number in range(1_000):
        with pytest.raises(UntrustedError):
            verifier.verify(wire(compact({"alg": "RS256", "n": number, "iat": int(time.time())}, b"x" * 256)), BODY)
    verifier.verify(wire(RSA.sign(BODY)), BODY)
    assert len(verifier._headers) <= 256


_REGISTRY = jws.JWSRegistry(algorithms=["RS256", "ES256"], strict_check_header=False)
_VERIFIER = JwsVerifier(300)
_VERIFIER.use_keys(imported(RSA, EC))
_KEYS = {"RS256": imported(RSA)[0], "ES256": imported(EC)[0]}


def joserfc_accepts(compact_form: bytes, alg: str, body: bytes) -> bool:
    """joserfc's whole path, with the one key of the algorithm."""
    try:
        found = jws.extract_compact(compact_form, payload=body, registry=_REGISTRY)
        return jws.validate_compact(found, _KEYS[alg], registry=_REGISTRY)
    except (JoseError, ValueError):
        return False


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str, bytes]:
    """A good request, or one with some bytes of it replaced, added or removed."""
    key, body = draw(st.sampled_from([RSA, EC])), draw(st.binary(max_size=200))
    text = bytearray(key.sign(body)["X-CXone-Signature"].encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text) - 1))
        byte = draw(st.sampled_from(b"ABCwxyz012-_.=+/ \n"))
        change = draw(st.sampled_from(["replace", "insert", "delete"]))
        text[at : at + (change != "insert")] = b"" if change == "delete" else bytes([byte])
    return bytes(text), key.alg, body if draw(st.booleans()) else draw(st.binary(max_size=200))


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_agrees_with_joserfc_on_good_and_bad_signatures(made: tuple[bytes, str, bytes]) -> None:
    text, alg, body = made
    try:
        _VERIFIER.check(text, b"", body)
        accepted = True
    except UntrustedError:
        accepted = False
    assert accepted == joserfc_accepts(text, alg, body)


def test_hmac_covers_time_and_body() -> None:
    verifier = HmacVerifier("key", 300)
    for age in (0, 299, -299):
        verifier.verify(wire(sign_hmac("key", BODY, age)), BODY)
    good = sign_hmac("key", BODY)
    for headers, body in (
        (sign_hmac("other", BODY), BODY),
        (good, BODY + b" "),
        (sign_hmac("key", BODY, age=301), BODY),
        (sign_hmac("key", BODY, age=-302), BODY),
        (good | {"X-CXone-Timestamp": str(int(time.time()) + 1)}, BODY),
        (good | {"X-CXone-Signature": good["X-CXone-Signature"].upper()}, BODY),
        ({"X-CXone-Timestamp": good["X-CXone-Timestamp"]}, BODY),
        ({}, BODY),
    ):
        with pytest.raises(UntrustedError):
            verifier.verify(wire(headers), body)


@pytest.mark.parametrize("timestamp", ["", "nan", "inf", "1e9", "-5", "1_700_000_000", " 5", "9" * 400, "٣"])
def test_hmac_with_a_time_that_is_none(timestamp: str) -> None:
    digest = hmac.new(b"key", timestamp.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    with pytest.raises(UntrustedError):
        HmacVerifier("key", 300).check(f"sha256={digest}".encode(), timestamp.encode(), BODY)


def test_an_oct_key_never_gets_in_even_if_handed_over() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = OctKey.import_key(PEM.decode().replace("-----", "").encode())
    verifier = JwsVerifier(300)
    assert verifier.use_keys([key]) == 0


def test_a_weak_exponent_is_no_key() -> None:
    weak = RSA.jwk() | {"e": "AQ"}  # 1: every message would be its own signature
    with pytest.raises((JoseError, ValueError)):
        imported(weak)
    assert rsa.RSAPublicNumbers(65537, RSA.key.public_key().public_numbers().n).public_key()


def test_the_key_id_is_in_every_message_from_which_a_person_must_find_the_key(verifier: JwsVerifier) -> None:
    head, _, signature = RSA.sign(BODY)["X-CXone-Signature"].split(".")
    now_wrong = f"{head}..{signature[:-1]}!".encode()
    too_old = RSA.sign(BODY, age=301)["X-CXone-Signature"].encode()
    for value, says in ((now_wrong, "base64url"), (too_old, "replay window")):
        with pytest.raises(UntrustedError, match=says) as caught:
            verifier.check(value, b"", BODY)
        assert "'r1'" in str(caught.value)


def test_no_good_header_is_longer_than_the_bounds_that_the_receiver_keeps(verifier: JwsVerifier) -> None:
    longest = RSA.sign(BODY, filler="x" * 5_900)["X-CXone-Signature"].encode()
    verifier.check(longest, b"", BODY)
    assert 8_000 < len(longest) < MAX_SIGNATURE_HEADER_BYTES
    with pytest.raises(UntrustedError):
        verifier.check(RSA.sign(BODY, filler="x" * 7_200)["X-CXone-Signature"].encode(), b"", BODY)
