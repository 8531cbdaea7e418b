"""CXone's ``agents/state-history``: the statuses of agents, which are polled and not pushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devstack.simulators.agents import Status, StatusChange
from devstack.simulators.clock import ReplayClock
from devstack.simulators.cxone_events import AGENT_STATE
from devstack.simulators.instants import iso
from devstack.simulators.polling import PolledList
from devstack.simulators.queries import Pages
from devstack.simulators.schedule import Occurrence

_STATE_NAMES = {
    Status.OFF_QUEUE: "Unavailable",
    Status.IDLE: "Available",
    Status.INTERACTING: "InboundContact",
}


def of_status(change: StatusChange) -> Occurrence:
    """A row of the state history, which is fetched and not sent."""
    return Occurrence(change.at_ms, AGENT_STATE, change, ("agent.status_changed",))


def agent_states(changes: list[StatusChange], clock: ReplayClock, pages: Pages) -> PolledList[StatusChange]:
    """The list, by time and then by agent."""
    return PolledList("agentStates", changes, at_ms=lambda change: change.at_ms, show=_show, clock=clock, pages=pages)


def _show(change: StatusChange, _: Mapping[str, str]) -> dict[str, Any]:
    return {
        "agentId": change.agent_id,
        "agentStateName": _STATE_NAMES[change.status],
        "startDate": iso(change.at_ms),
    }
