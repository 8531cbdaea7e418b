"""Signs webhooks as CXone does; written against RFC 7515, not against our verifier."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _integer(value: int, length: int) -> str:
    return b64(value.to_bytes(length, "big"))


class SigningKey:
    """A key pair with its id."""

    def __init__(self, kid: str, kind: str = "RS256", bits: int = 2048) -> None:
        self.kid = kid
        self.alg = kind
        self.key: Any = (
            rsa.generate_private_key(65537, bits) if kind == "RS256" else ec.generate_private_key(ec.SECP256R1())
        )

    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        if self.alg == "RS256":
            return {"kty": "RSA", "kid": self.kid, "n": _integer(numbers.n, numbers.n.bit_length() // 8), "e": "AQAB"}
        return {
            "kty": "EC",
            "crv": "P-256",
            "kid": self.kid,
            "x": _integer(numbers.x, 32),
            "y": _integer(numbers.y, 32),
        }

    def sign(self, body: bytes, *, age: float = 0, alg: str | None = None, **header: Any) -> dict[str, str]:
        """Headers of a request; a header parameter of `...` is left out."""
        protected = {"alg": alg or self.alg, "kid": self.kid, "iat": int(time.time() - age)} | header
        head = b64(json.dumps({name: value for name, value in protected.items() if value is not ...}).encode())
        signed = f"{head}.{b64(body)}".encode()
        if self.alg == "RS256":
            signature = self.key.sign(signed, padding.PKCS1v15(), SHA256())
        else:
            r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return {"X-CXone-Signature": f"{head}..{b64(signature)}"}


def sign_hmac(secret: str, body: bytes, age: float = 0) -> dict[str, str]:
    timestamp = str(int(time.time() - age))
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-CXone-Signature": f"sha256={digest}", "X-CXone-Timestamp": timestamp}


class KeyServer:
    """A JWKS endpoint whose answer the test sets."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.raw: bytes | None = None  # instead of the keys
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                body = json.dumps({"keys": outer.keys}).encode() if outer.raw is None else outer.raw
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/auth/jwks"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
