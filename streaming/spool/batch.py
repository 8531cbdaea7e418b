"""Many small requests as one row: two integers a request in front, the bodies one after another."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_REQUESTS = 512
"""Of one row: what a drain has to publish before any of it may leave."""
MAX_BYTES = 4 << 20
"""Of one row, unless a single body is longer."""


class SpooledEvent(NamedTuple):
    """One webhook request as it was received."""

    received_us: int
    body: bytes


def deferred_size(body: bytes, signature: str, reason: str) -> int:
    """Bytes that a deferred request takes of its lane's bounds; the trigger of its table counts the same."""
    return len(body) + len(signature.encode()) + len(reason.encode())


class Batch:
    """A row being filled: one tenant's requests in the order of their arrival."""

    __slots__ = ("bodies", "bytes", "frames")

    def __init__(self) -> None:
        # Flat, two integers a request (length, received_us): no object a request beside its body.
        self.frames: list[int] = []
        self.bodies: list[bytes] = []
        self.bytes = 0

    @property
    def requests(self) -> int:
        """Requests in it."""
        return len(self.bodies)

    def columns(self) -> tuple[int, int, int, int, bytes, bytes]:
        """first_us, last_us, requests, bytes, frames, bodies of the row."""
        frames = self.frames
        packed = struct.pack(f"<{len(frames)}q", *frames)
        # Not min and max: a wall clock that is set back must not disturb what depends on the order of arrival.
        return frames[1], frames[-1], len(self.bodies), self.bytes, packed, b"".join(self.bodies)


def unpack(frames: bytes, bodies: bytes) -> Iterator[SpooledEvent]:
    """The requests of a row, in order.

    Args:
        frames: Column ``frames``.
        bodies: Column ``bodies``.
    """
    at = 0
    for length, received_us in struct.iter_unpack("<qq", frames):
        yield SpooledEvent(received_us, bodies[at : at + length])
        at += length
