"""What is expected of every table. Plain data: :mod:`warehouse.checkpoint` has Great Expectations judge it.

An expectation is about columns of a frame: the result of a statement ``table.frame`` of ``sql/quality.sql``, of the
frames ``table.key`` and ``table.ranges`` that every table has (:mod:`warehouse.frames`), or ``events.bus``
(:mod:`warehouse.completeness`). Names are for people: they stand in ``quality_results`` and in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from schemas.canonical import EventType
from warehouse import tables

Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One check.

    Attributes:
        frame: ``table.frame``.
        name: Of the check, unique within its table.
        columns: One that is to be in bounds or in a set, or two that are to be equal.
        severity: critical fails the run; a warning tells of what vendors send, which nobody here can mend.
        low: Least value, None for no bound.
        high: Greatest value, None for no bound.
        among: The values that there may be.
    """

    frame: str
    name: str
    columns: tuple[str, ...]
    severity: Severity = "critical"
    low: int | None = None
    high: int | None = None
    among: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The table that is checked."""
        return self.frame.partition(".")[0]

    @property
    def expected(self) -> str:
        """What should hold, for people."""
        if len(self.columns) > 1:
            return " = ".join(self.columns)
        (column,) = self.columns
        if self.among:
            return f"{column} among {', '.join(self.among)}"
        if self.low == self.high:
            return f"{column} = {self.low}"
        return f"{column} >= {self.low}" if self.high is None else f"{column} <= {self.high}"


def _none(frame: str, name: str, column: str, severity: Severity = "critical") -> Expectation:
    return Expectation(frame, name, (column,), severity, low=0, high=0)


def _equal(frame: str, name: str, one: str, other: str) -> Expectation:
    return Expectation(frame, name, (one, other))


def _among(frame: str, name: str, column: str, values: Sequence[str]) -> Expectation:
    return Expectation(frame, name, (column,), among=tuple(values))


def key_of(table: sa.Table) -> list[str]:
    """The columns of which no two rows have the same values; none if rows may be alike."""
    if table.primary_key.columns:
        return [column.name for column in table.primary_key.columns]
    return next(([column.name for column in index.columns] for index in table.indexes if index.unique), [])


def measures_of(table: sa.Table) -> list[str]:
    """The columns of counts and durations that can't be negative."""
    if table.name in _AS_IT_CAME:
        return []
    return [column.name for column in table.c if column.info.get("unit") in {"1", "ms"}]


def _basics(table: sa.Table) -> Iterator[Expectation]:
    if key_of(table):
        yield _none(f"{table.name}.key", "one row a key", "repeated")
    if measures_of(table):
        yield _none(f"{table.name}.ranges", "counts and durations not negative", "negative")


# These hold what vendors sent, as it came: a negative duration is theirs, and counts 0 in cells.
_AS_IT_CAME = {"events", "reconciled_events"}

EXPECTATIONS: tuple[Expectation, ...] = (
    *(expectation for table in tables.metadata.tables.values() for expectation in _basics(table)),
    _none("events.bus", "every record of the bus is here", "missing"),
    _among("events.types", "known event types", "event_type", tuple(EventType)),
    _none("events.belonging", "conversation events name a conversation", "without_conversation"),
    _none("events.belonging", "status changes name an agent", "without_agent"),
    _none("events.dates", "dated between 1970 and tomorrow", "misdated", "warning"),
    _none("reconciled_events.represented", "each is in events, itself or its twin", "not_represented"),
    _none("conversations.conservation", "every conversation has a row", "without_row"),
    _none("conversations.conservation", "events as counted", "events_differ"),
    _none("conversations.conservation", "queue counts as in events", "queue_counts_differ"),
    _none("conversations.conservation", "legs, talk and hold as in events", "legs_differ"),
    _none("conversations.rows", "every row has events", "without_events"),
    _none("conversations.rows", "last event not before the first", "last_before_first"),
    _none("conversations.rows", "ended after it started", "ended_before_start", "warning"),
    _none("conversations.rows", "ended, or heard of within a day", "never_ended", "warning"),
    _none("queue_intervals.cells", "on the grid", "off_grid"),
    _none("queue_intervals.cells", "one length of interval", "other_length"),
    _none("queue_intervals.cells", "within threshold at most answered", "threshold_above_answered"),
    _none("queue_intervals.cells", "time only of what was counted", "time_of_nothing"),
    _none("queue_intervals.conservation", "offered as in events", "offered_differs"),
    _none("queue_intervals.conservation", "answered as in events", "answered_differs"),
    _none("queue_intervals.conservation", "abandoned as in events", "abandoned_differs"),
    _none("queue_intervals.conservation", "flowed out as in events", "flowed_out_differs"),
    _none("queue_intervals.conservation", "handled as in events", "handled_differs"),
    _none("queue_intervals.conservation", "handle time as in events", "handle_time_differs"),
    _equal(
        "queue_intervals.balance",
        "offered = answered + abandoned + flowed out + still waiting",
        "still_waiting",
        "open_conversations",
    ),
    Expectation("queue_intervals.balance", "still waiting not negative", ("still_waiting",), low=0),
    Expectation("queue_intervals.balance", "left only after an entry", ("without_entry",), "warning", high=0),
    _none("queue_intervals.balance", "left the queue before the end", "ended_while_waiting", "warning"),
    _none("agent_intervals.cells", "on the grid", "off_grid"),
    _none("agent_intervals.cells", "one length of interval", "other_length"),
    _none("agent_intervals.cells", "time at most the interval", "longer_than_interval"),
    _none("agent_intervals.cells", "only cells with activity", "without_activity"),
    _none("daily_analytics.conservation", "queue counts as in the intervals", "queue_counts_differ"),
    _none("daily_analytics.conservation", "legs as in the intervals", "legs_differ"),
    _none("load_runs.latest", "latest load of a dataset succeeded", "failed"),
    _none("load_runs.latest", "start before end", "wrong_way_round"),
    _none("landed_files.files", "no file is set aside", "quarantined", "warning"),
    _none("landed_files.files", "loaded files name their load", "without_load"),
    _equal("event_type_days.conservation", "events as counted", "events", "events_there"),
    _none("metadata_field_usage.bounds", "on at most the day's events", "above_the_day"),
    _among("promoted_fields.types", "known types", "type", ("long", "double", "boolean", "string")),
    _none("failed_events.outcomes", "outcomes at most the dead letters", "more_than_failed"),
    _none("failed_events.outcomes", "first before last", "last_before_first"),
    _among("dead_letter_replays.outcomes", "known outcomes", "outcome", ("replayed", "failed_again", "parked")),
    _none("consumed_offsets.offsets", "offsets not negative", "negative"),
    _among("quality_results.statuses", "known statuses", "status", ("passed", "failed", "warning", "fresh", "late")),
)
