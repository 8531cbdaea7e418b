-- Queue and agent cells. Two scopes say what is rebuilt: queue_scope (tenant, interval) and agent_windows.

-- name: touch_conversations
-- Conversations with events that no load of intervals has seen. This and the touch statements below have a twin by whole
-- days, days_touched of export.sql: who changes one changes the other.
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
FROM events e
WHERE e.load_id > :through AND e.load_id <= :newest AND e.conversation_id IS NOT NULL

-- name: touched_events
-- All their events, read once: on DuckDB to find some conversations takes a look at each row.
INSERT INTO touched_events (vendor, tenant_id, agent_id, event_type, timestamp_ms)
SELECT e.vendor, e.tenant_id, e.agent_id, e.event_type, e.timestamp_ms
FROM events e
JOIN conversation_scope c
  ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms < :horizon_ms
UNION ALL
-- A reconciled event may have left events since, for the webhook that came after all: its cells change too.
SELECT r.vendor, r.tenant_id, r.agent_id, r.event_type, r.timestamp_ms
FROM reconciled_events r
JOIN conversation_scope c
  ON c.vendor = r.vendor AND c.tenant_id = r.tenant_id AND c.conversation_id = r.conversation_id
WHERE r.timestamp IS NOT NULL AND r.timestamp_ms < :horizon_ms

-- name: touch_queues
-- Every interval in which such a conversation has, or had, something completed: all metrics fall at an event's time.
INSERT INTO queue_scope (vendor, tenant_id, interval_ms)
SELECT DISTINCT t.vendor, t.tenant_id, t.timestamp_ms - mod(t.timestamp_ms, :step_ms)
FROM touched_events t

-- name: touch_agents_by_legs
INSERT INTO agent_scope (vendor, tenant_id, agent_id, interval_ms)
SELECT DISTINCT t.vendor, t.tenant_id, t.agent_id, t.timestamp_ms - mod(t.timestamp_ms, :step_ms)
FROM touched_events t
WHERE t.agent_id IS NOT NULL AND t.event_type IN ('conversation.handled', 'conversation.wrapup')

-- name: fresh_agents
-- Agents with a status that is new, and the earliest such before the horizon, if there is one.
INSERT INTO fresh_agents (vendor, tenant_id, agent_id, from_ms)
SELECT
    e.vendor, e.tenant_id, e.agent_id,
    min(CASE WHEN e.timestamp IS NOT NULL AND e.timestamp_ms < :horizon_ms THEN e.timestamp_ms END)
FROM events e
WHERE e.load_id > :through AND e.load_id <= :newest AND e.event_type = 'agent.status_changed' AND e.agent_id IS NOT NULL
GROUP BY e.vendor, e.tenant_id, e.agent_id

-- name: earliest_fresh
SELECT count(*) AS agents, min(from_ms) AS from_ms FROM fresh_agents

-- name: touch_agents_by_status
-- A status that is new changes the time from it to the agent's next status, as known now, and no other. Where it no
-- longer lasts there are no new cells, but OFF_QUEUE may have lasted, or last now, in those that exist.
INSERT INTO agent_scope (vendor, tenant_id, agent_id, interval_ms)
WITH timeline AS (
    SELECT
        e.vendor, e.tenant_id, e.agent_id, e.timestamp_ms, e.load_id,
        lead(e.timestamp_ms) OVER (
            PARTITION BY e.vendor, e.tenant_id, e.agent_id ORDER BY e.timestamp_ms, e.event_id
        ) AS next_ms
    FROM events e
    JOIN fresh_agents f ON f.vendor = e.vendor AND f.tenant_id = e.tenant_id AND f.agent_id = e.agent_id
    WHERE e.event_type = 'agent.status_changed' AND e.timestamp IS NOT NULL AND e.timestamp_ms >= f.from_ms
      AND e.timestamp_ms >= :fresh_ms
),
changed AS (
    SELECT
        vendor, tenant_id, agent_id, timestamp_ms AS from_ms,
        CASE WHEN next_ms < :horizon_ms THEN next_ms ELSE :horizon_ms END AS to_ms
    FROM timeline
    WHERE load_id > :through AND load_id <= :newest AND timestamp_ms < :horizon_ms
)
SELECT c.vendor, c.tenant_id, c.agent_id, g.interval_ms
FROM changed c
CROSS JOIN LATERAL generate_series(
    c.from_ms - mod(c.from_ms, :step_ms), least(c.to_ms, c.from_ms + :longest_ms) - 1, :step_ms
) AS g (interval_ms)
WHERE c.to_ms > c.from_ms
UNION
SELECT a.vendor, a.tenant_id, a.agent_id, CAST(extract(epoch FROM a.interval_start) * 1000 AS BIGINT)
FROM changed c
JOIN agent_intervals a
  ON a.vendor = c.vendor AND a.tenant_id = c.tenant_id AND a.agent_id = c.agent_id
 AND a.interval_start >= to_timestamp((c.from_ms - mod(c.from_ms, :step_ms)) / 1000.0)
 AND a.interval_start < to_timestamp(c.to_ms / 1000.0)
