"""A landing zone full of made-up events, as the sink writes it: files of 50,000 rows, row groups of 8,192.

Made by DuckDB column by column, some 400,000 events a second; no step handles one event.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import duckdb
import pyarrow as pa

from streaming.sink.landing import RAW, SCHEMA, parquet_writer

FILE_ROWS = 50_000
_GROUP_ROWS = 8_192
EVENTS_A_CALL = 8
_TENANTS = 10
_EVENTS_OF_AN_AGENT = 40_000  # 55 calls a day for 90 days
DAY_MS = 86_400_000
FROM_MS = 1_767_225_600_000  # 2026-01-01

# Calls of ten tenants, evenly over the span; of each eight events: two of its agent's status among them. They are on
# Kafka in the order in which they happen, so a call's events lie apart: later ones by as many calls as begin meanwhile.
_ROWS = """
WITH kinds (nth, kind, delay_ms) AS (
    VALUES
        (0, 'conversation.started', 0), (1, 'conversation.queued', 40), (2, 'conversation.assigned', 17000),
        (3, 'agent.status_changed', 17005), (4, 'conversation.handled', 137000), (5, 'conversation.ended', 137010),
        (6, 'conversation.wrapup', 162000), (7, 'agent.status_changed', 162010)
),
calls AS (
    SELECT n.i, k.nth, k.kind, k.delay_ms, n.i // 8 - CAST(floor(k.delay_ms / $gap_ms) AS BIGINT) AS call
    FROM range($first, $last) n (i)
    JOIN kinds k ON k.nth = n.i % 8
),
placed AS (
    SELECT
        c.*,
        $from_ms + CAST(c.call * $gap_ms AS BIGINT) + c.delay_ms AS at_ms,
        'tenant-' || (c.call + 1000000) % 10 AS tenant_id,
        'queue-' || (c.call + 1000000) % 40 AS queue_id,
        'agent-' || hash(c.call) % $agents AS agent_id,  -- of each tenant
        CAST(CAST(md5('call ' || c.call) AS UUID) AS VARCHAR) AS conversation_id
    FROM calls c
),
told AS (
    SELECT
        p.*,
        CASE p.nth
            WHEN 0 THEN MAP {
                'conversation_id': p.conversation_id, 'media_type': 'VOICE', 'direction': 'INBOUND',
                'ani': printf('tel:+1555%07d', hash(p.call) % 10000000), 'dnis': 'tel:+15550199'
            }
            WHEN 2 THEN MAP {
                'conversation_id': p.conversation_id, 'queue_id': p.queue_id, 'agent_id': p.agent_id,
                'media_type': 'VOICE',
                'direction': 'INBOUND', 'outcome': 'ANSWERED', 'wait_ms': CAST(5000 + hash(p.call) % 40000 AS VARCHAR)
            }
            WHEN 4 THEN MAP {
                'conversation_id': p.conversation_id, 'queue_id': p.queue_id, 'agent_id': p.agent_id,
                'media_type': 'VOICE',
                'talk_ms': CAST(60000 + hash(p.call) % 60000 AS VARCHAR), 'hold_ms': '0'
            }
            WHEN 5 THEN MAP {
                'conversation_id': p.conversation_id, 'media_type': 'VOICE', 'direction': 'INBOUND',
                'end_reason': 'PEER', 'duration_ms': '137010'
            }
            WHEN 6 THEN MAP {
                'conversation_id': p.conversation_id, 'queue_id': p.queue_id, 'agent_id': p.agent_id,
                'media_type': 'VOICE',
                'acw_ms': '25000', 'wrapup_code': 'code-' || p.nth
            }
            WHEN 1 THEN MAP {
                'conversation_id': p.conversation_id, 'queue_id': p.queue_id, 'media_type': 'VOICE',
                'direction': 'INBOUND'
            }
            ELSE MAP {'agent_id': p.agent_id, 'agent_status': CASE p.nth WHEN 3 THEN 'INTERACTING' ELSE 'IDLE' END}
        END AS payload
    FROM placed p
)
SELECT
    'ccaaus.events.genesys.' || t.tenant_id AS _topic,
    CAST(hash(t.i) % 4 AS INTEGER) AS _partition,
    t.i + $offset AS _offset,
    t.at_ms + 150 AS _published_at,
    CAST(CAST(md5(CAST(t.i AS VARCHAR)) AS UUID) AS VARCHAR) AS event_id,
    'genesys' AS vendor,
    t.tenant_id,
    t.at_ms AS timestamp,
    t.kind AS event_type,
    t.payload,
    MAP {
        'ccaas.native_type': 'v2.detail.events.conversation.{id}.' || t.kind, 'genesys.version': '2',
        'genesys.provider': 'Edge', 'genesys.participantId': 'p-' || t.conversation_id,
        'genesys.metadata.CorrelationId': md5(t.conversation_id)
    } AS metadata
FROM told t
"""


def land(folder: Path, events: int, days: int = 90, *, repeat: float = 0.0) -> int:
    """Write landing files.

    Args:
        folder: The landing zone.
        events: How many, at least 8.
        days: Over which span of event time, from 1 January 2026.
        repeat: Share of the rows that come once more, with higher offsets, in files of their own at the end.

    Returns:
        Rows written.
    """
    low = events // 2
    spans = [(0, 0, events), (1, low, low + int(events * repeat))]
    parts = [
        (copy, begin, min(begin + FILE_ROWS, end))
        for copy, start, end in spans
        for begin in range(start, end, FILE_ROWS)
    ]

    def write(part: tuple[int, int, int]) -> int:
        copy, begin, end = part
        offset = copy * 2 * events  # of a repeat higher than every first one's
        with maker.cursor() as cursor:
            return _write(folder, _rows(cursor, events, days, begin, end, offset), copy * 10**10 + begin)

    with duckdb.connect(config={"memory_limit": "1GB", "threads": 1}) as maker, ThreadPoolExecutor(2) as writers:
        return sum(writers.map(write, parts))


def land_late(folder: Path, events: int, days: int = 90, *, number: int) -> None:
    """One more event, of a call in the midst of what :func:`land` wrote: a wrap-up, or for odd numbers a status."""
    place = events // 2 // EVENTS_A_CALL * EVENTS_A_CALL + number * EVENTS_A_CALL + 6 + number % 2
    with duckdb.connect(config={"threads": 1}) as maker:
        row = _rows(maker, events, days, place, place + 1, 10 * events)
    field = SCHEMA.field("event_id")
    row = row.set_column(SCHEMA.get_field_index("event_id"), field, [[str(uuid5(NAMESPACE_OID, f"late {number}"))]])
    _write(folder, row, 2 * 10**10 + number)


def _rows(maker: duckdb.DuckDBPyConnection, events: int, days: int, begin: int, end: int, offset: int) -> pa.Table:
    values = {
        "from_ms": FROM_MS,
        "gap_ms": days * DAY_MS * EVENTS_A_CALL / events,
        "agents": max(events // _TENANTS // _EVENTS_OF_AN_AGENT, 2),
        "first": begin,
        "last": end,
        "offset": offset,
    }
    return maker.sql(_ROWS, params=values).to_arrow_table().cast(SCHEMA)


def _write(folder: Path, rows: pa.Table, number: int) -> int:
    """Names ascend with the number as the sink's do with time: <member>-<epoch ms>-<uuid>."""
    target = folder / RAW / "dt=2026-04-01"
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"0-{FROM_MS + number}-{'0' * 32}.parquet"
    with path.open("wb") as file, parquet_writer(file, SCHEMA) as writer:
        writer.write_table(rows, row_group_size=_GROUP_ROWS)
    return len(rows)
