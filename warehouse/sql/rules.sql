-- Each statement counts breaches; 0 is good. :low and :high bound the intervals that a load rebuilt.

-- name: events.repeated_id
SELECT count(*)
FROM (
    SELECT e.event_id FROM events e WHERE e.load_id = :load_id GROUP BY e.event_id HAVING count(*) > 1
) r

-- name: wfm_intervals.one_grid
-- Cells of different length would count the same time twice. After a change of warehouse.interval_minutes rebuild all.
SELECT count(*)
FROM (
    SELECT interval_minutes FROM queue_intervals WHERE interval_minutes <> :interval_minutes
    UNION ALL
    SELECT interval_minutes FROM agent_intervals WHERE interval_minutes <> :interval_minutes
) o

-- name: wfm_intervals.repeated_queue_cell
SELECT count(*)
FROM (
    SELECT 1 AS one
    FROM queue_intervals
    WHERE interval_start >= :low AND interval_start < :high
    GROUP BY vendor, tenant_id, queue_id, media_type, interval_start
    HAVING count(*) > 1
) r

-- name: wfm_intervals.repeated_agent_cell
SELECT count(*)
FROM (
    SELECT 1 AS one
    FROM agent_intervals
    WHERE interval_start >= :low AND interval_start < :high
    GROUP BY vendor, tenant_id, agent_id, interval_start
    HAVING count(*) > 1
) r

-- name: wfm_intervals.threshold_within_answered
SELECT count(*)
FROM queue_intervals
WHERE interval_start >= :low AND interval_start < :high AND answered_in_threshold > answered

-- name: wfm_intervals.agent_time_within_interval
SELECT count(*)
FROM agent_intervals
WHERE interval_start >= :low AND interval_start < :high
  AND interacting_ms + communicating_ms + idle_ms + not_responding_ms + off_queue_ms > interval_minutes * 60000

-- name: conversations.repeated
SELECT count(*)
FROM (
    SELECT 1 AS one
    FROM conversations c
    JOIN conversation_scope s
      ON s.vendor = c.vendor AND s.tenant_id = c.tenant_id AND s.conversation_id = c.conversation_id
    GROUP BY c.vendor, c.tenant_id, c.conversation_id
    HAVING count(*) > 1
) r
