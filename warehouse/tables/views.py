"""The views as they are read: the columns of the tables that they show, and those that they add.

Their SQL is in the migrations. They have a collection of their own, since nobody creates them from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Double, MetaData, Table

from warehouse.tables.columns import described, key
from warehouse.tables.daily import daily_analytics
from warehouse.tables.failures import failed_events
from warehouse.tables.intervals import agent_intervals, queue_intervals
from warehouse.tables.sources import (
    ERLANG,
    GENESYS_HANDLE_TIME,
    GENESYS_METRICS,
    GENESYS_RATIOS,
    OCCUPANCY,
    REPEAT_CALLS,
)

view_metadata = MetaData()


def shown(columns: Iterable[Column[Any]]) -> list[Column[Any]]:
    """A table's columns as a view shows them."""
    return [Column(c.name, c.type, nullable=c.nullable, doc=c.doc, info=dict(c.info)) for c in columns]


def rate(name: str, doc: str, formula: str, source: str, unit: str = "share, 0 to 1") -> Column[float]:
    """A quotient; NULL where its denominator is 0."""
    return Column(name, Double, doc=doc, info=described(unit, formula, source))


def view(name: str, row: str, columns: Sequence[Column[Any]]) -> Table:
    """A view's definition."""
    return Table(name, view_metadata, *columns, info={"row": row})


def _queue_rates() -> list[Column[Any]]:
    return [
        rate("aht_ms", "Average handle time", "(talk_ms + hold_ms + acw_ms) / handled", GENESYS_HANDLE_TIME, "ms"),
        rate("asa_ms", "Average speed of answer", "wait_answered_ms / answered", ERLANG, "ms"),
        rate("abandon_rate", "Abandoned of the offered", "abandoned / offered", GENESYS_METRICS),
        rate(
            "service_level",
            "Answered within the threshold, of the answered; abandons are not counted (Genesys's default)",
            "answered_in_threshold / answered",
            GENESYS_METRICS,
        ),
    ]


def _daily_rates() -> list[Column[Any]]:
    return [
        *_queue_rates(),
        rate("transfer_rate", "Transferred of the handled", "transferred / handled", GENESYS_RATIOS),
        rate(
            "repeat_rate",
            "Repeated calls, of the inbound ones whose caller is known",
            "repeat_callers / known_callers",
            REPEAT_CALLS,
        ),
    ]


queue_interval_metrics = view(
    "queue_interval_metrics", "queue_intervals with their rates", [*shown(queue_intervals.c), *_queue_rates()]
)

agent_interval_metrics = view(
    "agent_interval_metrics",
    "agent_intervals with their occupancy",
    [
        *shown(agent_intervals.c),
        rate(
            "occupancy",
            "Interacting of the time in which the agent could be, off queue and not responding left out",
            "interacting_ms / (interacting_ms + communicating_ms + idle_ms)",
            OCCUPANCY,
        ),
    ],
)

daily_analytics_metrics = view(
    "daily_analytics_metrics",
    "daily_analytics with their rates: of an agent in a queue, or of the queue's own part",
    [*shown(daily_analytics.c), *_daily_rates()],
)

daily_queue_metrics = view(
    "daily_queue_metrics",
    "one queue and media type of a tenant on one UTC day: the sums over all agents, and their rates",
    [*shown(c for c in daily_analytics.c if c.name != "agent_id"), *_daily_rates()],
)

failed_event_status = view(
    "failed_event_status",
    "failed_events with what is still to be done",
    [
        *shown(failed_events.c),
        Column(
            "open",
            BigInteger,
            doc="Dead letters that wait for a replay",
            info=described("1", "greatest of 0 and events - replayed - failed_again - parked"),
        ),
        key("replay_status", "open, partly, parked, failed again (its rows are counted anew, later) or replayed"),
    ],
)