WHERE c.to_ms > c.from_ms + :longest_ms

-- name: touch_agents_by_first_status
-- An agent's first status ever makes the legs that were there before it count in cells.
INSERT INTO agent_scope (vendor, tenant_id, agent_id, interval_ms)
WITH first_seen AS (
    SELECT f.vendor, f.tenant_id, f.agent_id
    FROM fresh_agents f
    WHERE NOT EXISTS (
        SELECT 1
        FROM events e
        WHERE e.vendor = f.vendor AND e.tenant_id = f.tenant_id AND e.agent_id = f.agent_id
          AND e.event_type = 'agent.status_changed' AND e.load_id <= :through
    )
)
SELECT DISTINCT e.vendor, e.tenant_id, e.agent_id, e.timestamp_ms - mod(e.timestamp_ms, :step_ms)
FROM events e
JOIN first_seen f ON f.vendor = e.vendor AND f.tenant_id = e.tenant_id AND f.agent_id = e.agent_id
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms < :horizon_ms
  AND e.event_type IN ('conversation.handled', 'conversation.wrapup')

-- name: agent_islands
-- Touched intervals that adjoin become one window. Agents without any status have no cells.
INSERT INTO agent_windows (vendor, tenant_id, agent_id, from_ms, to_ms)
WITH wanted AS (
    SELECT DISTINCT vendor, tenant_id, agent_id, interval_ms FROM agent_scope
),
known AS (
    SELECT a.vendor, a.tenant_id, a.agent_id
    FROM (SELECT DISTINCT vendor, tenant_id, agent_id FROM agent_scope) a
    WHERE EXISTS (
        SELECT 1
        FROM events e
        WHERE e.vendor = a.vendor AND e.tenant_id = a.tenant_id AND e.agent_id = a.agent_id
          AND e.event_type = 'agent.status_changed'
    )
),
numbered AS (
    SELECT
        w.vendor, w.tenant_id, w.agent_id, w.interval_ms,
        w.interval_ms - :step_ms * row_number() OVER (
            PARTITION BY w.vendor, w.tenant_id, w.agent_id ORDER BY w.interval_ms
        ) AS island
    FROM wanted w
    JOIN known k ON k.vendor = w.vendor AND k.tenant_id = w.tenant_id AND k.agent_id = w.agent_id
)
SELECT vendor, tenant_id, agent_id, min(interval_ms), max(interval_ms) + :step_ms
FROM numbered
GROUP BY vendor, tenant_id, agent_id, island

-- name: count_agents
SELECT count(*)
FROM (
    SELECT DISTINCT e.vendor, e.tenant_id, e.agent_id
    FROM events e
    WHERE e.event_type = 'agent.status_changed' AND e.agent_id IS NOT NULL
) a

-- name: busy_chunks
SELECT DISTINCT CAST((e.timestamp_ms - mod(e.timestamp_ms, :size_ms)) / :size_ms AS BIGINT)
FROM events e
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms >= :from_ms AND e.timestamp_ms < :to_ms

