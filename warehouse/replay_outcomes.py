"""What became of dead letters, from the records of the replays' topic."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from confluent_kafka import Message
from pydantic import ValidationError

from streaming.reprocess.replays import GroupCount, Outcome, Replay
from warehouse.failed_kinds import Kind, clean, without_nul

log = structlog.get_logger()

# In one write; a record has as many kinds as its transaction.
_MAX_GROUPS = 20_000
_MAX_RECORDS = 50_000


class Audit(NamedTuple):
    """What a row of ``dead_letter_replays`` is about."""

    run_id: str
    vendor: str
    tenant_id: str
    outcome: str
    stage: str
    reason: str
    path: str


@dataclass(slots=True)
class Settled:
    """Changes of a kind's counts. ``parked`` falls when parked ones are replayed after all."""

    replayed: int = 0
    failed_again: int = 0
    parked: int = 0


@dataclass(slots=True)
class Audited:
    """Counts of one audit row. Times in epoch ms."""

    events: int = 0
    first_ms: int = 2**62
    last_ms: int = 0
    fixups: str | None = None


@dataclass(slots=True)
class Outcomes:
    """Sums up replays in memory, up to its bound.

    Attributes:
        topics: The dead-letter topics that count; the topic of replays may serve other installations too.
    """

    topics: frozenset[str]
    settled: dict[Kind, Settled] = field(default_factory=dict)
    audit: dict[Audit, Audited] = field(default_factory=dict)
    records: int = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to write."""
        return max(len(self.settled), len(self.audit)) >= _MAX_GROUPS or self.records >= _MAX_RECORDS

    def add(self, messages: Iterable[Message]) -> None:
        """Count records of the replays' topic; one that is no replay is left out, and said."""
        for message in messages:
            self.records += 1
            try:
                replay = Replay.model_validate_json(message.value() or b"")
            except ValidationError as error:
                log.error("a record of the replays' topic is none", offset=message.offset(), faults=error.error_count())
                continue
            for count in replay.groups if replay.topic in self.topics else ():
                self._add(replay, count)

    def empty(self) -> None:
        """Forget the sums."""
        self.settled, self.audit, self.records = {}, {}, 0

    def _add(self, replay: Replay, count: GroupCount) -> None:
        kind = clean(
            Kind(
                replay.vendor,
                replay.tenant_id,
                count.hour_ms,
                count.transport,
                count.stage,
                count.reason,
                count.path,
                count.event_type,
            )
        )
        settled = self.settled.setdefault(kind, Settled())
        if count.was_parked:
            settled.parked -= count.events
        match count.outcome:
            case Outcome.REPLAYED:
                settled.replayed += count.events
            case Outcome.FAILED_AGAIN:
                settled.failed_again += count.events
            case Outcome.PARKED:
                settled.parked += count.events
        key = Audit(
            without_nul(replay.run_id),
            replay.vendor,
            replay.tenant_id,
            count.outcome,
            kind.stage,
            kind.reason,
            kind.path,
        )
        audited = self.audit.setdefault(key, Audited())
        audited.events += count.events
        audited.first_ms = min(audited.first_ms, replay.at_ms)
        audited.last_ms = max(audited.last_ms, replay.at_ms)
        if replay.fixups:
            audited.fixups = without_nul(json.dumps(replay.fixups, ensure_ascii=False))
