"""A made-up half day with everything that happens: transfers, holds, wrap-ups, figures missing or odd; and what the
warehouse makes of it, which is the yardstick for live figures."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.canonical import CanonicalEvent, EventType
from streaming.instants import to_ms
from tests.warehouse.events import Event, at, event, land, numbered, status, table
from warehouse.engine import Warehouse
from warehouse.load_events import load_events
from warehouse.load_intervals import load_wfm_intervals
from warehouse.schema import migrate
from warehouse.windows import Window

BEGIN = at("00:00:00")
END = at("00:00:00", day=5)
QUEUES = ("sales", "service", "Täglich <b>&", "späte Frage")
AGENTS = tuple(f"agent-{number}" for number in range(12))
STATUSES = ("IDLE", "INTERACTING", "COMMUNICATING", "NOT_RESPONDING", "OFF_QUEUE", "ON_THE_MOON")


def half_day(seed: int, calls: int) -> list[Event]:
    """Events in the order of time, each id once."""
    rng = random.Random(seed)
    found: list[Event] = []
    for number in range(calls):
        found += _call(rng, f"c{seed}-{number}", BEGIN + timedelta(hours=8, seconds=rng.randrange(4 * 3600)))
    for agent in AGENTS:
        clock = BEGIN + timedelta(hours=7, seconds=rng.randrange(3 * 3600))
        while clock < BEGIN + timedelta(hours=13):
            found.append(status(clock, agent, rng.choice(STATUSES)))
            clock += timedelta(seconds=rng.choice((5, 60, 600, 3000)))
    by_id = {item.event_id: item for item in found}
    return sorted(by_id.values(), key=lambda item: (item.time, item.event_id))


def _call(rng: random.Random, name: str, clock: datetime) -> list[Event]:
    media = rng.choice(("VOICE", "VOICE", "CHAT", None))
    some: dict[str, object] = {} if media is None else {"media": media}
    found = [event(EventType.STARTED, clock, name, **({"media": "EMAIL"} if rng.random() < 0.5 else {}))]
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        queue = rng.choice(QUEUES)
        clock += timedelta(seconds=rng.randrange(5))
        if rng.random() < 0.95:
            found.append(event(EventType.QUEUED, clock, name, queue=queue, **some))
        wait = timedelta(seconds=rng.choice((0, 5, 20, 21, 300, 4000)))
        clock += wait
        told = rng.choice(({}, {"wait_ms": wait // timedelta(milliseconds=1)}, {"wait_ms": "-1"}, {"wait_ms": "soon"}))
        end = rng.choice((EventType.ASSIGNED, EventType.ASSIGNED, EventType.ABANDONED, EventType.FLOWED_OUT))
        agent = rng.choice((*AGENTS, "never reported"))
        if end is EventType.ASSIGNED:
            found.append(event(end, clock, name, queue=queue, agent=agent, **told, **some))
            found += _legs(rng, name, queue, agent, clock, some)
            clock = max(item.time for item in found)
        else:
            found.append(event(end, clock, name, queue=queue, **told, **some))
    if rng.random() < 0.9:
        found.append(event(EventType.ENDED, clock, name))
    return found


def _legs(
    rng: random.Random, name: str, queue: str, agent: str, clock: datetime, some: dict[str, object]
) -> list[Event]:
    found = []
    if rng.random() < 0.5:
        found.append(event(EventType.CONNECTED, clock, name, queue=queue, agent=agent, **some))
    for _ in range(rng.choice((1, 1, 2))):
        talk = rng.randrange(1, 1200)
        clock += timedelta(seconds=talk)
        lengths = rng.choice(
            ({"talk_ms": talk * 1000, "hold_ms": 3000}, {"talk_ms": talk * 1000}, {"talk_ms": "-5"}, {"talk_ms": "1e3"})
        )
        where = {} if rng.random() < 0.05 else {"queue": queue}
        found.append(event(EventType.HANDLED, clock, name, agent=agent, **where, **lengths, **some))
        for _ in range(rng.choice((0, 1, 1, 2))):
            clock += timedelta(seconds=rng.choice((0, 10, 900)))
            found.append(event(EventType.WRAPUP, clock, name, agent=agent, acw_ms=10_000, **where, **some))
    return found


def canonical(item: Event, tenant_id: str = "bank-north") -> CanonicalEvent:
    """As it is on the bus."""
    return {
        "event_id": item.event_id,
        "vendor": "genesys",
        "tenant_id": tenant_id,
        "timestamp": to_ms(item.time),
        "event_type": str(item.type),
        "payload": item.payload,
        "metadata": item.metadata,
    }


Tables = dict[str, list[dict[str, Any]]]
"""Rows of ``queue_intervals`` and ``agent_intervals`` without whose they are, instants as live figures write them."""


def by_warehouse(folder: Path, items: list[Event]) -> Tables:
    """What the warehouse makes of these events."""
    warehouse = Warehouse(url=f"duckdb:///{folder}/oracle.duckdb", landing_dir=folder / "oracle", lock_seconds=20)
    migrate(warehouse)
    land(warehouse.landing_dir, *numbered(items))
    load_events(warehouse, run_id="test")
    load_wfm_intervals(warehouse, Window(BEGIN, END), run_id="test")
    return {
        name: [
            {
                **{key: value for key, value in row.items() if key not in {"vendor", "tenant_id"}},
                "interval_start": f"{row['interval_start']:%Y-%m-%dT%H:%M:%SZ}",
            }
            for row in table(warehouse, name)
        ]
        for name in ("queue_intervals", "agent_intervals")
    }


def by_records(records: dict[tuple[str, ...], dict[str, Any]], oracle: Tables) -> Tables:
    """The same columns of the live topic's records."""
    found: Tables = {}
    for name, kind in (("queue_intervals", "queue_interval"), ("agent_intervals", "agent_interval")):
        columns = list(oracle[name][0])
        end = f"{END:%Y-%m-%dT%H:%M:%SZ}"
        rows = [
            {column: record[column] for column in columns}
            for key, record in records.items()
            if key[0] == kind and record["interval_start"] < end
        ]
        first = columns[0]
        found[name] = sorted(rows, key=lambda row: (row[first], row.get("media_type", ""), row["interval_start"]))
    return found
