"""The vendor's signing key for the RS256 scheme: one a run, its public part served as a JWK Set."""

from __future__ import annotations

import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_KID = "bench"
_EXPONENT, _BITS = 65_537, 2_048


def make_key(file: Path) -> None:
    """Write a new private key, PEM."""
    key = generate_private_key(_EXPONENT, _BITS)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def detached_signature(key: RSAPrivateKey, body: bytes) -> str:
    """Value of ``X-CXone-Signature`` for a body, signed now."""
    header = _base64url(orjson.dumps({"alg": "RS256", "kid": _KID, "iat": int(time.time())}))
    signature = key.sign(f"{header}.{_base64url(body)}".encode(), PKCS1v15(), SHA256())
    return f"{header}..{_base64url(signature)}"


def read_key(file: Path) -> RSAPrivateKey:
    """The key of :func:`make_key`."""
    key = load_pem_private_key(file.read_bytes(), None)
    if not isinstance(key, RSAPrivateKey):
        msg = f"{file}: no RSA key"
        raise TypeError(msg)
    return key


@contextmanager
def key_server(file: Path) -> Iterator[str]:
    """Serve the key's public part on loopback; gives the URL."""
    numbers = read_key(file).public_key().public_numbers()
    jwk = {
        "kty": "RSA",
        "kid": _KID,
        "n": _base64url(numbers.n.to_bytes(_BITS // 8, "big")),
        "e": _base64url(numbers.e.to_bytes(3, "big")),
    }
    body = orjson.dumps({"keys": [jwk]})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/auth/jwks"
        finally:
            server.shutdown()
            thread.join()


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
