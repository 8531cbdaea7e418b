"""The key endpoint of a vendor that signs, well or as it is ordered to misbehave."""

from __future__ import annotations

import base64
from typing import Literal

from starlette.responses import JSONResponse, Response

from devstack.simulators.control import problem
from devstack.simulators.signing import Signer

Answer = Literal["good", "empty", "bad_algorithm", "down"]

# Known to everybody: who takes it for a key lets anybody sign.
_PUBLIC_SECRET = base64.urlsafe_b64encode(b"not a secret, 32 bytes of length").decode().rstrip("=")


def key_set(signer: Signer, answer: Answer) -> Response:
    """The published keys (RFC 7517).

    ``bad_algorithm``: under the key ids in force, public keys of an algorithm ``XX999`` and symmetric ones.
    """
    keys = signer.jwks()["keys"]
    match answer:
        case "down":
            return problem(503, "unavailable", "the key endpoint is ordered to be down")
        case "empty":
            keys = []
        case "bad_algorithm":
            unknown = [{**key, "alg": "XX999"} for key in keys]
            keys = unknown + [{"kty": "oct", "kid": key["kid"], "alg": "HS256", "k": _PUBLIC_SECRET} for key in keys]
    return JSONResponse({"keys": keys})
