"""One call to the CRM: what is sent, and what each answer means.

::

    2xx {"status": "applied" | "duplicate"}           done
    2xx with anything else, 5xx, 408, 425, 429,       the service: tried again, never a dead letter
        timeout, connection error
    3xx, 401, 403, 404, 405                           the configuration: told, and tried again, never a dead letter
    other 4xx                                         the event: a dead letter
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple, Protocol

import httpx
import orjson

from streaming.errors import BadEventError, ConfigurationError, ServiceUnavailableError
from streaming.rest import parse_retry_after
from streaming.settings import CrmSettings

PATH = "/v1/activities"

# No answer of the contract is longer; what comes beyond is not read.
_MAX_ANSWER_BYTES = 64 * 1024
_NOT_OURS = {401: "crm.token", 403: "crm.token", 404: "crm.url", 405: "crm.url"}
_TRY_AGAIN = frozenset({408, 425, 429})
# What a header can carry. This platform's ids are UUIDs; another producer's may be anything.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

Done = Literal["applied", "duplicate"]
_DONE: dict[str, Done] = {"applied": "applied", "duplicate": "duplicate"}


class Activity(NamedTuple):
    """What the CRM is told of one event."""

    event_id: str
    """The call's idempotency key."""
    body: bytes
    """JSON."""


class CrmUnavailableError(ServiceUnavailableError):
    """The CRM did not take it for now.

    Attributes:
        retry_after: Seconds that it asks to wait, None if it does not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CrmClient(Protocol):
    """A CRM. Another one than the HTTP contract's is another implementation of this."""

    async def send(self, activity: Activity) -> Done:
        """Tell the CRM of an event; of one it knows already nothing changes there. One attempt.

        Raises:
            CrmUnavailableError: not now; whether it had an effect is not known.
            ConfigurationError: address or credentials are wrong.
            BadEventError: the CRM refuses this event, whatever one does again.
        """

    async def close(self) -> None:
        """Let go of the connections."""


class HttpCrmClient:
    """``POST {crm.url}/v1/activities`` with ``Idempotency-Key: event_id``.

    Each call that is under way has a connection, and a pool of its own: one pool of all looks at every connection for
    every call, which costs three times the CPU (measured with 32).

    Args:
        settings: The section ``crm``.

    Raises:
        ConfigurationError: ``crm.url`` is not set.
    """

    def __init__(self, settings: CrmSettings) -> None:
        if settings.url is None:
            msg = "crm.url is not set: give the CRM's address, for example https://crm.example.com/api"
            raise ConfigurationError(msg)
        self._url = settings.url.rstrip("/") + PATH
        self._timeout = settings.timeout_seconds
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if settings.token is not None:
            self._headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
        self._tls = httpx.create_ssl_context()
        # The last one used goes first, so that few are open when few are needed.
        self._idle: list[httpx.AsyncClient] = []
        self._closing: set[asyncio.Future[None]] = set()

    async def send(self, activity: Activity) -> Done:
        """See :meth:`CrmClient.send`."""
        if not _KEY.fullmatch(activity.event_id):
            msg = "event_id: holds what no Idempotency-Key can; up to 200 visible ASCII characters"
            raise BadEventError(msg, reason="out_of_range", path="event_id")
        try:
            async with asyncio.timeout(self._timeout):
                answer, body = await self._post(activity)
        except (httpx.HTTPError, TimeoutError) as error:
            msg = f"the CRM does not answer: {type(error).__name__}"
            raise CrmUnavailableError(msg) from None
        return _read(answer, body)

    async def _post(self, activity: Activity) -> tuple[httpx.Response, bytes]:
        body = b""
        headers = {"Idempotency-Key": activity.event_id}
        http = self._idle.pop() if self._idle else self._connection()
        try:
            async with http.stream("POST", self._url, content=activity.body, headers=headers) as answer:
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        break
        except BaseException:
            # A call that is cancelled, as by its timeout, may leave its pool full for ever: httpcore goes on taking its
            # connection for one in use.
            closing = asyncio.ensure_future(http.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        self._idle.append(http)
        return answer, body

    def _connection(self) -> httpx.AsyncClient:
        """A client of one connection."""
        # The whole attempt has a bound of its own: a body that drips is within every read's.
        limits = httpx.Limits(max_connections=1)
        return httpx.AsyncClient(headers=self._headers, verify=self._tls, timeout=self._timeout, limits=limits)

    async def close(self) -> None:
        """Let go of the connections."""
        await asyncio.gather(*self._closing, *(http.aclose() for http in self._idle), return_exceptions=True)


def _read(answer: httpx.Response, body: bytes) -> Done:
    status = answer.status_code
    if answer.is_success:
        return _done(status, body)
    if status in _TRY_AGAIN or status >= 500:
        msg = f"the CRM answers {status}"
        raise CrmUnavailableError(msg, seconds_to_wait(answer.headers.get("Retry-After")))
    if status in _NOT_OURS or status < 400:
        setting = _NOT_OURS.get(status, "crm.url")
        msg = f"the CRM answers {status}: mend {setting}, or what it may do at the CRM; events wait meanwhile"
        raise ConfigurationError(msg)
    msg = f"the CRM refuses the event: {status}"
    raise BadEventError(msg, reason=f"crm_{status}")


def _done(status: int, body: bytes) -> Done:
    try:
        return _DONE[orjson.loads(body)["status"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        msg = f"the CRM answers {status} without a status that is applied or duplicate"
        raise CrmUnavailableError(msg) from None


def seconds_to_wait(text: str | None) -> float | None:
    """Seconds of a ``Retry-After`` in either form (RFC 9110 §10.2.3); None if it says none, or makes no sense."""
    seconds = parse_retry_after(text)
    if seconds is not None or not text:
        return seconds
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if instant.tzinfo is None:  # "-0000": UTC, its place unknown
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, instant.timestamp() - time.time())
