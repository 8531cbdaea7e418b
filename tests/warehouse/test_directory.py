"""Names of queues and agents: new ones, renamed ones, and those that have gone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from streaming.directory import Agent, Directory, Queue
from tests.warehouse.events import assigned, at, handled, land, queued, status, table
from warehouse import tables
from warehouse.directory import EmptyDirectoryError, merge_directory
from warehouse.engine import Warehouse, writer
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.windows import Window

FIRST = Directory(
    (Queue("PS", "Regular activity", None, "Retail"), Queue("NW", "New customers", "VOICE")),
    (Agent("ANNA", "Anna A.", "Telephone centre"), Agent("BEN", None), Agent("ZOË", "Zoë 'Z' \\ O\"Neil")),
)


def _merge(warehouse: Warehouse, directory: Directory, tenant_id: str = "bank-north", **more: bool) -> None:
    merge_directory(warehouse, "genesys", tenant_id, directory, run_id="r", **more)


def _rows(warehouse: Warehouse, name: str, tenant_id: str = "bank-north") -> dict[str, dict[str, Any]]:
    found = tables.metadata.tables[name]
    with writer(warehouse) as connection:
        rows = connection.execute(sa.select(found).where(found.c.tenant_id == tenant_id)).mappings().all()
    return {row[f"{name[:-1]}_id"]: dict(row) for row in rows}


def test_names_are_merged_and_who_has_gone_stays_inactive(warehouse: Warehouse) -> None:
    _merge(warehouse, FIRST)
    _merge(warehouse, FIRST, "bank-south")
    south = _rows(warehouse, "queues", "bank-south")
    before = _rows(warehouse, "agents")
    assert {agent: (row["name"], row["team"], row["is_active"]) for agent, row in before.items()} == {
        agent.id: (agent.name, agent.team, True) for agent in FIRST.agents
    }

    second = Directory(
        (Queue("PS", "Everyday banking", None, "Retail"), Queue("TT", "Call-back", is_active=False)),
        (Agent("BEN", "Ben B."), Agent("ANNA", "Anna A.", is_active=False)),
    )
    _merge(warehouse, second)
    _merge(warehouse, second)

    queues, agents = _rows(warehouse, "queues"), _rows(warehouse, "agents")
    assert {queue: (row["name"], row["media_type"], row["is_active"]) for queue, row in queues.items()} == {
        "PS": ("Everyday banking", None, True),
        "NW": ("New customers", "VOICE", False),
        "TT": ("Call-back", None, False),
    }
    assert {agent: (row["name"], row["team"], row["is_active"]) for agent, row in agents.items()} == {
        "ANNA": ("Anna A.", None, False),
        "BEN": ("Ben B.", None, True),
        "ZOË": ("Zoë 'Z' \\ O\"Neil", None, False),
    }
    assert agents["ZOË"] == before["ZOË"] | {"is_active": False}, "last seen when it was"
    assert agents["BEN"]["first_seen_at"] == before["BEN"]["first_seen_at"] < agents["BEN"]["last_seen_at"]
    assert isinstance(agents["BEN"]["last_seen_at"], datetime)
    assert _rows(warehouse, "queues", "bank-south") == south, "another tenant's"
    _merge(warehouse, FIRST)
    assert all(row["is_active"] for row in _rows(warehouse, "agents").values()), "it came back"


def test_a_list_that_is_suddenly_empty_is_not_believed(warehouse: Warehouse) -> None:
    _merge(warehouse, Directory((), ()))
    _merge(warehouse, FIRST)
    before = _rows(warehouse, "queues"), _rows(warehouse, "agents")
    with pytest.raises(EmptyDirectoryError, match=r"bank-north: the vendor lists no agents, of 3 .*believe_empty"):
        _merge(warehouse, Directory(FIRST.queues[:1], ()))
    assert (_rows(warehouse, "queues"), _rows(warehouse, "agents")) == before
    assert [row["status"] for row in table(warehouse, "load_runs")] == ["succeeded", "succeeded", "failed"]
    _merge(warehouse, Directory(FIRST.queues, ()), believe_empty=True)
    assert not any(row["is_active"] for row in _rows(warehouse, "agents").values())


def test_intervals_are_read_with_names_and_with_ids_where_there_are_none(warehouse: Warehouse) -> None:
    call = [queued("09:00:00", "c1"), assigned("09:00:30", "c1"), handled("09:03:00", "c1")]
    other = [
        queued("09:01:00", "c2", queue="XX"),
        status("09:00:00", "ANNA", "IDLE"),
        status("09:00:00", "EVA", "IDLE"),
    ]
    land(warehouse.landing_dir, *call, *other)
    load_events(warehouse, run_id="r")
    load_wfm_intervals(warehouse, Window(at("09:00:00"), at("09:15:00")), run_id="r")
    _merge(warehouse, FIRST)
    with writer(warehouse) as connection:
        queues = connection.execute(
            sa.text(
                "SELECT queue_id, queue_name, division, offered, aht_ms FROM queue_interval_report ORDER BY queue_id"
            )
        ).all()
        agents = connection.execute(
            sa.text("SELECT agent_id, agent_name, team, occupancy FROM agent_interval_report ORDER BY agent_id")
        ).all()
    assert [tuple(row) for row in queues] == [("PS", "Regular activity", "Retail", 1, 0.0), ("XX", "XX", None, 1, None)]
    assert [tuple(row) for row in agents] == [("ANNA", "Anna A.", "Telephone centre", 0.0), ("EVA", "EVA", None, 0.0)]
