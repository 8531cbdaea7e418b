"""Ways of loading the same events: whatever the way, the tables must be the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import sqlalchemy as sa

from schemas.canonical import CanonicalEvent
from streaming.instants import from_ms
from tests.truth.trace_events import land_events
from warehouse import tables
from warehouse.backfill import Backfill, Outcome, run_backfill
from warehouse.engine import Warehouse, writer
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals, load_wfm_intervals_incremental
from warehouse.windows import Window

_RUN = "five-ways"


@dataclass(frozen=True)
class Span:
    """Events by time, and the window from midnight to midnight that holds them."""

    events: Sequence[CanonicalEvent]

    @property
    def window(self) -> Window:
        first, last = from_ms(self.events[0]["timestamp"]), from_ms(self.events[-1]["timestamp"])
        return Window(_midnight(first), _midnight(last) + timedelta(days=1))


def in_one_go(warehouse: Warehouse, span: Span) -> None:
    """Everything has landed; each table is loaded once, intervals by window."""
    land_events(warehouse.store, span.events)
    load_what_landed(warehouse, span.window)


def load_what_landed(warehouse: Warehouse, window: Window) -> None:
    """Each table once; intervals by window."""
    load_events(warehouse, run_id=_RUN)
    load_conversations(warehouse, run_id=_RUN)
    load_daily_analytics(warehouse, run_id=_RUN)
    load_wfm_intervals(warehouse, window, run_id=_RUN)


def in_steps(warehouse: Warehouse, span: Span, step: timedelta = timedelta(minutes=15)) -> None:
    """Events land as they happen; at the end of each step all loads run, by arrival."""
    taken = 0
    for window in span.window.chunks(step):
        start = taken
        while taken < len(span.events) and span.events[taken]["timestamp"] < window.end_ms:
            taken += 1
        land_events(warehouse.store, span.events[start:taken], start)
        _load_by_arrival(warehouse, window.end)


def in_random_order(warehouse: Warehouse, span: Span, pieces: int, seed: int = 7) -> None:
    """Pieces of the time come in random order, their events shuffled; a tenth of all comes last, and some twice.

    The horizon of the loads by arrival is there from the first on, so all the others are late.
    """
    random = Random(seed)
    late = set(random.sample(range(len(span.events)), len(span.events) // 10))
    prompt = [event for number, event in enumerate(span.events) if number not in late]
    size = -(-len(prompt) // pieces)
    parts = [prompt[begin : begin + size] for begin in range(0, len(prompt), size)]
    random.shuffle(parts)
    held = [span.events[number] for number in late]
    offset = 0
    for part in [*parts, held + parts[0][:100]]:
        land_events(warehouse.store, random.sample(part, len(part)), offset)
        offset += len(part)
        _load_by_arrival(warehouse, span.window.end)


def by_backfill(warehouse: Warehouse, span: Span, lost: Window) -> None:
    """One go; then a window is lost from every table and comes back from the landing zone, day by day."""
    in_one_go(warehouse, span)
    lose(warehouse, lost)
    backfill = Backfill(lost, only_missing=False)
    done = list(run_backfill(warehouse, backfill, run_id=_RUN, now=datetime.now(UTC)))
    assert {result.outcome for result in done} == {Outcome.LOADED}
    assert len(done) == backfill.chunks


def lose(warehouse: Warehouse, window: Window) -> None:
    """Delete a window of whole days from every table."""
    instants = (
        tables.events.c.timestamp,
        tables.conversations.c.first_event_at,
        tables.queue_intervals.c.interval_start,
        tables.agent_intervals.c.interval_start,
    )
    bounds: list[tuple[sa.Column[Any], Any, Any]] = [(time, window.start, window.end) for time in instants]
    bounds.append((tables.daily_analytics.c.day, window.start.date(), window.end.date()))
    with writer(warehouse) as connection, connection.begin():
        for time, start, end in bounds:
            within = (time >= start, time < end)
            assert connection.execute(sa.select(sa.func.count()).where(*within)).scalar_one() > 0
            connection.execute(sa.delete(time.table).where(*within))


def _load_by_arrival(warehouse: Warehouse, end: datetime) -> None:
    load_events(warehouse, run_id=_RUN)
    load_conversations(warehouse, run_id=_RUN)
    load_daily_analytics(warehouse, run_id=_RUN)
    load_wfm_intervals_incremental(warehouse, end=end, run_id=_RUN)


def _midnight(instant: datetime) -> datetime:
    return datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
