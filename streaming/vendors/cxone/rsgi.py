"""RSGI as the receiver uses it; granian describes its objects only in part.

Source: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined]

__all__ = ["Headers", "HttpProtocol", "ProtocolClosed", "ProtocolError", "Scope"]


class Headers(Protocol):
    """Names in lower case. A value that is not visible ASCII counts as absent."""

    def get(self, key: str, default: Any = None) -> Any:
        """The first value of a name."""
        ...

    def get_all(self, key: str) -> list[str]:
        """All values of a name."""
        ...


class Scope(Protocol):
    """A request's head."""

    method: str
    path: str

    @property
    def headers(self) -> Headers:
        """Made anew at each access: ask once."""
        ...


class HttpProtocol(Protocol):
    """A request's body and its answer."""

    async def __call__(self) -> bytes:
        """The whole body."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in pieces."""
        ...

    def response_bytes(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Answer; the server adds the length."""
        ...
