"""What a run did with a tenant's dead letters, for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from streaming.reprocess.replays import Outcome
from streaming.reprocess.selection import Left

OTHERS = "(others)"
"""Stands for what lies beyond the bound of rows."""

_MAX_ROWS = 2_000


class Row(NamedTuple):
    """Dead letters that failed alike and became alike; in a dry run: would become."""

    stage: str
    reason: str
    path: str
    event_type: str
    outcome: Outcome
    reason_now: str
    path_now: str


@dataclass(slots=True)
class TenantReport:
    """Counts of one tenant.

    Attributes:
        is_dry_run: Whether nothing was written.
        read: Dead letters that were looked at.
        left: Those left where they are, by why.
        refused: Those of them that a fix-up can't be done on, by what it says.
        rows: The others, tried.
        events: Canonical events published.
        applied: In how many dead letters each fix-up changed something.
    """

    vendor: str
    tenant_id: str
    is_dry_run: bool = False
    read: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    rows: Counter[Row] = field(default_factory=Counter)
    events: int = 0
    applied: list[int] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        """Dead letters of an outcome."""
        return sum(number for row, number in self.rows.items() if row.outcome == outcome)

    def add(self, rows: Counter[Row], events: int) -> None:
        """Count what was tried; rows beyond the bound are counted together."""
        for row, number in rows.items():
            if row not in self.rows and len(self.rows) >= _MAX_ROWS:
                row = Row(row.stage, row.reason, OTHERS, OTHERS, row.outcome, row.reason_now, OTHERS)  # noqa: PLW2901
            self.rows[row] += number
        self.events += events
