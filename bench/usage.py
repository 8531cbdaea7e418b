"""``usage``: counting the use of metadata fields over 10 million events in DuckDB, at once and after one more day."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import duckdb
import sqlalchemy as sa

from bench.harness import Figure, Goal
from bench.lab import Lab
from warehouse.engine import Warehouse, writer
from warehouse.field_usage import count_field_usage
from warehouse.ledger import load_run
from warehouse.schema import migrate

_EVENTS = 10_000_000
_DAYS = 90
_PEER_EVENTS = 500_000
_PEER = "every value unnested and cast"

# Eight fields an event: ids, a constant, numbers; four event types.
_ROWS = """
INSERT INTO events (event_id, vendor, tenant_id, event_type, timestamp, timestamp_ms, payload, metadata, topic,
                    "partition", "offset", load_id)
SELECT
    'e' || i, 'genesys', 'bench',
    ['conversation.started', 'conversation.queued', 'conversation.assigned', 'conversation.handled'][1 + i % 4],
    make_timestamptz(at_ms * 1000), at_ms, '{}',
    '{"ccaas.native_type":"v2.detail.events.conversation.{id}.customer.start","genesys.version":"2",'
    || '"genesys.participantId":"p-AA0101-' || i || '","genesys.sessionId":"s-AA0101-' || i || '",'
    || '"genesys.provider":"Edge","genesys.metadata.CorrelationId":"' || md5(CAST(i AS VARCHAR)) || '",'
    || '"genesys.score":"' || (i % 100) || '","genesys.ratio":"' || (i % 100) / 7 || '",'
    || '"genesys.flag":"' || (i % 2 = 0) || '"}',
    't', 0, i, :load_id
FROM (SELECT i, :from_ms + (i * :span_ms) // :events AS at_ms FROM range(:events) r (i)) n
"""

# How one would write it without thinking of speed.
_PLAIN = """
SELECT event_type, day, entry.key, count(*), count(TRY_CAST(entry.value AS BIGINT)),
       count(TRY_CAST(entry.value AS DOUBLE)), count(TRY_CAST(entry.value AS BOOLEAN))
FROM (
    SELECT event_type, CAST(timestamp AS DATE) AS day,
           unnest(map_entries(CAST(CAST(metadata AS JSON) AS MAP(VARCHAR, VARCHAR)))) AS entry
    FROM (SELECT * FROM events LIMIT $count)
)
GROUP BY ALL
"""
_FROM_MS = 1_767_225_600_000
_DAY_MS = 86_400_000


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Every round counts all days, then one more that has arrived since; between them the plain query, on a part."""
    whole, day, plain, peak = [], [], [], []
    for number in range(rounds):
        folder = lab.folder / f"usage-{number}"
        folder.mkdir(parents=True)
        warehouse = Warehouse(url=f"duckdb:///{folder}/warehouse.duckdb", landing_dir=folder)
        migrate(warehouse)
        _fill(warehouse, _EVENTS, _FROM_MS, _DAYS * _DAY_MS)
        whole.append(_EVENTS / _timed(warehouse))
        plain.append(_PEER_EVENTS / _plain(warehouse))
        _fill(warehouse, _EVENTS // _DAYS, _FROM_MS + _DAYS * _DAY_MS, _DAY_MS)
        day.append(_timed(warehouse))
        peak.append(_peak_mb())
        shutil.rmtree(folder)
    goal = Goal(_EVENTS / 30, "value", "at least")
    return [
        Figure("10 million events counted", "events/s", whole, "more", peer=_PEER, peer_rounds=plain, goal=goal),
        Figure("one more day after them", "s", day),
        Figure("greatest memory of the process, data included", "MB", peak),
    ]


def _fill(warehouse: Warehouse, events: int, from_ms: int, span_ms: int) -> None:
    with writer(warehouse) as connection, load_run(connection, "events", "arrival", "bench") as load:
        values = {"events": events, "from_ms": from_ms, "span_ms": span_ms, "load_id": load.load_id}
        connection.execute(sa.text(_ROWS.replace(':"', '\\:"')), values)


def _timed(warehouse: Warehouse) -> float:
    began = time.perf_counter()
    count_field_usage(warehouse, run_id="bench")
    return time.perf_counter() - began


def _plain(warehouse: Warehouse) -> float:
    with duckdb.connect(str(warehouse.database), read_only=True, config=warehouse.duckdb_config()) as connection:
        began = time.perf_counter()
        connection.execute(_PLAIN, {"count": _PEER_EVENTS}).fetchall()
        return time.perf_counter() - began


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
