-- failed_events and dead_letter_replays: counts are added to the rows that are there.

-- name: fold_beyond
-- Kinds beyond the bound of their tenant's hour are counted together; those with the most dead letters keep a row.
UPDATE failed_batch
SET path = :others, event_type = :others
WHERE no IN (
    SELECT ranked.no
    FROM (
        SELECT
            b.no,
            coalesce(h.kinds, 0)
            + row_number() OVER (PARTITION BY b.vendor, b.tenant_id, b.hour ORDER BY b.events DESC, b.no) AS nth
        FROM failed_batch b
        LEFT JOIN (
            SELECT f.vendor, f.tenant_id, f.hour, count(*) AS kinds
            FROM failed_events f
            JOIN (SELECT DISTINCT vendor, tenant_id, hour FROM failed_batch) t
              ON t.vendor = f.vendor AND t.tenant_id = f.tenant_id AND t.hour = f.hour
            GROUP BY f.vendor, f.tenant_id, f.hour
        ) h ON h.vendor = b.vendor AND h.tenant_id = b.tenant_id AND h.hour = b.hour
        WHERE NOT EXISTS (
            SELECT 1
            FROM failed_events f
            WHERE f.vendor = b.vendor AND f.tenant_id = b.tenant_id AND f.hour = b.hour
              AND f.transport = b.transport AND f.stage = b.stage AND f.reason = b.reason
              AND f.path = b.path AND f.event_type = b.event_type
        )
    ) ranked
    WHERE ranked.nth > :kinds
)

-- name: fold_unknown
-- A kind without a row of its own was counted with the others, if there are any.
UPDATE failed_batch
SET path = :others, event_type = :others
WHERE NOT EXISTS (
    SELECT 1
    FROM failed_events f
    WHERE f.vendor = failed_batch.vendor AND f.tenant_id = failed_batch.tenant_id AND f.hour = failed_batch.hour
      AND f.transport = failed_batch.transport AND f.stage = failed_batch.stage AND f.reason = failed_batch.reason
      AND f.path = failed_batch.path AND f.event_type = failed_batch.event_type
)
AND EXISTS (
    SELECT 1
    FROM failed_events f
    WHERE f.vendor = failed_batch.vendor AND f.tenant_id = failed_batch.tenant_id AND f.hour = failed_batch.hour
      AND f.transport = failed_batch.transport AND f.stage = failed_batch.stage AND f.reason = failed_batch.reason
      AND f.path = :others AND f.event_type = :others
)

-- name: merge
INSERT INTO failed_groups (
    vendor, tenant_id, transport, stage, reason, path, event_type, hour, events, replayed, failed_again, parked,
    attempt, first_seen, last_seen, message, sample, sample_topic, sample_partition, sample_offset
)
SELECT
    n.vendor, n.tenant_id, n.transport, n.stage, n.reason, n.path, n.event_type, n.hour,
    CAST(sum(n.events) AS BIGINT), CAST(sum(n.replayed) AS BIGINT), CAST(sum(n.failed_again) AS BIGINT),
    CAST(sum(n.parked) AS BIGINT), max(n.attempt), min(n.first_seen), max(n.last_seen),
    max(CASE WHEN n.nth = 1 THEN n.message END), max(CASE WHEN n.nth = 1 THEN n.sample END),
    max(CASE WHEN n.nth = 1 THEN n.sample_topic END), max(CASE WHEN n.nth = 1 THEN n.sample_partition END),
    max(CASE WHEN n.nth = 1 THEN n.sample_offset END)
FROM (
    SELECT
        b.*,
        row_number() OVER (
            PARTITION BY b.vendor, b.tenant_id, b.transport, b.stage, b.reason, b.path, b.event_type, b.hour
            ORDER BY b.last_seen DESC, b.no
        ) AS nth
    FROM failed_batch b
) n
GROUP BY n.vendor, n.tenant_id, n.transport, n.stage, n.reason, n.path, n.event_type, n.hour

-- name: add_letters
-- The newest sample stays longest on Kafka.
UPDATE failed_events
SET events = failed_events.events + g.events,
    attempt = greatest(failed_events.attempt, g.attempt),
    first_seen = least(failed_events.first_seen, g.first_seen),
    last_seen = greatest(failed_events.last_seen, g.last_seen),
    message = g.message,
    sample = g.sample,
    sample_topic = g.sample_topic,
    sample_partition = g.sample_partition,
    sample_offset = g.sample_offset
FROM failed_groups g
WHERE failed_events.vendor = g.vendor AND failed_events.tenant_id = g.tenant_id AND failed_events.hour = g.hour
  AND failed_events.transport = g.transport AND failed_events.stage = g.stage AND failed_events.reason = g.reason
  AND failed_events.path = g.path AND failed_events.event_type = g.event_type

