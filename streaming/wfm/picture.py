"""A tenant's live figures at an instant, out of its live topic's records: what the page shows and the JSON says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streaming.instants import to_ms
from streaming.wfm.agent import AGENT_COLUMNS, OFF_QUEUE, STATUSES, occupancy
from streaming.wfm.conversation import COLUMNS
from streaming.wfm.records import AGENT, AGENT_INTERVAL, QUEUE, QUEUE_INTERVAL, TENANT, instant, measures
from streaming.wfm.view import Key

_REPLAY_MS = 300_000
# Its merger publishes a tenant at least every 10 s.
_STALE_MS = 30_000
Records = Mapping[Key, dict[str, Any]]


def now_of(tenant: Mapping[str, Any], wall_ms: int) -> int:
    """The tenant's "now", epoch ms: the wall clock, or in a replay the time that is replayed.

    It is a replay if events came more than 5 min after their own time when the clock last moved.
    """
    behind_ms: int = tenant["behind_ms"]
    return wall_ms - behind_ms if behind_ms > _REPLAY_MS else wall_ms


def picture(records: Records, wall_ms: int, intervals: int) -> dict[str, Any]:
    """Everything about a tenant, for JSON.

    Args:
        records: Of its live topic; the tenant's own must be among them.
        wall_ms: Now, epoch ms.
        intervals: How many of the last intervals before the open one.
    """
    tenant = records[TENANT,]
    now_ms = now_of(tenant, wall_ms)
    step_ms = tenant["interval_minutes"] * 60_000
    start_ms = now_ms - now_ms % step_ms
    agents = _agents(records, now_ms, start_ms, tenant["longest_status_ms"])
    by_status = Counter(agent["status"] for agent in agents)
    known = sorted({key[-1] for key in records if key[0] == QUEUE_INTERVAL and key[-1] < instant(start_ms)})
    shown = set(known[-intervals:] if intervals else [])
    return {
        "vendor": tenant["vendor"],
        "tenant_id": tenant["tenant_id"],
        "now_ms": now_ms,
        "published_ms": tenant.get("published_ms"),
        "is_stale": wall_ms - tenant.get("published_ms", 0) > _STALE_MS,
        "is_replay": tenant["behind_ms"] > _REPLAY_MS,
        "newest_event_ms": tenant["clock_ms"],
        "interval_start": instant(start_ms),
        "interval_minutes": tenant["interval_minutes"],
        "service_level_seconds": tenant["service_level_seconds"],
        "queues": _queues(records, now_ms, start_ms),
        "agents": agents,
        "agents_by_status": dict.fromkeys(STATUSES, 0) | dict(by_status),
        "queue_intervals": [_bare(records[key]) for key in _of(records, QUEUE_INTERVAL) if key[-1] in shown],
        "agent_intervals": [_bare(records[key]) for key in _of(records, AGENT_INTERVAL) if key[-1] in shown],
    }


def _of(records: Records, kind: str) -> list[Key]:
    return sorted(key for key in records if key[0] == kind)


def _bare(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "version"}


def _queues(records: Records, now_ms: int, start_ms: int) -> list[dict[str, Any]]:
    found = []
    nothing, start = measures([0] * len(COLUMNS)), instant(start_ms)
    for key in _of(records, QUEUE):
        queue = _bare(records[key])
        since_ms = queue["waiting_since_ms"]
        if queue["interval_start"] != start:  # an event from after now has moved the clock, or none has come yet
            interval = records.get((QUEUE_INTERVAL, *key[1:], start), nothing)
            queue |= {column: interval[column] for column in nothing} | {"interval_start": start}
        found.append({**queue, "longest_wait_ms": 0 if since_ms is None else max(0, now_ms - since_ms)})
    return found


def _agents(records: Records, now_ms: int, start_ms: int, longest_ms: int) -> list[dict[str, Any]]:
    found = []
    for key in _of(records, AGENT):
        agent = records[key]
        status, since_ms = agent["status"], agent["since_ms"]
        if status != OFF_QUEUE and now_ms - since_ms > longest_ms:
            continue  # as in the warehouse: who says nothing for a week is unknown
        sums = [0] * len(STATUSES)
        if since_ms >= start_ms:
            before = agent["before"]
            if to_ms(datetime.fromisoformat(before["interval_start"])) == start_ms:
                sums = [before[column] for column in AGENT_COLUMNS[: len(STATUSES)]]
        if status in STATUSES:
            sums[STATUSES.index(status)] += max(0, now_ms - max(since_ms, start_ms))
        handled = 0
        for counted in (agent["handled"], agent.get("handled_before")):
            if counted and counted["interval_start"] == instant(start_ms):
                handled = counted["handled"]
        found.append(
            {
                "agent_id": agent["agent_id"],
                "status": status,
                "since_ms": since_ms,
                "in_status_ms": max(0, now_ms - since_ms),
                **dict(zip(AGENT_COLUMNS, sums, strict=False)),
                "handled": handled,
                "occupancy": occupancy(sums),
            }
        )
    return found
