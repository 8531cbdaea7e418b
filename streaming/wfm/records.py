"""Records of the live topic: what docs/wfm-live.md describes. Key and value are JSON; no value: it is no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from time import time
from typing import Any

import orjson

from streaming.instants import from_ms
from streaming.wfm.agent import AGENT_COLUMNS, occupancy
from streaming.wfm.conversation import COLUMNS
from streaming.wfm.fold import Cell, Fold

TENANT, QUEUE, QUEUE_INTERVAL, AGENT, AGENT_INTERVAL = "tenant", "queue", "queue_interval", "agent", "agent_interval"

Record = tuple[bytes, bytes | None]
"""Key and value."""

_NOTHING = [0] * len(COLUMNS)


@lru_cache(maxsize=4096)
def instant(at_ms: int) -> str:
    """Epoch ms as ``2026-11-26T09:15:00Z``."""
    return from_ms(at_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


def measures(sums: Sequence[int]) -> dict[str, float | None]:
    """Sums of a queue's interval, and what they give; a rate is null where its denominator is 0."""
    offered, answered, abandoned, _, within, waited, _, handled, talk, hold, acw = sums
    return {
        **dict(zip(COLUMNS, sums, strict=True)),
        "aht_ms": (talk + hold + acw) / handled if handled else None,
        "asa_ms": waited / answered if answered else None,
        "abandon_rate": abandoned / offered if offered else None,
        "service_level": within / answered if answered else None,
    }


class Records:
    """Makes a tenant's records from its fold.

    Args:
        fold: The state.
        vendor: Of the tenant.
        tenant_id: Its id.
    """

    def __init__(self, fold: Fold, vendor: str, tenant_id: str) -> None:
        self._fold = fold
        self._step_ms = fold.rules.step_ms
        self._about = {"vendor": vendor, "tenant_id": tenant_id, "interval_minutes": self._step_ms // 60_000}
        self._agent_cells: set[tuple[str, int]] = set()

    def changed(self, *, all_cells: bool) -> Iterator[Record]:
        """Records of what changed since the last call.

        Args:
            all_cells: Also of the interval that is open, whose figures are in the queues' records already.
        """
        fold, version = self._fold, sum(self._fold.covered.values())
        open_ms = fold.clock_ms - fold.clock_ms % self._step_ms
        changes = fold.changes
        for queue, media, start in changes.cells:
            if start == open_ms:
                changes.queues.add((queue, media))
        yield _record([TENANT], self._tenant(version))
        for key in changes.queues:
            yield _record([QUEUE, *key], self._queue(key, open_ms, version))
        changes.queues.clear()
        wanted = changes.cells if all_cells else {cell for cell in changes.cells if cell[2] != open_ms}
        for cell in wanted:
            if (sums := fold.cells.get(cell)) is not None:
                # As in the warehouse there is no row in which nothing happened; a late event may take all of it away.
                value = self._interval(cell, sums, version) if any(sums) else None
                yield _record([QUEUE_INTERVAL, *cell[:2], instant(cell[2])], value)
        changes.cells -= set(wanted)
        for name in changes.agents:
            yield _record([AGENT, name], self._agent(name, version))
        changes.agents.clear()
        yield from self._agent_intervals(version)

    def is_taken_back(self, key: bytes) -> bool:
        """Whether a key that the live topic holds, and the fold's first records do not, is to be no more.

        Intervals that the fold has forgotten stay as they are.
        """
        kind, *names = orjson.loads(key)
        return kind not in (QUEUE_INTERVAL, AGENT_INTERVAL) or names[-1] >= instant(self._fold.horizon_ms)

    def _tenant(self, version: int) -> dict[str, Any]:
        fold = self._fold
        return {
            **self._about,
            "clock_ms": fold.clock_ms,
            "behind_ms": fold.behind_ms,
            "closed_ms": fold.closed_ms,
            "service_level_seconds": fold.rules.threshold_ms / 1000,
            "longest_status_ms": fold.limits.status_ms,
            "published_ms": int(time() * 1000),
            "version": version,
        }

    def _queue(self, key: tuple[str, str], open_ms: int, version: int) -> dict[str, Any] | None:
        queue = self._fold.queues.get(key)
        sums = self._fold.cells.get((*key, open_ms), _NOTHING)
        if queue is None and sums is _NOTHING:
            return None
        waiting = queue.waiting if queue else {}
        return {
            "queue_id": key[0],
            "media_type": key[1],
            "waiting": len(waiting),
            "waiting_since_ms": min(waiting.values(), default=None),
            "in_progress": len(queue.in_progress) if queue else 0,
            "interval_start": instant(open_ms),
            **measures(sums),
            "version": version,
        }

    def _interval(self, cell: Cell, sums: list[int], version: int) -> dict[str, Any]:
        queue, media, start = cell
        return {
            **self._about,
            "queue_id": queue,
            "media_type": media,
            "interval_start": instant(start),
            **measures(sums),
            "closed": start < self._fold.closed_ms,
            "version": version,
        }

    def _agent(self, name: str, version: int) -> dict[str, Any] | None:
        """Status, and the time in each status of the interval in which it began, until it began."""
        agent = self._fold.agents.get(name)
        if agent is None or not agent.statuses:
            return None
        since_ms, _, status = agent.statuses[-1]
        start = since_ms - since_ms % self._step_ms
        sums = agent.sums_until_newest(start, self._fold.limits.status_ms)
        open_ms = self._fold.clock_ms - self._fold.clock_ms % self._step_ms
        before_ms = open_ms - self._step_ms
        return {
            "agent_id": name,
            "status": status,
            "since_ms": since_ms,
            "before": {"interval_start": instant(start), **dict(zip(AGENT_COLUMNS, sums, strict=False))},
            "handled": {"interval_start": instant(open_ms), "handled": agent.handled.get(open_ms, 0)},
            # The clock may be a little ahead of the one that a reader goes by.
            "handled_before": {"interval_start": instant(before_ms), "handled": agent.handled.get(before_ms, 0)},
            "version": version,
        }

    def _agent_intervals(self, version: int) -> Iterator[Record]:
        fold, shown = self._fold, self._agent_cells
        for name, start in fold.changes.agent_cells:
            agent = fold.agents.get(name)
            sums = None if agent is None else agent.interval(start, start + self._step_ms, fold.limits.status_ms)
            key = [AGENT_INTERVAL, name, instant(start)]
            if sums is not None:
                shown.add((name, start))
                value = {
                    **self._about,
                    "agent_id": name,
                    "interval_start": instant(start),
                    **dict(zip(AGENT_COLUMNS, sums, strict=True)),
                    "occupancy": occupancy(sums),
                    "version": version,
                }
                yield _record(key, value)
            elif (name, start) in shown:
                shown.discard((name, start))
                yield _record(key, None)
        fold.changes.agent_cells.clear()
        if any(start < fold.horizon_ms for _, start in shown):
            self._agent_cells = {cell for cell in shown if cell[1] >= fold.horizon_ms}


def _record(key: list[str], value: dict[str, Any] | None) -> Record:
    return orjson.dumps(key), None if value is None else orjson.dumps(value)
