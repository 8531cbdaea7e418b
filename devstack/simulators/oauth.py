"""Token endpoint of a simulator: OAuth 2.0 client credentials (RFC 6749 §4.4), bearer tokens (RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.control import problem
from streaming.errors import ConfigurationError

# Tokens kept; the oldest goes when one more is issued.
_MAX_TOKENS = 10_000
_MAX_FORM_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Client:
    """Who may ask for tokens, what for, and whose data it sees."""

    client_id: str
    client_secret: str
    tenant_id: str
    scopes: frozenset[str]


Endpoint = Callable[[Request, Client], Awaitable[Response]]
"""Answers a request of a client that is known and may make it."""


def client_scopes(wanted: str | None, known: frozenset[str]) -> frozenset[str]:
    """The scopes of a client that is limited to some.

    Args:
        wanted: Scopes with spaces between them; None wants all.
        known: All that the vendor has.

    Raises:
        ConfigurationError: a scope that the vendor does not have.
    """
    if wanted is None:
        return known
    scopes = frozenset(wanted.split())
    if unknown := scopes - known:
        msg = f"--scopes: {' '.join(sorted(unknown))} unknown; there are {' '.join(sorted(known))}"
        raise ConfigurationError(msg)
    return scopes


class RefusedTokenError(Exception):
    """The request's bearer token does not entitle it.

    Attributes:
        answer: What to send back: 401 for a missing, unknown or expired token, 403 if it lacks the scope.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


class TokenIssuer:
    """Issues tokens and knows them again.

    Args:
        clients: The clients.
        expires_in: Lifetime of a token, s.
        monotonic: Wall clock, s.
    """

    def __init__(
        self, clients: list[Client], *, expires_in: float = 3600, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._expires_in = expires_in
        self._monotonic = monotonic
        # token -> client, scopes, when it expires; in the order of issue, so the oldest comes first.
        self._tokens: dict[str, tuple[Client, frozenset[str], float]] = {}

    async def endpoint(self, request: Request) -> Response:
        """``POST``: client id and secret by Basic authentication or in the form."""
        body = await request.body()
        if len(body) > _MAX_FORM_BYTES:
            return _oauth_error(413, "invalid_request", f"more than {_MAX_FORM_BYTES} bytes")
        form = {name: values[-1] for name, values in parse_qs(body.decode("latin-1")).items()}
        client = self._authenticate(request, form)
        if client is None:
            headers = {"WWW-Authenticate": "Basic"}
            return _oauth_error(401, "invalid_client", "client id or secret is wrong", headers)
        if form.get("grant_type") != "client_credentials":
            return _oauth_error(400, "unsupported_grant_type", "only client_credentials")
        scopes = frozenset(form.get("scope", "").split()) or client.scopes
        if not scopes <= client.scopes:
            return _oauth_error(400, "invalid_scope", f"the client has {' '.join(sorted(client.scopes))}")
        lifetime = int(self._expires_in) if self._expires_in >= 1 else self._expires_in
        answer = {
            "access_token": self._issue(client, scopes),
            "token_type": "bearer",
            "expires_in": lifetime,
            "scope": " ".join(sorted(scopes)),
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def guard(self, scope: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint as Starlette calls it, for those only whose token has the scope; see :meth:`check`."""

        async def guarded(request: Request) -> Response:
            try:
                client = self.check(request, scope)
            except RefusedTokenError as refused:
                return refused.answer
            return await endpoint(request, client)

        return guarded

    def check(self, request: Request, scope: str) -> Client:
        """The client whose token the request carries.

        Args:
            request: The request.
            scope: Scope that it needs.

        Raises:
            RefusedTokenError: the token is missing, unknown, expired, or lacks the scope.
        """
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        known = self._tokens.get(token.strip()) if kind.lower() == "bearer" else None
        if known is None or known[2] <= self._monotonic():
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            answer = problem(401, "bad.credentials", "no valid bearer token; get one at the token endpoint", headers)
            raise RefusedTokenError(answer)
        client, scopes, _ = known
        if scope not in scopes:
            headers = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            raise RefusedTokenError(problem(403, "missing.permissions", f"the token lacks the scope {scope}", headers))
        return client

    def _issue(self, client: Client, scopes: frozenset[str]) -> str:
        if len(self._tokens) >= _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(32)
        self._tokens[token] = (client, scopes, self._monotonic() + self._expires_in)
        return token

    def _authenticate(self, request: Request, form: dict[str, str]) -> Client | None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                client_id, _, secret = base64.b64decode(given, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
        else:
            client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        client = self._clients.get(client_id)
        if client is None or not hmac.compare_digest(client.client_secret.encode(), secret.encode()):
            return None
        return client


def _oauth_error(status: int, code: str, description: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """RFC 6749 §5.2."""
    return JSONResponse({"error": code, "error_description": description}, status, headers)
