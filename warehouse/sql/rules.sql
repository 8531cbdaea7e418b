-- Each statement counts breaches; 0 is good. :low and :high bound the intervals that a load rebuilt.

-- name: events.repeated_id
SELECT count(*)
FROM (
    SELECT e.event_id FROM events e WHERE e.load_id = :load_id GROUP BY e.event_id HAVING count(*) > 1
) r

-- name: events.id_without_key
-- Its repeat would not be found. Rows that were put in by hand may have none: fill it as migration v0011 does.
SELECT count(*)
FROM (
    SELECT 1 AS one FROM events WHERE event_key IS NULL
    UNION ALL
    SELECT 1 FROM reconciled_events WHERE event_key IS NULL
) n

-- name: wfm_intervals.one_grid
-- Cells of different length would count the same time twice. Before the day up to which events have expired nothing can
-- be built again: there the old length stays. That day's midnight is on every grid.
SELECT count(*)
FROM (
    SELECT interval_start FROM queue_intervals WHERE interval_minutes <> :interval_minutes
    UNION ALL
    SELECT interval_start FROM agent_intervals WHERE interval_minutes <> :interval_minutes
) o
WHERE o.interval_start >= coalesce(
    (SELECT max(r.expired_before) FROM retention_runs r WHERE r.dataset = 'events' AND r.status <> 'waiting'),
    o.interval_start
)

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

-- name: wfm_intervals.off_grid
SELECT count(*)
FROM (
    SELECT interval_start, interval_minutes FROM queue_intervals WHERE interval_start >= :low AND interval_start < :high
    UNION ALL
    SELECT interval_start, interval_minutes FROM agent_intervals WHERE interval_start >= :low AND interval_start < :high
) o
WHERE mod(CAST(extract(epoch FROM o.interval_start) AS BIGINT), o.interval_minutes * 60) <> 0

-- name: wfm_intervals.negative
SELECT count(*)
FROM (
    SELECT
        least(
            offered, answered, abandoned, flowed_out, answered_in_threshold, wait_answered_ms, wait_abandoned_ms, handled,
            talk_ms, hold_ms, acw_ms
        ) AS least_value
    FROM queue_intervals
    WHERE interval_start >= :low AND interval_start < :high
    UNION ALL
    SELECT least(interacting_ms, communicating_ms, idle_ms, not_responding_ms, off_queue_ms, handled)
    FROM agent_intervals
    WHERE interval_start >= :low AND interval_start < :high
) v
WHERE v.least_value < 0

-- name: wfm_intervals.conservation
-- The rebuilt queue cells add up to what completed in their intervals. By tenant, so that nothing evens out between them.
SELECT count(*)
FROM (
    SELECT b.vendor, b.tenant_id
    FROM (
        SELECT
            q.vendor, q.tenant_id, q.offered, q.answered, q.abandoned, q.flowed_out, q.handled,
            q.talk_ms + q.hold_ms + q.acw_ms AS handle_ms
        FROM queue_intervals q
        JOIN queue_scope s
          ON s.vendor = q.vendor AND s.tenant_id = q.tenant_id AND to_timestamp(s.interval_ms / 1000.0) = q.interval_start
        WHERE q.interval_start >= :low AND q.interval_start < :high
        UNION ALL
        SELECT
            f.vendor, f.tenant_id,
            CASE WHEN f.kind = 'offered' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'answered' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'abandoned' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'flowed_out' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'handled' THEN -1 ELSE 0 END,
            -coalesce(f.talk_ms, 0) - coalesce(f.hold_ms, 0) - coalesce(f.acw_ms, 0)
        FROM queue_facts f
        JOIN queue_scope s
          ON s.vendor = f.vendor AND s.tenant_id = f.tenant_id AND s.interval_ms = f.at_ms - mod(f.at_ms, :step_ms)
        WHERE f.queue_id IS NOT NULL
    ) b
    GROUP BY b.vendor, b.tenant_id
    HAVING sum(b.offered) <> 0 OR sum(b.answered) <> 0 OR sum(b.abandoned) <> 0 OR sum(b.flowed_out) <> 0
        OR sum(b.handled) <> 0 OR sum(b.handle_ms) <> 0
) t

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

-- name: daily_analytics.repeated_row
SELECT count(*)
FROM (
    SELECT 1 AS one
    FROM daily_analytics
    WHERE day >= :first_day AND day <= :last_day
    GROUP BY vendor, tenant_id, day, queue_id, agent_id, media_type
    HAVING count(*) > 1
) r

-- name: daily_analytics.parts_within_wholes
SELECT count(*)
FROM daily_analytics
WHERE day >= :first_day AND day <= :last_day
  AND (
    answered_in_threshold > answered OR transferred > handled OR repeat_callers > known_callers
    OR known_callers > conversations
  )

