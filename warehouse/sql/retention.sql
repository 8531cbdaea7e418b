-- Expiry by day. Of each dataset: <dataset>.days counts by day what is dated before :before, <dataset>.delete… deletes
-- what is dated in [:start, :end).

-- name: keep_conversations
-- A conversation stays whole until its last event is due: its later events say what they say only beside the earlier.
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
WITH begun AS (
    SELECT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.conversation_id IS NOT NULL
    UNION
    SELECT r.vendor, r.tenant_id, r.conversation_id
    FROM reconciled_events r
    WHERE r.timestamp_ms >= :start_ms AND r.timestamp_ms < :end_ms AND r.conversation_id IS NOT NULL
)
SELECT b.vendor, b.tenant_id, b.conversation_id
FROM begun b
WHERE EXISTS (
    SELECT 1
    FROM events l
    WHERE l.vendor = b.vendor AND l.tenant_id = b.tenant_id AND l.conversation_id = b.conversation_id
      AND l.timestamp_ms >= :before_ms AND l.timestamp IS NOT NULL
)
UNION
SELECT b.vendor, b.tenant_id, b.conversation_id
FROM begun b
WHERE EXISTS (
    SELECT 1
    FROM reconciled_events l
    WHERE l.vendor = b.vendor AND l.tenant_id = b.tenant_id AND l.conversation_id = b.conversation_id
      AND l.timestamp_ms >= :before_ms AND l.timestamp IS NOT NULL
)

-- name: keep_statuses
-- An agent's last status before the cut lasts beyond it.
INSERT INTO kept_statuses (event_id)
SELECT s.event_id
FROM (
    SELECT
        e.event_id,
        row_number() OVER (
            PARTITION BY e.vendor, e.tenant_id, e.agent_id ORDER BY e.timestamp_ms DESC, e.event_id DESC
        ) AS nth
    FROM events e
    WHERE e.event_type = 'agent.status_changed' AND e.agent_id IS NOT NULL AND e.timestamp IS NOT NULL
      AND e.timestamp_ms < :before_ms
) s
WHERE s.nth = 1

-- name: events.days
SELECT d.day, count(*)
FROM (
    SELECT CAST(e.timestamp AS DATE) AS day
    FROM events e
    WHERE e.timestamp IS NOT NULL AND e.timestamp_ms < :before_ms
      AND NOT EXISTS (
          SELECT 1
          FROM conversation_scope c
          WHERE c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
      )
      AND NOT EXISTS (SELECT 1 FROM kept_statuses k WHERE k.event_id = e.event_id)
    UNION ALL
    SELECT CAST(r.timestamp AS DATE)
    FROM reconciled_events r
    WHERE r.timestamp IS NOT NULL AND r.timestamp_ms < :before_ms
      AND NOT EXISTS (
          SELECT 1
          FROM conversation_scope c
          WHERE c.vendor = r.vendor AND c.tenant_id = r.tenant_id AND c.conversation_id = r.conversation_id
      )
) d
GROUP BY d.day
ORDER BY d.day

-- name: events.delete
DELETE FROM events
WHERE timestamp IS NOT NULL AND timestamp_ms >= :start_ms AND timestamp_ms < :end_ms
  AND NOT EXISTS (
      SELECT 1
      FROM conversation_scope c
      WHERE c.vendor = events.vendor AND c.tenant_id = events.tenant_id AND c.conversation_id = events.conversation_id
  )
  AND NOT EXISTS (SELECT 1 FROM kept_statuses k WHERE k.event_id = events.event_id)

-- name: events.delete_reconciled
DELETE FROM reconciled_events
WHERE timestamp IS NOT NULL AND timestamp_ms >= :start_ms AND timestamp_ms < :end_ms
  AND NOT EXISTS (
      SELECT 1
      FROM conversation_scope c
      WHERE c.vendor = reconciled_events.vendor AND c.tenant_id = reconciled_events.tenant_id
        AND c.conversation_id = reconciled_events.conversation_id
  )

-- name: undated.days
-- Of impossible dates, in no cell: by the day on which they were published.
SELECT d.day, count(*)
FROM (
    SELECT CAST(e.published_at AS DATE) AS day FROM events e WHERE e.timestamp IS NULL AND e.published_at < :before
    UNION ALL
    SELECT CAST(r.published_at AS DATE)
    FROM reconciled_events r
    WHERE r.timestamp IS NULL AND r.published_at < :before
) d
GROUP BY d.day
ORDER BY d.day

