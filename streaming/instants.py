"""Instants and epoch milliseconds, without a float on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def to_ms(instant: datetime) -> int:
    """Epoch ms of an instant, cut.

    Raises:
        TypeError: it has no time zone.
    """
    return (instant - EPOCH) // _MILLISECOND


def from_ms(epoch_ms: int) -> datetime:
    """UTC instant of epoch ms."""
    return EPOCH + epoch_ms * _MILLISECOND
