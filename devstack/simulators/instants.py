"""Instants of a vendor's JSON: ISO 8601 outside, epoch ms inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(at_ms: int) -> str:
    """An instant (epoch ms) with milliseconds and Z."""
    return f"{_moment(at_ms):%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def iso_seconds(at_ms: int) -> str:
    """An instant (epoch ms) cut to the second, with Z."""
    return f"{_moment(at_ms):%Y-%m-%dT%H:%M:%SZ}"


def instant(text: str) -> int:
    """Epoch ms of an instant with an offset.

    Raises:
        ValueError: it is no instant, or has no offset.
    """
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
    except TypeError:
        msg = f"{text!r} has no offset from UTC"
        raise ValueError(msg) from None


def interval(text: str) -> tuple[int, int]:
    """Begin and end (epoch ms) of ``begin/end``, half-open.

    Raises:
        ValueError: it is no interval, or empty.
    """
    begin, _, end = text.partition("/")
    begin_ms, end_ms = instant(begin), instant(end)
    if begin_ms >= end_ms:
        msg = f"{text!r} ends before it begins"
        raise ValueError(msg)
    return begin_ms, end_ms


def _moment(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)
