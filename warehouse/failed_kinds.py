"""Dead letters by kind: what failed alike, of one tenant within one hour, is one group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from streaming.deadletter import described, headers_of
from streaming.reprocess.kinds import native_type
from streaming.settings import Tenant

OTHERS = "(others)"
"""Path and event type of what lies beyond the bound of kinds: a vendor may put ids into names."""

# Enough to see what it is; the whole original lies on Kafka.
_MAX_SAMPLE_CHARS = 2_000
_MAX_TYPE_CHARS = 300
# In one write. With messages and samples some 100 MB at most.
_MAX_GROUPS = 20_000
# A write now and then, so that a long backlog is not read again from its start after an interruption.
_MAX_LETTERS = 500_000
# Hours of which all kinds are remembered (some 100 KB each); what is forgotten is asked for again.
_MAX_FULL_HOURS = 200


class Kind(NamedTuple):
    """What a row of ``failed_events`` is about."""

    vendor: str
    tenant_id: str
    hour_ms: int
    transport: str
    stage: str
    reason: str
    path: str
    event_type: str

    @property
    def hour(self) -> tuple[str, str, int]:
        """Whose hour: the unit within which kinds are bounded."""
        return self.vendor, self.tenant_id, self.hour_ms


@dataclass(slots=True)
class Group:
    """Dead letters of one kind; the first of them is the sample. Times in epoch ms."""

    topic: str
    partition: int
    offset: int
    message: str
    sample: str | None
    events: int = 0
    attempt: int = 1
    first_ms: int = 2**62
    last_ms: int = 0


@dataclass(slots=True)
class Collector:
    """Groups dead letters in memory, up to its bound.

    Args:
        tenants: By dead-letter topic.
    """

    tenants: Mapping[str, Tenant]
    groups: dict[Kind, Group] = field(default_factory=dict)
    letters: int = 0
    _full: dict[tuple[str, str, int], set[Kind]] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether it is time to write."""
        return len(self.groups) >= _MAX_GROUPS or self.letters >= _MAX_LETTERS

    def add(self, messages: Iterable[Message]) -> None:
        """Hot path: count records of dead-letter topics."""
        groups = self.groups
        for message in messages:
            topic = message.topic() or ""
            tenant = self.tenants[topic]
            value = message.value()
            letter = described(headers_of(message), max(message.timestamp()[1], 0))
            kind = Kind(
                tenant.vendor,
                tenant.tenant_id,
                letter.hour_ms,
                # Whoever wrote what is not ours may have put anything there.
                letter.transport if letter.is_ours else "unknown",
                letter.stage,
                letter.reason,
                letter.path if letter.is_ours else "",
                native_type(tenant.vendor, value),
            )
            group = groups.get(kind)
            if group is None:
                kind = self._bounded(clean(kind))
                group = groups.get(kind)
            if group is None:
                group = groups[kind] = Group(
                    topic,
                    message.partition() or 0,
                    message.offset() or 0,
                    without_nul(letter.message),
                    _sample(value),
                )
            group.events += 1
            group.attempt = max(group.attempt, letter.attempt)
            group.first_ms = min(group.first_ms, letter.failed_ms)
            group.last_ms = max(group.last_ms, letter.failed_ms)
            self.letters += 1

    def empty(self) -> None:
        """Forget the groups; which hours are full is still known."""
        self.groups, self.letters = {}, 0

    def learn(self, kinds: Iterable[Kind]) -> None:
        """All kinds of hours that have as many as they may have: others of these hours are counted together at once."""
        for kind in kinds:
            self._full.setdefault(kind.hour, set()).add(kind)
        while len(self._full) > _MAX_FULL_HOURS:
            del self._full[next(iter(self._full))]

    def _bounded(self, kind: Kind) -> Kind:
        known = self._full.get(kind.hour)
        return kind if known is None or kind in known else kind._replace(path=OTHERS, event_type=OTHERS)


def clean(kind: Kind) -> Kind:
    """As it is stored: without NUL, which PostgreSQL's text does not hold, and not longer than anybody reads."""
    return kind._replace(
        transport=without_nul(kind.transport),
        stage=without_nul(kind.stage),
        reason=without_nul(kind.reason),
        path=without_nul(kind.path),
        event_type=without_nul(kind.event_type)[:_MAX_TYPE_CHARS],
    )


def without_nul(text: str) -> str:
    """The text without NUL characters."""
    return text.replace("\x00", "")


def _sample(value: bytes | None) -> str | None:
    if value is None:
        return None
    # A character has at most four bytes.
    return without_nul(value[: 4 * _MAX_SAMPLE_CHARS].decode("utf-8", "replace")[:_MAX_SAMPLE_CHARS])
