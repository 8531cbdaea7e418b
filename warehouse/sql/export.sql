-- Interval files for WFM tools: which days, and their rows.

-- name: position
-- How far the loads of intervals are. Without one by arrival nobody says up to when cells are whole.
SELECT
    coalesce(max(load_id), 0),
    coalesce(max(through_load_id), 0),
    max(CASE WHEN kind = 'arrival' THEN window_end END)
FROM load_runs
WHERE dataset = 'wfm_intervals' AND status = 'succeeded'

-- name: days_between
SELECT vendor, tenant_id, CAST(interval_start AS DATE) AS day
FROM queue_intervals
WHERE interval_start >= :start AND interval_start < :end
UNION
SELECT vendor, tenant_id, CAST(interval_start AS DATE)
FROM agent_intervals
WHERE interval_start >= :start AND interval_start < :end

-- name: windows_since
SELECT window_start, window_end
FROM load_runs
WHERE dataset = 'wfm_intervals' AND kind = 'window' AND status = 'succeeded'
  AND load_id > :load_id AND load_id <= :newest_load_id

-- name: windows_of
-- Loads by window that reach into [:start, :end), and up to when they can have built cells: not beyond when they began.
SELECT window_start, least(window_end, started_at)
FROM load_runs
WHERE dataset = 'wfm_intervals' AND kind = 'window' AND status = 'succeeded'
  AND window_start < :end AND window_end > :start
ORDER BY window_start, window_end

-- name: days_touched
-- Days with cells that new events may have changed; some of them have not. Queue cells change where conversations with
-- new events have, or had, events. Agents' cells change from a new status on: those that are there, and those that were
-- there, for as long as a status lasts. Before it they change only if it is the agent's first. The same rules by whole
-- days as touch_conversations to touch_agents_by_first_status of intervals.sql: who changes one changes the other.
WITH fresh AS (
    SELECT e.vendor, e.tenant_id, e.conversation_id, e.agent_id, e.event_type, e.timestamp, e.timestamp_ms
    FROM events e
    WHERE e.load_id > :through AND e.load_id <= :newest_through
),
conversations_touched AS (
    SELECT DISTINCT vendor, tenant_id, conversation_id FROM fresh WHERE conversation_id IS NOT NULL
),
agents_touched AS (
    SELECT vendor, tenant_id, agent_id, min(timestamp_ms) AS from_ms, max(timestamp_ms) AS to_ms
    FROM fresh
    WHERE event_type = 'agent.status_changed' AND agent_id IS NOT NULL AND timestamp IS NOT NULL
    GROUP BY vendor, tenant_id, agent_id
),
first_seen AS (
    SELECT e.vendor, e.tenant_id, e.agent_id
    FROM events e
    JOIN agents_touched a ON a.vendor = e.vendor AND a.tenant_id = e.tenant_id AND a.agent_id = e.agent_id
    WHERE e.event_type = 'agent.status_changed'
    GROUP BY e.vendor, e.tenant_id, e.agent_id
    HAVING min(e.load_id) > :through
),
changed AS (
    SELECT e.vendor, e.tenant_id, CAST(e.timestamp AS DATE) AS day
    FROM events e
    JOIN conversations_touched c
      ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
    UNION
    SELECT r.vendor, r.tenant_id, CAST(r.timestamp AS DATE)
    FROM reconciled_events r
    JOIN conversations_touched c
      ON c.vendor = r.vendor AND c.tenant_id = r.tenant_id AND c.conversation_id = r.conversation_id
    WHERE r.timestamp IS NOT NULL
    UNION
    SELECT s.vendor, s.tenant_id, CAST(to_timestamp(g.day_ms / 1000.0) AS DATE)
    FROM (
        SELECT DISTINCT vendor, tenant_id, timestamp_ms - mod(timestamp_ms, 86400000) AS day_ms
        FROM fresh
        WHERE event_type = 'agent.status_changed' AND agent_id IS NOT NULL AND timestamp IS NOT NULL
    ) s
    CROSS JOIN LATERAL generate_series(s.day_ms, s.day_ms + 86399999 + :longest_ms, 86400000) AS g (day_ms)
    UNION
    SELECT i.vendor, i.tenant_id, CAST(i.interval_start AS DATE)
    FROM agent_intervals i
    JOIN agents_touched a ON a.vendor = i.vendor AND a.tenant_id = i.tenant_id AND a.agent_id = i.agent_id
    LEFT JOIN first_seen f ON f.vendor = i.vendor AND f.tenant_id = i.tenant_id AND f.agent_id = i.agent_id
    WHERE f.agent_id IS NOT NULL OR i.interval_start >= to_timestamp((a.from_ms - mod(a.from_ms, :step_ms)) / 1000.0)
)
SELECT vendor, tenant_id, day FROM changed

-- name: grid
-- Cells of a tenant's day, and their lengths; there is more than one after a change that was not loaded in full.
SELECT count(*), min(c.interval_minutes), max(c.interval_minutes)
FROM (
    SELECT interval_minutes
    FROM queue_intervals
    WHERE vendor = :vendor AND tenant_id = :tenant_id AND interval_start >= :start AND interval_start < :end
    UNION ALL
    SELECT interval_minutes
    FROM agent_intervals
    WHERE vendor = :vendor AND tenant_id = :tenant_id AND interval_start >= :start AND interval_start < :end
) c

-- name: queue_rows
-- Every interval of the day for every queue and medium that has a cell on it: without one, nothing happened.
WITH cells AS (
    SELECT *
    FROM queue_intervals
    WHERE vendor = :vendor AND tenant_id = :tenant_id AND interval_start >= :start AND interval_start < :end
)
SELECT
    g.start_ms, k.queue_id, coalesce(n.name, k.queue_id), k.media_type,
    coalesce(c.offered, 0), coalesce(c.answered, 0), coalesce(c.answered_in_threshold, 0), coalesce(c.abandoned, 0),
    coalesce(c.flowed_out, 0), coalesce(c.handled, 0), coalesce(c.talk_ms, 0), coalesce(c.hold_ms, 0),
    coalesce(c.acw_ms, 0), coalesce(c.wait_answered_ms, 0), coalesce(c.wait_abandoned_ms, 0)
FROM (SELECT DISTINCT queue_id, media_type FROM cells) k
CROSS JOIN LATERAL generate_series(
    CAST(:start_ms AS BIGINT), CAST(:end_ms AS BIGINT) - 1, CAST(:step_ms AS BIGINT)
) AS g (start_ms)
LEFT JOIN cells c
  ON c.queue_id = k.queue_id AND c.media_type = k.media_type AND c.interval_start = to_timestamp(g.start_ms / 1000.0)
LEFT JOIN queues n ON n.vendor = :vendor AND n.tenant_id = :tenant_id AND n.queue_id = k.queue_id
ORDER BY g.start_ms, k.queue_id COLLATE "C", k.media_type COLLATE "C"

-- name: agent_rows
SELECT
    CAST(extract(epoch FROM a.interval_start) * 1000 AS BIGINT), a.agent_id, coalesce(n.name, a.agent_id),
    a.interacting_ms, a.communicating_ms, a.idle_ms, a.not_responding_ms, a.off_queue_ms, a.handled
FROM agent_intervals a
LEFT JOIN agents n ON n.vendor = a.vendor AND n.tenant_id = a.tenant_id AND n.agent_id = a.agent_id
WHERE a.vendor = :vendor AND a.tenant_id = :tenant_id AND a.interval_start >= :start AND a.interval_start < :end
ORDER BY a.interval_start, a.agent_id COLLATE "C"
