"""A breach of any hard rule undoes the load: the ledger says failed, and the previous data stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from schemas.canonical import EventType
from tests.warehouse.events import assigned, at, event, everything, handled, land, numbered, queued, status, table
from warehouse import quality
from warehouse.engine import Warehouse
from warehouse.errors import QualityError
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.statements import statements
from warehouse.windows import Window

DAY = Window(at("00:00:00"), at("00:00:00", day=5))

# What a wrong statement of a load might do to its rows, and the rule that sees it first.
BREACHES = {
    "UPDATE queue_intervals SET interval_minutes = 60": "wfm_intervals.one_grid",
    "UPDATE queue_intervals SET answered_in_threshold = answered + 1": "wfm_intervals.threshold_within_answered",
    "UPDATE agent_intervals SET off_queue_ms = 900001": "wfm_intervals.agent_time_within_interval",
    "UPDATE queue_intervals SET interval_start = interval_start + INTERVAL '1 minute'": "wfm_intervals.off_grid",
    "UPDATE agent_intervals SET interval_start = interval_start + INTERVAL '1 second'": "wfm_intervals.off_grid",
    "UPDATE queue_intervals SET hold_ms = -1": "wfm_intervals.negative",
    "UPDATE agent_intervals SET idle_ms = -1": "wfm_intervals.negative",
    "UPDATE queue_intervals SET offered = offered + 1": "wfm_intervals.conservation",
    "UPDATE queue_intervals SET talk_ms = talk_ms + 1": "wfm_intervals.conservation",
    "DELETE FROM queue_intervals": "wfm_intervals.conservation",
    "UPDATE conversations SET abandoned = abandoned + 1": "conversations.conservation",
    "DELETE FROM conversations": "conversations.conservation",
    "UPDATE conversations SET wait_ms = -1": "conversations.negative",
    "UPDATE daily_analytics SET transferred = handled + 1": "daily_analytics.parts_within_wholes",
    "UPDATE daily_analytics SET offered = 1 + offered WHERE agent_id > ''": "daily_analytics.queue_apart_from_agents",
    "UPDATE daily_analytics SET acw_ms = -1": "daily_analytics.negative",
    "UPDATE daily_analytics SET conversations = 7 WHERE agent_id IS NULL": "daily_analytics.conservation",
    "UPDATE daily_analytics SET hold_ms = hold_ms + 1": "daily_analytics.conservation",
    "DELETE FROM daily_analytics": "daily_analytics.conservation",
    "UPDATE conversations SET last_event_at = first_event_at - INTERVAL '1 second'": "conversations.negative",
}


def test_a_breach_marks_the_load_failed_and_keeps_the_previous_data(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(
        warehouse.landing_dir,
        *numbered(
            [
                status("08:50:00", "ANNA", "IDLE"),
                event(EventType.STARTED, "09:00:00", "a"),
                queued("09:00:00", "a"),
                assigned("09:00:10", "a"),
                handled("09:05:00", "a", talk_ms=1000),
            ]
        ),
    )
    load_events(warehouse, run_id="r")
    loads: dict[str, Callable[[], object]] = {
        "wfm_intervals": lambda: load_wfm_intervals(warehouse, DAY, run_id="r"),
        "conversations": lambda: load_conversations(warehouse, DAY, run_id="r"),
        "daily_analytics": lambda: load_daily_analytics(warehouse, DAY, run_id="r"),
    }
    for load in loads.values():
        load()
    before = everything(warehouse)
    assert all(before.values())
    check = quality.check
    for statement, rule in BREACHES.items():
        with monkeypatch.context() as patch:
            patch.setattr("warehouse.quality.check", broken_by(statement, check))
            with pytest.raises(QualityError) as raised:
                loads[rule.partition(".")[0]]()
        assert raised.value.rule == rule, statement
        assert everything(warehouse) == before
        last = table(warehouse, "load_runs")[-1]
        assert (last["dataset"], last["status"], last["rows"]) == (rule.partition(".")[0], "failed", 0)
        assert rule in last["error"]
    covered = {name for name in statements("rules") if name.partition(".")[0] in loads}
    # Repeated rows PostgreSQL's unique indexes refuse before any rule does.
    assert {name for name in covered if "repeated" not in name} == set(BREACHES.values())


def broken_by(statement: str, check: Callable[..., None]) -> Callable[..., None]:
    """The check after a statement that breaks what the load has just built."""

    def broken(connection: sa.Connection, group: str, **values: object) -> None:
        connection.execute(sa.text(statement))
        check(connection, group, **values)

    return broken