-- name: range_queues
-- In a range every interval in which a tenant's conversations have events is rebuilt.
INSERT INTO queue_scope (vendor, tenant_id, interval_ms)
SELECT DISTINCT e.vendor, e.tenant_id, e.timestamp_ms - mod(e.timestamp_ms, :step_ms)
FROM events e
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms >= :from_ms AND e.timestamp_ms < :to_ms
  AND e.conversation_id IS NOT NULL

-- name: range_agents
INSERT INTO agent_windows (vendor, tenant_id, agent_id, from_ms, to_ms)
SELECT DISTINCT e.vendor, e.tenant_id, e.agent_id, :from_ms, :to_ms
FROM events e
WHERE e.event_type = 'agent.status_changed' AND e.agent_id IS NOT NULL

-- name: bounds
SELECT min(s.from_ms), max(s.to_ms)
FROM (
    SELECT min(interval_ms) AS from_ms, max(interval_ms) + :step_ms AS to_ms FROM queue_scope
    UNION ALL
    SELECT min(from_ms), max(to_ms) FROM agent_windows
) s

-- name: scope_conversations
-- Conversations with something in a cell that is rebuilt. The bounds let the engine skip what lies outside.
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
SELECT e.vendor, e.tenant_id, e.conversation_id
FROM events e
JOIN queue_scope s
  ON s.vendor = e.vendor AND s.tenant_id = e.tenant_id AND s.interval_ms = e.timestamp_ms - mod(e.timestamp_ms, :step_ms)
WHERE e.timestamp_ms >= :low_ms AND e.timestamp_ms < :high_ms AND e.conversation_id IS NOT NULL
UNION
SELECT e.vendor, e.tenant_id, e.conversation_id
FROM events e
JOIN agent_windows w
  ON w.vendor = e.vendor AND w.tenant_id = e.tenant_id AND w.agent_id = e.agent_id
 AND e.timestamp_ms >= w.from_ms AND e.timestamp_ms < w.to_ms
WHERE e.timestamp_ms >= :low_ms AND e.timestamp_ms < :high_ms AND e.conversation_id IS NOT NULL
  AND e.event_type IN ('conversation.handled', 'conversation.wrapup')

-- name: delete_queue_range
DELETE FROM queue_intervals WHERE interval_start >= :range_start AND interval_start < :range_end

-- name: delete_agent_range
DELETE FROM agent_intervals WHERE interval_start >= :range_start AND interval_start < :range_end

-- name: delete_queues
DELETE FROM queue_intervals
WHERE interval_start >= :low AND interval_start < :high
  AND EXISTS (
    SELECT 1
    FROM queue_scope s
    WHERE s.vendor = queue_intervals.vendor AND s.tenant_id = queue_intervals.tenant_id
      AND to_timestamp(s.interval_ms / 1000.0) = queue_intervals.interval_start
  )

-- name: delete_agents
DELETE FROM agent_intervals
WHERE interval_start >= :low AND interval_start < :high
  AND EXISTS (
    SELECT 1
    FROM agent_windows w
    WHERE w.vendor = agent_intervals.vendor AND w.tenant_id = agent_intervals.tenant_id
      AND w.agent_id = agent_intervals.agent_id
      AND agent_intervals.interval_start >= to_timestamp(w.from_ms / 1000.0)
      AND agent_intervals.interval_start < to_timestamp(w.to_ms / 1000.0)
  )

