"""What the two transports have in common: frames, and a way to open them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class Frame(NamedTuple):
    """One event of a stream."""

    cursor: str  # empty if the transport has none
    data: bytes


Attempt = Callable[[], AbstractAsyncContextManager[None]]
"""Waits for a place among the attempts of all tenants, and holds it."""


class Transport(Protocol):
    """How a tenant's events come.

    Attributes:
        name: As it stands in the records' header.
        resumes: Whether the vendor keeps events for who comes back with a cursor. If not, every reconnect leaves a gap
            that REST fills.
    """

    name: str
    resumes: bool

    def open(self, cursor: str | None, attempt: Attempt) -> AbstractAsyncContextManager[AsyncIterator[Frame]]:
        """The open stream: its frames, until the vendor ends it.

        Args:
            cursor: Last event already dealt with.
            attempt: Around every request that opens a stream or socket, and nothing else: not the token, not REST.

        Raises:
            StreamRefusedError: the vendor does not open it.
            httpx.HTTPError: the connection failed; from the frames also: it broke or went silent.
            CcaasError: the token or a REST call could not be had.
        """
        ...