-- name: daily_analytics.queue_apart_from_agents
-- What no agent did is in rows without an agent, so that no sum over agents counts it twice.
SELECT count(*)
FROM daily_analytics
WHERE day >= :first_day AND day <= :last_day AND agent_id IS NOT NULL
  AND (conversations > 0 OR offered > 0 OR abandoned > 0 OR flowed_out > 0)

-- name: daily_analytics.negative
SELECT count(*)
FROM daily_analytics
WHERE day >= :first_day AND day <= :last_day
  AND least(
    conversations, known_callers, repeat_callers, offered, answered, abandoned, flowed_out, answered_in_threshold,
    wait_answered_ms, wait_abandoned_ms, handled, transferred, talk_ms, hold_ms, acw_ms
  ) < 0

-- name: daily_analytics.conservation
-- The rebuilt rows add up to what completed, and what started, on their days. By tenant and day.
SELECT count(*)
FROM (
    SELECT b.vendor, b.tenant_id, b.day_ms
    FROM (
        SELECT
            d.vendor, d.tenant_id, s.day_ms, d.conversations, d.offered, d.answered, d.abandoned, d.flowed_out, d.handled,
            d.talk_ms + d.hold_ms + d.acw_ms AS handle_ms
        FROM daily_analytics d
        JOIN daily_scope s
          ON s.vendor = d.vendor AND s.tenant_id = d.tenant_id AND CAST(to_timestamp(s.day_ms / 1000.0) AS DATE) = d.day
        WHERE d.day >= :first_day AND d.day <= :last_day
        UNION ALL
        SELECT
            f.vendor, f.tenant_id, s.day_ms, 0,
            CASE WHEN f.kind = 'offered' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'answered' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'abandoned' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'flowed_out' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'handled' THEN -1 ELSE 0 END,
            -coalesce(f.talk_ms, 0) - coalesce(f.hold_ms, 0) - coalesce(f.acw_ms, 0)
        FROM queue_facts f
        JOIN daily_scope s ON s.vendor = f.vendor AND s.tenant_id = f.tenant_id AND s.day_ms = f.at_ms - mod(f.at_ms, :day_ms)
        WHERE f.at_ms >= :low_ms AND f.at_ms < :high_ms
        UNION ALL
        SELECT c.vendor, c.tenant_id, s.day_ms, -1, 0, 0, 0, 0, 0, 0
        FROM conversations c
        JOIN daily_scope s
          ON s.vendor = c.vendor AND s.tenant_id = c.tenant_id AND c.started_at >= to_timestamp(s.day_ms / 1000.0)
         AND c.started_at < to_timestamp((s.day_ms + :day_ms) / 1000.0)
        WHERE c.started_at >= to_timestamp(:low_ms / 1000.0) AND c.started_at < to_timestamp(:high_ms / 1000.0)
    ) b
    GROUP BY b.vendor, b.tenant_id, b.day_ms
    HAVING sum(b.conversations) <> 0 OR sum(b.offered) <> 0 OR sum(b.answered) <> 0 OR sum(b.abandoned) <> 0
        OR sum(b.flowed_out) <> 0 OR sum(b.handled) <> 0 OR sum(b.handle_ms) <> 0
) t

-- name: conversations.conservation
-- The rebuilt rows add up to what completed in their conversations, by tenant.
SELECT count(*)
FROM (
    SELECT b.vendor, b.tenant_id
    FROM (
        SELECT c.vendor, c.tenant_id, c.offered, c.answered, c.abandoned, c.flowed_out, c.legs, c.talk_ms, c.acw_ms
        FROM conversations c
        JOIN conversation_scope s
          ON s.vendor = c.vendor AND s.tenant_id = c.tenant_id AND s.conversation_id = c.conversation_id
        UNION ALL
        SELECT
            f.vendor, f.tenant_id,
            CASE WHEN f.kind = 'offered' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'answered' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'abandoned' THEN -1 ELSE 0 END, CASE WHEN f.kind = 'flowed_out' THEN -1 ELSE 0 END,
            CASE WHEN f.kind = 'handled' THEN -1 ELSE 0 END, -coalesce(f.talk_ms, 0), -coalesce(f.acw_ms, 0)
        FROM queue_facts f
    ) b
    GROUP BY b.vendor, b.tenant_id
    HAVING sum(b.offered) <> 0 OR sum(b.answered) <> 0 OR sum(b.abandoned) <> 0 OR sum(b.flowed_out) <> 0
        OR sum(b.legs) <> 0 OR sum(b.talk_ms) <> 0 OR sum(b.acw_ms) <> 0
) t

-- name: conversations.negative
SELECT count(*)
FROM conversations c
JOIN conversation_scope s
  ON s.vendor = c.vendor AND s.tenant_id = c.tenant_id AND s.conversation_id = c.conversation_id
WHERE least(c.offered, c.answered, c.abandoned, c.flowed_out, c.legs, c.wait_ms, c.talk_ms, c.hold_ms, c.acw_ms, c.events) < 0
    OR c.duration_ms < 0 OR c.last_event_at < c.first_event_at