-- name: insert_queues
INSERT INTO queue_intervals (
    vendor, tenant_id, queue_id, media_type, interval_start, interval_minutes, offered, answered, abandoned, flowed_out,
    answered_in_threshold, wait_answered_ms, wait_abandoned_ms, handled, talk_ms, hold_ms, acw_ms
)
WITH facts AS (
    SELECT f.*, f.at_ms - mod(f.at_ms, :step_ms) AS interval_ms
    FROM queue_facts f
    WHERE f.queue_id IS NOT NULL
)
SELECT
    f.vendor, f.tenant_id, f.queue_id, f.media_type, to_timestamp(f.interval_ms / 1000.0), :interval_minutes,
    sum(CASE WHEN f.kind = 'offered' THEN 1 ELSE 0 END),
    sum(CASE WHEN f.kind = 'answered' THEN 1 ELSE 0 END),
    sum(CASE WHEN f.kind = 'abandoned' THEN 1 ELSE 0 END),
    sum(CASE WHEN f.kind = 'flowed_out' THEN 1 ELSE 0 END),
    sum(CASE WHEN f.kind = 'answered' AND f.wait_ms <= :threshold_ms THEN 1 ELSE 0 END),
    sum(CASE WHEN f.kind = 'answered' THEN coalesce(f.wait_ms, 0) ELSE 0 END),
    sum(CASE WHEN f.kind = 'abandoned' THEN coalesce(f.wait_ms, 0) ELSE 0 END),
    sum(CASE WHEN f.kind = 'handled' THEN 1 ELSE 0 END),
    sum(coalesce(f.talk_ms, 0)),
    sum(coalesce(f.hold_ms, 0)),
    sum(coalesce(f.acw_ms, 0))
FROM facts f
JOIN queue_scope s ON s.vendor = f.vendor AND s.tenant_id = f.tenant_id AND s.interval_ms = f.interval_ms
GROUP BY f.vendor, f.tenant_id, f.queue_id, f.media_type, f.interval_ms

-- name: recent_statuses
-- The status in which an agent enters its window, if it began within :longest_ms: nearly always.
INSERT INTO statuses_before (vendor, tenant_id, agent_id, from_ms, agent_status, timestamp_ms, event_id)
SELECT w.vendor, w.tenant_id, w.agent_id, w.from_ms, b.agent_status, b.timestamp_ms, b.event_id
FROM agent_windows w
CROSS JOIN LATERAL (
    SELECT e.agent_status, e.timestamp_ms, e.event_id
    FROM events e
    WHERE e.vendor = w.vendor AND e.tenant_id = w.tenant_id AND e.agent_id = w.agent_id
      AND e.event_type = 'agent.status_changed' AND e.timestamp IS NOT NULL
      AND e.timestamp_ms < w.from_ms AND e.timestamp_ms >= w.from_ms - :longest_ms
      AND e.timestamp_ms >= :low_ms - :longest_ms AND e.timestamp_ms < :high_ms
    ORDER BY e.timestamp_ms DESC, e.event_id DESC
    LIMIT 1
) b

-- name: without_status
INSERT INTO windows_left (vendor, tenant_id, agent_id, from_ms)
SELECT w.vendor, w.tenant_id, w.agent_id, w.from_ms
FROM agent_windows w
WHERE NOT EXISTS (
    SELECT 1
    FROM statuses_before b
    WHERE b.vendor = w.vendor AND b.tenant_id = w.tenant_id AND b.agent_id = w.agent_id AND b.from_ms = w.from_ms
)

-- name: count_left
SELECT count(*) FROM windows_left

-- name: older_statuses
INSERT INTO statuses_before (vendor, tenant_id, agent_id, from_ms, agent_status, timestamp_ms, event_id)
SELECT w.vendor, w.tenant_id, w.agent_id, w.from_ms, b.agent_status, b.timestamp_ms, b.event_id
FROM windows_left w
CROSS JOIN LATERAL (
    SELECT e.agent_status, e.timestamp_ms, e.event_id
    FROM events e
    WHERE e.vendor = w.vendor AND e.tenant_id = w.tenant_id AND e.agent_id = w.agent_id
      AND e.event_type = 'agent.status_changed' AND e.timestamp IS NOT NULL AND e.timestamp_ms < w.from_ms
      AND e.timestamp_ms < :high_ms
    ORDER BY e.timestamp_ms DESC, e.event_id DESC
    LIMIT 1
) b

