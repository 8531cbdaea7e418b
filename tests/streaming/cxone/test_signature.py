from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import KeySet

from streaming.errors import UntrustedError
from streaming.vendors.cxone.signature import HmacVerifier, JwsVerifier, UnknownKeyError
from tests.streaming.cxone.signing import SigningKey, b64, sign_hmac

BODY = b'{"eventType":"CALL_STARTED"}'
RSA = SigningKey("r1")
EC = SigningKey("e1", "ES256")


@pytest.fixture
def verifier() -> JwsVerifier:
    made = JwsVerifier(300)
    assert made.use_keys(KeySet.import_key_set({"keys": [RSA.jwk(), EC.jwk()]})) == 2  # type: ignore[list-item]
    return made


def wire(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


@pytest.mark.parametrize("key", [RSA, EC])
def test_a_good_signature_passes(verifier: JwsVerifier, key: SigningKey) -> None:
    verifier.verify(wire(key.sign(BODY)), BODY)


def _attached() -> dict[str, str]:
    head, _, signature = RSA.sign(BODY)["X-CXone-Signature"].split(".")
    return {"X-CXone-Signature": f"{head}.{b64(BODY)}.{signature}"}


def _hs256_with_the_public_key() -> dict[str, str]:
    pem = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = b64(json.dumps({"alg": "HS256", "kid": "r1", "iat": int(time.time())}).encode())
    digest = hmac.new(pem, f"{head}.{b64(BODY)}".encode(), hashlib.sha256).digest()
    return {"X-CXone-Signature": f"{head}..{b64(digest)}"}


def _alg_none() -> dict[str, str]:
    head = b64(json.dumps({"alg": "none", "kid": "r1", "iat": int(time.time())}).encode())
    return {"X-CXone-Signature": f"{head}.."}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        ({"X-CXone-Signature": "nonsense"}, BODY),
        ({"X-CXone-Signature": "a..b"}, BODY),
        (RSA.sign(BODY), BODY + b" "),
        (RSA.sign(BODY, alg="ES256"), BODY),
        (RSA.sign(BODY, age=301), BODY),
        (RSA.sign(BODY, age=-4000), BODY),
        (RSA.sign(BODY, iat=None), BODY),
        (RSA.sign(BODY, crit=["x"], x=1), BODY),
        (_attached(), b'{"another":"body"}'),
        (_hs256_with_the_public_key(), BODY),
        (_alg_none(), BODY),
    ],
    ids=[
        "none",
        "nonsense",
        "broken",
        "body",
        "alg",
        "old",
        "future",
        "no-iat",
        "crit",
        "attached",
        "hs256",
        "alg-none",
    ],
)
def test_nothing_wrong_is_accepted(verifier: JwsVerifier, headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(UntrustedError):
        verifier.verify(wire(headers), body)


def test_a_key_that_is_not_there_is_said_to_be_unknown(verifier: JwsVerifier) -> None:
    with pytest.raises(UnknownKeyError, match="'r2'"):
        verifier.verify(wire(SigningKey("r2").sign(BODY)), BODY)


def test_symmetric_keys_in_a_key_set_are_left_out() -> None:
    octet: Any = {"kty": "oct", "kid": "o", "k": b64(b"secret" * 8)}
    assert JwsVerifier(300).use_keys(KeySet.import_key_set({"keys": [octet, RSA.jwk()]})) == 1  # type: ignore[list-item]


def test_hmac_covers_time_and_body() -> None:
    verifier = HmacVerifier("key", 300)
    verifier.verify(wire(sign_hmac("key", BODY)), BODY)
    for headers, body in (
        (sign_hmac("other", BODY), BODY),
        (sign_hmac("key", BODY), BODY + b" "),
        (sign_hmac("key", BODY, age=301), BODY),
        (sign_hmac("key", BODY) | {"X-CXone-Timestamp": str(int(time.time()) + 1)}, BODY),
        ({}, BODY),
    ):
        with pytest.raises(UntrustedError):
            verifier.verify(wire(headers), body)
