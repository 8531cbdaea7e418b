-- One row a conversation, from all its events and from queue_facts. What is told once (media type, caller, ...) is taken
-- from the event that should say it, else the least of what others say: the same whatever came first.

-- name: touch_arrival
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
FROM events e
WHERE e.load_id > :through AND e.load_id <= :newest AND e.conversation_id IS NOT NULL

-- name: touch_window
-- With those that have a row but no events any more: theirs is deleted.
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
FROM events e
WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.conversation_id IS NOT NULL
UNION
SELECT c.vendor, c.tenant_id, c.conversation_id
FROM conversations c
WHERE c.first_event_at >= :start AND c.first_event_at < :end

-- name: delete
DELETE FROM conversations
WHERE EXISTS (
    SELECT 1
    FROM conversation_scope s
    WHERE s.vendor = conversations.vendor AND s.tenant_id = conversations.tenant_id
      AND s.conversation_id = conversations.conversation_id
)

-- name: insert
INSERT INTO conversations (
    vendor, tenant_id, conversation_id, parent_conversation_id, media_type, direction, ani, dnis, started_at, ended_at,
    first_event_at, last_event_at, duration_ms, first_queue_id, last_queue_id, last_agent_id, outcome, end_reason,
    wrapup_code, offered, answered, abandoned, flowed_out, legs, wait_ms, talk_ms, hold_ms, acw_ms, events
)
WITH scoped AS (
    SELECT e.*
    FROM events e
    JOIN conversation_scope c
      ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
),
told AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id,
        coalesce(
            min(CASE WHEN e.event_type = 'conversation.started' THEN e.parent_conversation_id END),
            min(e.parent_conversation_id)
        ) AS parent_conversation_id,
        coalesce(
            min(CASE WHEN e.event_type = 'conversation.started' THEN e.media_type END), min(e.media_type)
        ) AS media_type,
        coalesce(
            min(CASE WHEN e.event_type = 'conversation.started' THEN e.direction END), min(e.direction)
        ) AS direction,
        coalesce(min(CASE WHEN e.event_type = 'conversation.started' THEN e.ani END), min(e.ani)) AS ani,
        coalesce(min(CASE WHEN e.event_type = 'conversation.started' THEN e.dnis END), min(e.dnis)) AS dnis,
        coalesce(
            min(CASE WHEN e.event_type = 'conversation.ended' THEN e.end_reason END), min(e.end_reason)
        ) AS end_reason,
        min(CASE WHEN e.event_type = 'conversation.started' THEN e.timestamp END) AS started_at,
        max(CASE WHEN e.event_type = 'conversation.ended' THEN e.timestamp END) AS ended_at,
        min(e.timestamp) AS first_event_at,
        max(e.timestamp) AS last_event_at,
        max(CASE WHEN e.event_type = 'conversation.ended' THEN e.timestamp_ms END)
        - min(CASE WHEN e.event_type = 'conversation.started' THEN e.timestamp_ms END) AS lasted_ms,
        count(*) AS events
    FROM scoped e
    GROUP BY e.vendor, e.tenant_id, e.conversation_id
),
agents AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, e.agent_id,
        row_number() OVER (
            PARTITION BY e.vendor, e.tenant_id, e.conversation_id ORDER BY e.timestamp_ms DESC, e.event_id DESC
        ) AS nth
    FROM scoped e
    WHERE e.agent_id IS NOT NULL
),
wrapups AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, e.wrapup_code,
        row_number() OVER (
            PARTITION BY e.vendor, e.tenant_id, e.conversation_id ORDER BY e.timestamp_ms DESC, e.event_id DESC
        ) AS nth
    FROM scoped e
    WHERE e.wrapup_code IS NOT NULL
),
ranked AS (
    SELECT
        f.*,
        row_number() OVER (
            PARTITION BY f.vendor, f.tenant_id, f.conversation_id, f.turn ORDER BY f.at_ms, f.event_id
        ) AS nth,
        row_number() OVER (
            PARTITION BY f.vendor, f.tenant_id, f.conversation_id, f.turn ORDER BY f.at_ms DESC, f.event_id DESC
        ) AS nth_last
    FROM (
        SELECT
            q.*, CASE WHEN q.kind = 'offered' THEN 'in' WHEN q.kind = 'handled' THEN 'leg' ELSE 'out' END AS turn
        FROM queue_facts q
    ) f
),
measured AS (
    SELECT
        f.vendor, f.tenant_id, f.conversation_id,
        max(CASE WHEN f.turn = 'in' AND f.nth = 1 THEN f.queue_id END) AS first_queue_id,
        max(CASE WHEN f.turn = 'in' AND f.nth_last = 1 THEN f.queue_id END) AS last_queue_id,
        max(CASE WHEN f.turn = 'out' AND f.nth_last = 1 THEN f.outcome END) AS outcome,
        sum(CASE WHEN f.kind = 'offered' THEN 1 ELSE 0 END) AS offered,
        sum(CASE WHEN f.kind = 'answered' THEN 1 ELSE 0 END) AS answered,
        sum(CASE WHEN f.kind = 'abandoned' THEN 1 ELSE 0 END) AS abandoned,
        sum(CASE WHEN f.kind = 'flowed_out' THEN 1 ELSE 0 END) AS flowed_out,
        sum(CASE WHEN f.kind = 'handled' THEN 1 ELSE 0 END) AS legs,
        sum(coalesce(f.wait_ms, 0)) AS wait_ms,
        sum(coalesce(f.talk_ms, 0)) AS talk_ms,
        sum(coalesce(f.hold_ms, 0)) AS hold_ms,
        sum(coalesce(f.acw_ms, 0)) AS acw_ms
    FROM ranked f
    GROUP BY f.vendor, f.tenant_id, f.conversation_id
)
SELECT
    t.vendor, t.tenant_id, t.conversation_id, t.parent_conversation_id, t.media_type, t.direction, t.ani, t.dnis,
    t.started_at, t.ended_at, t.first_event_at, t.last_event_at, CASE WHEN t.lasted_ms >= 0 THEN t.lasted_ms END,
    m.first_queue_id, m.last_queue_id, a.agent_id, m.outcome, t.end_reason, w.wrapup_code, coalesce(m.offered, 0),
    coalesce(m.answered, 0), coalesce(m.abandoned, 0), coalesce(m.flowed_out, 0), coalesce(m.legs, 0),
    coalesce(m.wait_ms, 0), coalesce(m.talk_ms, 0), coalesce(m.hold_ms, 0), coalesce(m.acw_ms, 0), t.events
FROM told t
LEFT JOIN measured m
  ON m.vendor = t.vendor AND m.tenant_id = t.tenant_id AND m.conversation_id = t.conversation_id
LEFT JOIN agents a
  ON a.vendor = t.vendor AND a.tenant_id = t.tenant_id AND a.conversation_id = t.conversation_id AND a.nth = 1
LEFT JOIN wrapups w
  ON w.vendor = t.vendor AND w.tenant_id = t.tenant_id AND w.conversation_id = t.conversation_id AND w.nth = 1
