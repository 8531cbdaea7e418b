"""Dead letters: the original's bytes, and headers that say what went wrong (names of Kafka Connect)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from streaming.errors import BadEventError

Headers = list[tuple[str, str | bytes | None]]
"""Record headers as the Kafka client takes them."""

_CONNECT = "__connect.errors."
_OWN = "ccaas.error."
# A message may quote a field's name; a header is no place for more.
_MAX_MESSAGE_CHARS = 1_000


class Origin(NamedTuple):
    """Where a failed record lay on Kafka. A failure at ingestion has none."""

    topic: str
    partition: int
    offset: int


def dead_letter_headers(
    error: BadEventError,
    *,
    stage: str,
    transport: str,
    origin: Origin | None = None,
    original: Iterable[tuple[str, bytes | None]] = (),
    attempt: int = 1,
) -> Headers:
    """Headers of a dead letter; those of an earlier failure among the original's are replaced.

    Args:
        error: Why it failed.
        stage: Step that failed, e.g. ``normalise``.
        transport: How the event came, e.g. ``sse``.
        origin: Its place on Kafka, if it came from there.
        original: Headers of the failed record, kept as they are.
        attempt: How often it was tried.
    """
    kept: Headers = [(key, value) for key, value in original if not key.startswith((_CONNECT, _OWN))]
    texts = {
        f"{_CONNECT}stage": stage,
        f"{_CONNECT}exception.class.name": type(error).__name__,
        f"{_CONNECT}exception.message": str(error)[:_MAX_MESSAGE_CHARS],
        f"{_OWN}reason": error.reason,
        f"{_OWN}path": error.path,
        f"{_OWN}transport": transport,
        f"{_OWN}attempt": str(attempt),
        f"{_OWN}time": str(time.time_ns() // 1_000_000),
    }
    if origin is not None:
        texts |= {
            f"{_CONNECT}topic": origin.topic,
            f"{_CONNECT}partition": str(origin.partition),
            f"{_CONNECT}offset": str(origin.offset),
        }
    kept.extend((key, text.encode()) for key, text in texts.items())
    return kept