-- name: add_outcomes
UPDATE failed_events
SET replayed = failed_events.replayed + g.replayed,
    failed_again = failed_events.failed_again + g.failed_again,
    parked = greatest(failed_events.parked + g.parked, 0)
FROM failed_groups g
WHERE failed_events.vendor = g.vendor AND failed_events.tenant_id = g.tenant_id AND failed_events.hour = g.hour
  AND failed_events.transport = g.transport AND failed_events.stage = g.stage AND failed_events.reason = g.reason
  AND failed_events.path = g.path AND failed_events.event_type = g.event_type

-- name: insert
INSERT INTO failed_events (
    vendor, tenant_id, transport, stage, reason, path, event_type, hour, events, replayed, failed_again, parked,
    attempt, first_seen, last_seen, message, sample, sample_topic, sample_partition, sample_offset
)
SELECT
    g.vendor, g.tenant_id, g.transport, g.stage, g.reason, g.path, g.event_type, g.hour, g.events, g.replayed,
    g.failed_again, greatest(g.parked, 0), g.attempt, g.first_seen, g.last_seen, g.message, g.sample, g.sample_topic,
    g.sample_partition, g.sample_offset
FROM failed_groups g
WHERE NOT EXISTS (
    SELECT 1
    FROM failed_events f
    WHERE f.vendor = g.vendor AND f.tenant_id = g.tenant_id AND f.hour = g.hour AND f.transport = g.transport
      AND f.stage = g.stage AND f.reason = g.reason AND f.path = g.path AND f.event_type = g.event_type
)

-- name: full_kinds
-- All kinds of the hours in which something was counted with the others.
SELECT f.vendor, f.tenant_id, f.hour, f.transport, f.stage, f.reason, f.path, f.event_type
FROM failed_events f
WHERE EXISTS (
    SELECT 1
    FROM failed_groups g
    WHERE g.vendor = f.vendor AND g.tenant_id = f.tenant_id AND g.hour = f.hour
      AND g.path = :others AND g.event_type = :others
)

-- name: add_audit
UPDATE dead_letter_replays
SET events = dead_letter_replays.events + b.events,
    first_at = least(dead_letter_replays.first_at, b.first_at),
    last_at = greatest(dead_letter_replays.last_at, b.last_at),
    fixups = coalesce(b.fixups, dead_letter_replays.fixups)
FROM replay_batch b
WHERE dead_letter_replays.run_id = b.run_id AND dead_letter_replays.vendor = b.vendor
  AND dead_letter_replays.tenant_id = b.tenant_id AND dead_letter_replays.outcome = b.outcome
  AND dead_letter_replays.stage = b.stage AND dead_letter_replays.reason = b.reason
  AND dead_letter_replays.path = b.path

-- name: insert_audit
INSERT INTO dead_letter_replays (
    run_id, vendor, tenant_id, outcome, stage, reason, path, events, first_at, last_at, fixups
)
SELECT
    b.run_id, b.vendor, b.tenant_id, b.outcome, b.stage, b.reason, b.path, b.events, b.first_at, b.last_at, b.fixups
FROM replay_batch b
WHERE NOT EXISTS (
    SELECT 1
    FROM dead_letter_replays r
    WHERE r.run_id = b.run_id AND r.vendor = b.vendor AND r.tenant_id = b.tenant_id AND r.outcome = b.outcome
      AND r.stage = b.stage AND r.reason = b.reason AND r.path = b.path
)

-- name: move_offset
INSERT INTO consumed_offsets (topic, "partition", next_offset)
VALUES (:topic, :partition, :next_offset)
ON CONFLICT (topic, "partition") DO UPDATE SET next_offset = excluded.next_offset

-- name: what_broke
SELECT
    vendor, tenant_id, transport, stage, reason, path, event_type,
    CAST(sum(events) AS BIGINT), CAST(sum(open) AS BIGINT), CAST(sum(parked) AS BIGINT), min(first_seen), max(last_seen),
    max(message)
FROM failed_event_status
WHERE hour >= :start AND hour < :end
GROUP BY vendor, tenant_id, transport, stage, reason, path, event_type
ORDER BY sum(events) DESC, vendor, tenant_id, transport, stage, reason, path, event_type
LIMIT :top

-- name: failures_per_hour
SELECT hour, reason, CAST(sum(events) AS BIGINT)
FROM failed_events
WHERE hour >= :start AND hour < :end
GROUP BY hour, reason
ORDER BY hour, reason