-- name: undated.delete
DELETE FROM events WHERE timestamp IS NULL AND published_at >= :start AND published_at < :end

-- name: undated.delete_reconciled
DELETE FROM reconciled_events WHERE timestamp IS NULL AND published_at >= :start AND published_at < :end

-- name: conversations.days
SELECT CAST(c.last_event_at AS DATE) AS day, count(*)
FROM conversations c
WHERE c.last_event_at < :before
GROUP BY CAST(c.last_event_at AS DATE)
ORDER BY day

-- name: conversations.delete
DELETE FROM conversations WHERE last_event_at >= :start AND last_event_at < :end

-- name: intervals.days
SELECT d.day, count(*)
FROM (
    SELECT CAST(q.interval_start AS DATE) AS day FROM queue_intervals q WHERE q.interval_start < :before
    UNION ALL
    SELECT CAST(a.interval_start AS DATE) FROM agent_intervals a WHERE a.interval_start < :before
) d
GROUP BY d.day
ORDER BY d.day

-- name: intervals.delete
DELETE FROM queue_intervals WHERE interval_start >= :start AND interval_start < :end

-- name: intervals.delete_agents
DELETE FROM agent_intervals WHERE interval_start >= :start AND interval_start < :end

-- name: daily.days
SELECT a.day, count(*)
FROM daily_analytics a
WHERE a.day < CAST(:before AS DATE)
GROUP BY a.day
ORDER BY a.day

-- name: daily.delete
DELETE FROM daily_analytics WHERE day >= CAST(:start AS DATE) AND day < CAST(:end AS DATE)

-- name: field_usage.days
SELECT d.day, count(*)
FROM (
    SELECT u.day FROM metadata_field_usage u WHERE u.day < CAST(:before AS DATE)
    UNION ALL
    SELECT t.day FROM event_type_days t WHERE t.day < CAST(:before AS DATE)
) d
GROUP BY d.day
ORDER BY d.day

-- name: field_usage.delete
DELETE FROM metadata_field_usage WHERE day >= CAST(:start AS DATE) AND day < CAST(:end AS DATE)

-- name: field_usage.delete_days
DELETE FROM event_type_days WHERE day >= CAST(:start AS DATE) AND day < CAST(:end AS DATE)

-- name: failed_events.days
SELECT d.day, count(*)
FROM (
    SELECT CAST(f.hour AS DATE) AS day FROM failed_events f WHERE f.hour < :before
    UNION ALL
    SELECT CAST(r.last_at AS DATE) FROM dead_letter_replays r WHERE r.last_at < :before
) d
GROUP BY d.day
ORDER BY d.day

-- name: failed_events.delete
DELETE FROM failed_events WHERE hour >= :start AND hour < :end

-- name: failed_events.delete_replays
DELETE FROM dead_letter_replays WHERE last_at >= :start AND last_at < :end

-- name: not_accounted_for
-- Whether events are due that a dataset has not been built from.
SELECT count(*)
FROM (SELECT 1 AS one FROM events e WHERE e.load_id > :through AND e.timestamp_ms < :before_ms LIMIT 1) d

-- name: horizon
SELECT max(r.expired_before) FROM retention_runs r WHERE r.dataset = :dataset AND r.status <> 'waiting'

-- name: expired_staged
SELECT count(*) FROM staged_events WHERE timestamp IS NOT NULL AND timestamp_ms < :horizon_ms

-- name: pass_over_staged
DELETE FROM staged_events WHERE timestamp IS NOT NULL AND timestamp_ms < :horizon_ms

-- name: shield_conversations
DELETE FROM conversation_scope
WHERE EXISTS (
    SELECT 1
    FROM conversations c
    WHERE c.vendor = conversation_scope.vendor AND c.tenant_id = conversation_scope.tenant_id
      AND c.conversation_id = conversation_scope.conversation_id AND c.last_event_at < :horizon
)

-- name: shield_queues
DELETE FROM queue_scope WHERE interval_ms < :horizon_ms

-- name: shield_agents
DELETE FROM agent_windows WHERE to_ms <= :horizon_ms

-- name: cut_agents
UPDATE agent_windows SET from_ms = :horizon_ms WHERE from_ms < :horizon_ms

-- name: shield_days
DELETE FROM daily_scope WHERE day_ms < :horizon_ms

-- name: shield_usage
DELETE FROM usage_scope WHERE day < CAST(:horizon AS DATE)
