"""OAuth 2.0 client credentials (RFC 6749 §4.4): one token a client, kept until it expires or is refused."""

from __future__ import annotations

import asyncio
import time

import httpx

from streaming.errors import ConfigurationError, ServiceUnavailableError

# Renewed this long before it expires, so that no request goes out with a token that dies on its way.
_MARGIN_S = 30.0
_FORM = {"grant_type": "client_credentials"}


class TokenSource:
    """Gets and keeps a bearer token.

    No scope is asked for: the token has all that the client has, and the API that is called names the one missing.

    Args:
        http: Client of the pool for token and REST calls (streams hold another one).
        token_url: Token endpoint.
        client_id: The client.
        client_secret: Its secret.
    """

    def __init__(self, http: httpx.AsyncClient, *, token_url: str, client_id: str, client_secret: str) -> None:
        self._http = http
        self._url = token_url
        self._auth = httpx.BasicAuth(client_id, client_secret)
        self._token = ""
        self._good_until = 0.0
        self._lock = asyncio.Lock()

    def refuse(self, token: str) -> None:
        """The vendor answered 401 to this token: get another one next time."""
        if token == self._token:
            self._good_until = 0.0

    async def token(self) -> str:
        """A token that is good for a while.

        Raises:
            ConfigurationError: client id or secret are wrong.
            ServiceUnavailableError: the endpoint does not answer or gives no token.
        """
        async with self._lock:
            if time.monotonic() >= self._good_until:
                await self._fetch()
            return self._token

    async def _fetch(self) -> None:
        try:
            response = await self._http.post(self._url, data=_FORM, auth=self._auth)
        except httpx.HTTPError as error:
            msg = f"token endpoint {self._url}: {type(error).__name__}"
            raise ServiceUnavailableError(msg) from None
        if response.status_code in (400, 401, 403):
            status = response.status_code
            msg = f"token endpoint {self._url} refuses the client ({status}): mend client_id and client_secret"
            raise ConfigurationError(msg)
        try:
            response.raise_for_status()
            answer = response.json()
            self._token = str(answer["access_token"])
            lifetime = float(answer.get("expires_in", 3600))
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            msg = f"token endpoint {self._url}: no token in its answer ({response.status_code}, {type(error).__name__})"
            raise ServiceUnavailableError(msg) from None
        self._good_until = time.monotonic() + max(lifetime - _MARGIN_S, lifetime / 2)