-- name: insert_agents
-- A status lasts until the agent's next one, the last until the window's end, but not beyond :known_ms, and for
-- :longest_ms at most; each is cut at the grid. OFF_QUEUE, which makes no cells, may last for longer: holidays.
INSERT INTO agent_intervals (
    vendor, tenant_id, agent_id, interval_start, interval_minutes, interacting_ms, communicating_ms, idle_ms,
    not_responding_ms, off_queue_ms, handled
)
WITH statuses AS (
    SELECT
        w.vendor, w.tenant_id, w.agent_id, w.from_ms, w.to_ms, e.agent_status, e.timestamp_ms, e.event_id
    FROM agent_windows w
    JOIN events e
      ON e.vendor = w.vendor AND e.tenant_id = w.tenant_id AND e.agent_id = w.agent_id
     AND e.timestamp_ms >= w.from_ms AND e.timestamp_ms < w.to_ms
    WHERE e.event_type = 'agent.status_changed' AND e.timestamp IS NOT NULL
      AND e.timestamp_ms >= :low_ms AND e.timestamp_ms < :high_ms
    UNION ALL
    SELECT w.vendor, w.tenant_id, w.agent_id, w.from_ms, w.to_ms, b.agent_status, b.timestamp_ms, b.event_id
    FROM agent_windows w
    JOIN statuses_before b
      ON b.vendor = w.vendor AND b.tenant_id = w.tenant_id AND b.agent_id = w.agent_id AND b.from_ms = w.from_ms
),
timeline AS (
    SELECT
        s.*,
        lead(s.timestamp_ms) OVER (
            PARTITION BY s.vendor, s.tenant_id, s.agent_id, s.from_ms ORDER BY s.timestamp_ms, s.event_id
        ) AS next_ms
    FROM statuses s
),
spans AS (
    SELECT
        t.vendor, t.tenant_id, t.agent_id, t.agent_status,
        CASE WHEN t.timestamp_ms > t.from_ms THEN t.timestamp_ms ELSE t.from_ms END AS begin_ms,
        least(
            coalesce(t.next_ms, t.to_ms),
            CASE WHEN t.agent_status <> 'OFF_QUEUE' THEN t.timestamp_ms + :longest_ms END,
            :known_ms
        ) AS end_ms
    FROM timeline t
),
pieces AS (
    SELECT
        s.vendor, s.tenant_id, s.agent_id, s.agent_status, g.interval_ms,
        CASE WHEN s.end_ms < g.interval_ms + :step_ms THEN s.end_ms ELSE g.interval_ms + :step_ms END
        - CASE WHEN s.begin_ms > g.interval_ms THEN s.begin_ms ELSE g.interval_ms END AS lasted_ms,
        0 AS handled
    FROM spans s
    CROSS JOIN LATERAL generate_series(s.begin_ms - mod(s.begin_ms, :step_ms), s.end_ms - 1, :step_ms) AS g (interval_ms)
    WHERE s.begin_ms < s.end_ms
    UNION ALL
    SELECT f.vendor, f.tenant_id, f.agent_id, NULL, f.at_ms - mod(f.at_ms, :step_ms), 0, 1
    FROM queue_facts f
    JOIN agent_windows w
      ON w.vendor = f.vendor AND w.tenant_id = f.tenant_id AND w.agent_id = f.agent_id
     AND f.at_ms >= w.from_ms AND f.at_ms < w.to_ms
    WHERE f.kind = 'handled'
)
SELECT
    p.vendor, p.tenant_id, p.agent_id, to_timestamp(p.interval_ms / 1000.0), :interval_minutes,
    sum(CASE WHEN p.agent_status = 'INTERACTING' THEN p.lasted_ms ELSE 0 END),
    sum(CASE WHEN p.agent_status = 'COMMUNICATING' THEN p.lasted_ms ELSE 0 END),
    sum(CASE WHEN p.agent_status = 'IDLE' THEN p.lasted_ms ELSE 0 END),
    sum(CASE WHEN p.agent_status = 'NOT_RESPONDING' THEN p.lasted_ms ELSE 0 END),
    sum(CASE WHEN p.agent_status = 'OFF_QUEUE' THEN p.lasted_ms ELSE 0 END),
    sum(p.handled)
FROM pieces p
GROUP BY p.vendor, p.tenant_id, p.agent_id, p.interval_ms
HAVING sum(p.handled) > 0
    OR sum(
        CASE WHEN p.agent_status IN ('INTERACTING', 'COMMUNICATING', 'IDLE', 'NOT_RESPONDING') THEN p.lasted_ms ELSE 0 END
    ) > 0
