"""Sums that the cells of intervals and the rows of days have in common, with the definitions that they follow."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column

from warehouse.tables.columns import count, ms
from warehouse.tables.sources import GENESYS_HANDLE_TIME, GENESYS_METRICS, GENESYS_OFFERED, GENESYS_WHEN_COUNTED

_WAIT = "wait_ms, else the time since the latest conversation.queued into the queue"


def queue_counts(without_agent: str = "") -> list[Column[Any]]:
    """How a queue was entered and left. ``without_agent`` is appended to what no agent does."""
    return [
        count(
            "offered",
            f"Queue entries, by their time{without_agent}",
            formula="count of conversation.queued",
            source=GENESYS_OFFERED,
        ),
        count(
            "answered",
            "Answers, by their time",
            formula="count of conversation.assigned",
            source=GENESYS_WHEN_COUNTED,
        ),
        count(
            "abandoned",
            f"Abandons, by their time{without_agent}",
            formula="count of conversation.abandoned",
            source=GENESYS_METRICS,
        ),
        count(
            "flowed_out",
            f"Flow-outs and unknown endings in the queue, by their time{without_agent}",
            formula="count of conversation.flowed_out",
            source=GENESYS_OFFERED,
        ),
        count(
            "answered_in_threshold",
            "Answers after a known wait of at most the service level's seconds (warehouse.service_level_seconds)",
            formula="answered with wait <= threshold",
            source=GENESYS_METRICS,
        ),
        ms(
            "wait_answered_ms",
            "Wait of the answers; an unknown wait counts 0",
            formula=f"sum over the answered of {_WAIT}",
            source=GENESYS_METRICS,
        ),
        ms(
            "wait_abandoned_ms",
            "Wait of the abandons; an unknown wait counts 0",
            formula=f"sum over the abandoned of {_WAIT}",
            source=GENESYS_METRICS,
        ),
        count(
            "handled",
            "Agents' legs, by the end of their wrap-up",
            formula="count of conversation.handled",
            source=GENESYS_WHEN_COUNTED,
        ),
    ]


def handle_times() -> list[Column[Any]]:
    """The parts of handle time."""
    return [
        ms(
            "talk_ms",
            "Talk time of the handled",
            formula="sum of talk_ms of conversation.handled",
            source=GENESYS_HANDLE_TIME,
        ),
        ms(
            "hold_ms",
            "Hold time of the handled",
            formula="sum of hold_ms of conversation.handled",
            source=GENESYS_HANDLE_TIME,
        ),
        ms(
            "acw_ms",
            "Wrap-up time of the handled",
            formula="sum of acw_ms of the leg's conversation.wrapup",
            source=GENESYS_HANDLE_TIME,
        ),
    ]


def queue_sums() -> list[Column[Any]]:
    """All of them."""
    return [*queue_counts(), *handle_times()]
