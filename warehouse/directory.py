"""Merge a tenant's directory into ``queues`` and ``agents``. Again, or twice at once, changes nothing but the times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Table, Text

from streaming.directory import Directory
from streaming.errors import CcaasError
from warehouse import scratch
from warehouse.engine import Warehouse, writer
from warehouse.ledger import load_run
from warehouse.statements import run as execute
from warehouse.statements import statements

_SQL = "directory"

_listed_queues = Table(
    "listed_queues",
    sa.MetaData(),
    *(Column(name, Text) for name in ("queue_id", "name", "media_type", "division")),
    Column("is_active", Boolean),
    prefixes=["TEMPORARY"],
)
_listed_agents = Table(
    "listed_agents",
    sa.MetaData(),
    *(Column(name, Text) for name in ("agent_id", "name", "team", "division")),
    Column("is_active", Boolean),
    prefixes=["TEMPORARY"],
)


class EmptyDirectoryError(CcaasError):
    """A vendor lists nothing where it listed something before; nothing was changed."""


@dataclass(frozen=True, slots=True)
class DirectoryChange:
    """What a merge did.

    Attributes:
        vendor: Whose.
        tenant_id: Whose.
        queues: Queues that the vendor lists.
        agents: Agents that it lists.
        active_queues: Active ones before and after.
        active_agents: Active ones before and after.
    """

    vendor: str
    tenant_id: str
    queues: int
    agents: int
    active_queues: tuple[int, int]
    active_agents: tuple[int, int]


def merge_directory(
    warehouse: Warehouse,
    vendor: str,
    tenant_id: str,
    directory: Directory,
    *,
    run_id: str,
    believe_empty: bool = False,
) -> DirectoryChange:
    """Take over names, add what is new, mark what has gone as inactive; one transaction with its row in the ledger.

    Args:
        warehouse: the warehouse, migrated.
        vendor: whose directory it is.
        tenant_id: whose directory it is.
        directory: all that the vendor lists.
        run_id: the caller's id for the ledger.
        believe_empty: also if it lists no queues, or no agents, where there were some.

    Raises:
        EmptyDirectoryError: it lists none; nothing was changed.
        WarehouseBusyError: another load kept the lock.
    """
    whose = {"vendor": vendor, "tenant_id": tenant_id}
    values = {**whose, "now": datetime.now(UTC)}
    with writer(warehouse) as connection, load_run(connection, "directory", "arrival", run_id) as run:
        before = _counts(connection, whose)
        if not believe_empty:
            _require_some(directory, before, tenant_id)
        scratch.fill(connection, _listed_queues, ({"queue_id": queue.id, **_rest(queue)} for queue in directory.queues))
        scratch.fill(connection, _listed_agents, ({"agent_id": agent.id, **_rest(agent)} for agent in directory.agents))
        for table in ("queues", "agents"):
            for step in ("update", "retire", "insert"):
                execute(connection, _SQL, f"{step}_{table}", **values)
        scratch.drop(connection, _listed_queues, _listed_agents)
        after = _counts(connection, whose)
        run.rows = len(directory.queues) + len(directory.agents)
    return DirectoryChange(
        vendor=vendor,
        tenant_id=tenant_id,
        queues=len(directory.queues),
        agents=len(directory.agents),
        active_queues=(before[0], after[0]),
        active_agents=(before[1], after[1]),
    )


def _require_some(directory: Directory, before: tuple[int, int], tenant_id: str) -> None:
    for name, listed, known in (
        ("queues", len(directory.queues), before[0]),
        ("agents", len(directory.agents), before[1]),
    ):
        if known and not listed:
            msg = (
                f"{tenant_id}: the vendor lists no {name}, of {known} that were active; nothing was changed. Grant the "
                "client the right to see them, or run sync-directory with believe_empty if there are none any more"
            )
            raise EmptyDirectoryError(msg)


def _counts(connection: sa.Connection, whose: Mapping[str, str]) -> tuple[int, int]:
    queues, agents = connection.execute(statements(_SQL)["counts"], whose).one()
    return int(queues), int(agents)


def _rest(entry: Any) -> dict[str, Any]:
    return {name: value for name, value in entry._asdict().items() if name != "id"}
