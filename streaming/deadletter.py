"""Dead letters: the original's bytes, and headers that say what went wrong (names of Kafka Connect)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from operator import methodcaller
from typing import NamedTuple, cast

from confluent_kafka import Message

from schemas.normalise import MAX_TIMESTAMP_MS
from streaming.errors import BadEventError
from streaming.instants import HOUR_MS

Headers = list[tuple[str, str | bytes | None]]
"""Record headers as the Kafka client takes them."""

_CONNECT = "__connect.errors."
_OWN = "ccaas.error."
# A message may quote a field's name; a header is no place for more.
_MAX_MESSAGE_CHARS = 1_000
# Of what is grouped by; a record written by somebody else may hold anything.
_MAX_WORD_CHARS = 100
_MAX_PATH_CHARS = 300
# Which element of an array it was makes no kind of its own.
_INDEX = re.compile(r"\[\d+\]")
_NATURAL = re.compile(r"[0-9]{1,15}")

_STAGE, _MESSAGE = f"{_CONNECT}stage", f"{_CONNECT}exception.message"
_REASON, _PATH, _TRANSPORT = f"{_OWN}reason", f"{_OWN}path", f"{_OWN}transport"
_ATTEMPT, _TIME = f"{_OWN}attempt", f"{_OWN}time"

KIND_HEADERS = frozenset({_STAGE, _REASON, _PATH})
"""The headers by which kinds of failure are told apart."""

# The client gives a broken list and an error at once for a name that is no UTF-8. Called directly, a busy Python would
# not notice the error until later, and reading the list could end the process.
_received_headers = methodcaller("headers")

KAFKA = "kafka"
"""Transport of what lay on an events topic already: Avro, no JSON."""

FOREIGN = "foreign"
"""Stage and reason of a record on a dead-letter topic that this platform did not write."""


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """A record's headers as they were received.

    None of them if the name of one is no UTF-8: Kafka's client can't read those of such a record, which this platform
    does not write.
    """
    try:
        # Those received are a list; the dict of the client's type hints is for producing.
        return cast("list[tuple[str, bytes | None]]", _received_headers(message) or [])
    except (SystemError, UnicodeDecodeError):
        return []


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
    kept = original_headers(original)
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


def original_headers(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Headers that the failed record had itself."""
    return [(key, value) for key, value in headers if not key.startswith((_CONNECT, _OWN))]


def own_headers(headers: Headers) -> Headers:
    """Those that say what went wrong, without the failed record's own."""
    return [(key, value) for key, value in headers if key.startswith((_CONNECT, _OWN))]


def origin_of(headers: Iterable[tuple[str, bytes | None]]) -> Origin | None:
    """Where a dead letter's headers say that the record lay on Kafka; None if they do not."""
    texts = {key: (value or b"").decode("utf-8", "replace") for key, value in headers if key.startswith(_CONNECT)}
    topic, offset = texts.get(f"{_CONNECT}topic", ""), _natural(texts.get(f"{_CONNECT}offset", ""), -1)
    partition = _natural(texts.get(f"{_CONNECT}partition", ""), -1)
    return Origin(topic, partition, offset) if topic and partition >= 0 and offset >= 0 else None


class Described(NamedTuple):
    """What the headers of a dead letter say; how it is grouped and selected."""

    transport: str
    stage: str
    reason: str
    path: str
    message: str
    attempt: int
    failed_ms: int
    """When it failed, epoch ms; the record's time if somebody else wrote it."""
    is_ours: bool
    """False for a record that this platform did not write: its stage is ``foreign``."""

    @property
    def hour_ms(self) -> int:
        """The hour of the failure, epoch ms: dead letters are grouped by it."""
        return self.failed_ms - self.failed_ms % HOUR_MS


def described(headers: Iterable[tuple[str, str | bytes | None]], record_ms: int) -> Described:
    """Read a dead letter's headers. Never raises: anybody may have written the record.

    Args:
        headers: As Kafka gives them; of a repeated one the last counts.
        record_ms: Kafka's record time, epoch ms.
    """
    said = dict(headers)
    stage, reason, transport = _text(said.get(_STAGE)), _text(said.get(_REASON)), said.get(_TRANSPORT)
    is_ours = bool(stage and reason and transport is not None)
    path = _text(said.get(_PATH))
    return Described(
        transport="unknown" if transport is None else _text(transport)[:_MAX_WORD_CHARS],
        stage=stage[:_MAX_WORD_CHARS] if is_ours else FOREIGN,
        reason=reason[:_MAX_WORD_CHARS] if is_ours else FOREIGN,
        path=(_INDEX.sub("[]", path) if "[" in path else path)[:_MAX_PATH_CHARS],
        message=_text(said.get(_MESSAGE))[:_MAX_MESSAGE_CHARS],
        attempt=_natural(_text(said.get(_ATTEMPT)), 1),
        failed_ms=min(_natural(_text(said.get(_TIME)), record_ms), MAX_TIMESTAMP_MS),
        is_ours=is_ours,
    )


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _natural(text: str, default: int) -> int:
    return int(text) if _NATURAL.fullmatch(text) else default
