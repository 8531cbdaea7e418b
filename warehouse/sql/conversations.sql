-- One row a conversation, from all its events and from queue_facts.

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
WITH told AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id,
        (array_agg(e.parent_conversation_id ORDER BY e.timestamp_ms, e.event_id)
            FILTER (WHERE e.parent_conversation_id IS NOT NULL))[1] AS parent_conversation_id,
        (array_agg(e.media_type ORDER BY e.timestamp_ms, e.event_id)
            FILTER (WHERE e.media_type IS NOT NULL))[1] AS media_type,
        (array_agg(e.direction ORDER BY e.timestamp_ms, e.event_id)
            FILTER (WHERE e.direction IS NOT NULL))[1] AS direction,
        (array_agg(e.ani ORDER BY e.timestamp_ms, e.event_id) FILTER (WHERE e.ani IS NOT NULL))[1] AS ani,
        (array_agg(e.dnis ORDER BY e.timestamp_ms, e.event_id) FILTER (WHERE e.dnis IS NOT NULL))[1] AS dnis,
        (array_agg(e.agent_id ORDER BY e.timestamp_ms DESC, e.event_id DESC)
            FILTER (WHERE e.agent_id IS NOT NULL))[1] AS last_agent_id,
        (array_agg(e.end_reason ORDER BY e.timestamp_ms DESC, e.event_id DESC)
            FILTER (WHERE e.end_reason IS NOT NULL))[1] AS end_reason,
        (array_agg(e.wrapup_code ORDER BY e.timestamp_ms DESC, e.event_id DESC)
            FILTER (WHERE e.wrapup_code IS NOT NULL))[1] AS wrapup_code,
        min(CASE WHEN e.event_type = 'conversation.started' THEN e.timestamp END) AS started_at,
        max(CASE WHEN e.event_type = 'conversation.ended' THEN e.timestamp END) AS ended_at,
        min(e.timestamp) AS first_event_at,
        max(e.timestamp) AS last_event_at,
        max(CASE WHEN e.event_type = 'conversation.ended' THEN e.timestamp_ms END)
        - min(CASE WHEN e.event_type = 'conversation.started' THEN e.timestamp_ms END) AS lasted_ms,
        count(*) AS events
    FROM events e
    JOIN conversation_scope c
      ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
    GROUP BY e.vendor, e.tenant_id, e.conversation_id
),
measured AS (
    SELECT
        f.vendor, f.tenant_id, f.conversation_id,
        (array_agg(f.queue_id ORDER BY f.at_ms, f.event_id)
            FILTER (WHERE f.kind = 'offered' AND f.queue_id IS NOT NULL))[1] AS first_queue_id,
        (array_agg(f.queue_id ORDER BY f.at_ms DESC, f.event_id DESC)
            FILTER (WHERE f.kind = 'offered' AND f.queue_id IS NOT NULL))[1] AS last_queue_id,
        (array_agg(f.outcome ORDER BY f.at_ms DESC, f.event_id DESC)
            FILTER (WHERE f.outcome IS NOT NULL))[1] AS outcome,
        sum(CASE WHEN f.kind = 'offered' THEN 1 ELSE 0 END) AS offered,
        sum(CASE WHEN f.kind = 'answered' THEN 1 ELSE 0 END) AS answered,
        sum(CASE WHEN f.kind = 'abandoned' THEN 1 ELSE 0 END) AS abandoned,
        sum(CASE WHEN f.kind = 'flowed_out' THEN 1 ELSE 0 END) AS flowed_out,
        sum(CASE WHEN f.kind = 'handled' THEN 1 ELSE 0 END) AS legs,
        sum(coalesce(f.wait_ms, 0)) AS wait_ms,
        sum(coalesce(f.talk_ms, 0)) AS talk_ms,
        sum(coalesce(f.hold_ms, 0)) AS hold_ms,
        sum(coalesce(f.acw_ms, 0)) AS acw_ms
    FROM queue_facts f
    GROUP BY f.vendor, f.tenant_id, f.conversation_id
)
SELECT
    t.vendor, t.tenant_id, t.conversation_id, t.parent_conversation_id, t.media_type, t.direction, t.ani, t.dnis,
    t.started_at, t.ended_at, t.first_event_at, t.last_event_at, CASE WHEN t.lasted_ms >= 0 THEN t.lasted_ms END,
    m.first_queue_id, m.last_queue_id, t.last_agent_id, m.outcome, t.end_reason, t.wrapup_code, coalesce(m.offered, 0),
    coalesce(m.answered, 0), coalesce(m.abandoned, 0), coalesce(m.flowed_out, 0), coalesce(m.legs, 0),
    coalesce(m.wait_ms, 0), coalesce(m.talk_ms, 0), coalesce(m.hold_ms, 0), coalesce(m.acw_ms, 0), t.events
FROM told t
LEFT JOIN measured m
  ON m.vendor = t.vendor AND m.tenant_id = t.tenant_id AND m.conversation_id = t.conversation_id
