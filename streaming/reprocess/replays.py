"""The topic of replays: what became of dead letters, written in the transaction that published what they became.

One record a transaction. It is the memory by which no dead letter is replayed twice, and the audit from which the
warehouse's ``dead_letter_replays`` and ``failed_events`` are kept.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

TOPIC = "ccaaus.dlq-replays"
"""One topic of one partition for all tenants; the key of a record is its dead-letter topic's name."""

RETENTION_MS = 8 * 86_400_000
"""A day longer than any dead letter lives: what is forgotten here is gone there."""


class Outcome(StrEnum):
    """What became of a dead letter in a replay. It is never tried again under the same offset, unless parked."""

    REPLAYED = "replayed"
    FAILED_AGAIN = "failed_again"
    """It is on the dead-letter topic anew, with fresh headers and a greater attempt."""
    PARKED = "parked"
    """It failed too often: it stays where it is, and only a person's run that asks for parked ones tries it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupCount(_Part):
    """Dead letters of one kind and hour, as ``failed_events`` groups them, and what became of them."""

    transport: str
    stage: str
    reason: str
    path: str
    event_type: str
    hour_ms: int
    outcome: Outcome
    events: Annotated[int, Field(gt=0)]
    was_parked: bool = False
    """They were parked before this replay, and are counted under ``outcome`` from now on."""


class Replay(_Part):
    """The value of a record, as JSON.

    Attributes:
        run_id: The run's, for example of Prefect.
        at_ms: Wall time, epoch ms.
        topic: The dead-letter topic.
        done: By partition (as text) the offsets dealt with: spans ``[first, last]``, inclusive, ascending. Parked ones
            are in ``parked`` instead.
        parked: As ``done``.
        groups: Counts for the warehouse.
        fixups: Fix-ups that were in force, as given.
    """

    run_id: str
    at_ms: int
    vendor: str
    tenant_id: str
    topic: str
    done: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    parked: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    groups: tuple[GroupCount, ...] = ()
    fixups: tuple[dict[str, Any], ...] = ()
