"""What a reconciliation found, by type and by way."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

AGE_BOUNDS_S = {"5 min": 300, "15 min": 900, "1 h": 3_600, "6 h": 21_600, "1 day": 86_400}
"""Upper bounds of the age histogram, s; what is older counts as ``more``."""


@dataclass(frozen=True, slots=True)
class TypeCount:
    """Canonical events of one type. ``expected`` is the sum of the others.

    Attributes:
        expected: should exist according to REST.
        pushed: on the bus by webhook, or set aside and trusted since.
        recovered: on the bus by an earlier reconciliation.
        in_spool: received, not yet published.
        deferred: lately set aside, and not trusted yet.
        dead_letters: came, but can't become canonical.
        missing: never came.
    """

    expected: int = 0
    pushed: int = 0
    recovered: int = 0
    in_spool: int = 0
    deferred: int = 0
    dead_letters: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """One tenant's window.

    Attributes:
        tenant_id: whose.
        window_start: of the window, UTC, inclusive.
        window_end: its end, exclusive.
        contacts: that ended in it.
        by_type: counts by canonical type.
        published: events published and acknowledged; 0 in a dry run.
        ages: the missing events by how old they were: upper bound → count.
        bad_rows: REST rows that can't be used.
        not_judged: events too old to be looked for: before the look-back, or expired on the bus; and first legs of
            contacts of which only the later states are known.
        undecodable: records on the bus that are no canonical events.
        steady: False if REST's lists never stood still while they were read.
    """

    tenant_id: str
    window_start: datetime
    window_end: datetime
    contacts: int
    by_type: dict[str, TypeCount]
    published: int
    ages: dict[str, int] = field(default_factory=dict)
    bad_rows: int = 0
    not_judged: int = 0
    undecodable: int = 0
    steady: bool = True

    @property
    def expected(self) -> int:
        """Events that should exist."""
        return sum(count.expected for count in self.by_type.values())

    @property
    def missing(self) -> int:
        """Events that never came."""
        return sum(count.missing for count in self.by_type.values())

    @property
    def missing_share(self) -> float:
        """Missing of expected, 0 to 1."""
        return self.missing / self.expected if self.expected else 0.0


def age_class(seconds: float) -> str:
    """The class of the age histogram."""
    return next((name for name, bound in AGE_BOUNDS_S.items() if seconds <= bound), "more")
