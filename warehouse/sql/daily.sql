-- Daily analytics. daily_scope says which days of which tenants are rebuilt, from all facts of their conversations.

-- name: masters
-- The master contacts of those in scope: a vendor may make a new contact of a transferred call.
INSERT INTO master_scope (vendor, tenant_id, master_id)
SELECT DISTINCT c.vendor, c.tenant_id, coalesce(c.parent_conversation_id, c.conversation_id)
FROM conversations c
JOIN conversation_scope s
  ON s.vendor = c.vendor AND s.tenant_id = c.tenant_id AND s.conversation_id = c.conversation_id

-- name: masters_ever
-- Also those with which a contact was one before its newest event: it may name another master, or the first one. So all
-- that any of its events names count, and the contact itself, which is the master of those that name it.
INSERT INTO master_scope (vendor, tenant_id, master_id)
SELECT s.vendor, s.tenant_id, s.conversation_id
FROM conversation_scope s
UNION
SELECT n.vendor, n.tenant_id, n.parent_conversation_id
FROM (
    SELECT c.vendor, c.tenant_id, c.conversation_id, c.parent_conversation_id FROM conversations c
    UNION ALL
    SELECT e.vendor, e.tenant_id, e.conversation_id, e.parent_conversation_id FROM events e
    UNION ALL
    SELECT r.vendor, r.tenant_id, r.conversation_id, r.parent_conversation_id FROM reconciled_events r
) n
JOIN conversation_scope s
  ON s.vendor = n.vendor AND s.tenant_id = n.tenant_id AND s.conversation_id = n.conversation_id
WHERE n.parent_conversation_id IS NOT NULL

-- name: relatives
-- Contacts with the same master contact.
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
WITH found AS (
    SELECT c.vendor, c.tenant_id, c.conversation_id
    FROM conversations c
    JOIN master_scope m ON m.vendor = c.vendor AND m.tenant_id = c.tenant_id AND m.master_id = c.parent_conversation_id
    UNION
    SELECT c.vendor, c.tenant_id, c.conversation_id
    FROM conversations c
    JOIN master_scope m ON m.vendor = c.vendor AND m.tenant_id = c.tenant_id AND m.master_id = c.conversation_id
)
SELECT f.vendor, f.tenant_id, f.conversation_id
FROM found f
WHERE NOT EXISTS (
    SELECT 1
    FROM conversation_scope s
    WHERE s.vendor = f.vendor AND s.tenant_id = f.tenant_id AND s.conversation_id = f.conversation_id
)

-- name: touch_days
-- Days on which such a conversation has, or had, something completed: all metrics fall at an event's time. Had: a
-- reconciled event may have left events since. And the day after a start, if a caller that the conversation has, or had,
-- calls again on it: whether that is a repeated call may have changed.
INSERT INTO daily_scope (vendor, tenant_id, day_ms)
WITH touched AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, e.event_type, e.ani, e.timestamp_ms - mod(e.timestamp_ms, :day_ms) AS day_ms
    FROM events e
    JOIN conversation_scope c
      ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
    UNION ALL
    SELECT r.vendor, r.tenant_id, r.conversation_id, r.event_type, r.ani, r.timestamp_ms - mod(r.timestamp_ms, :day_ms)
    FROM reconciled_events r
    JOIN conversation_scope c
      ON c.vendor = r.vendor AND c.tenant_id = r.tenant_id AND c.conversation_id = r.conversation_id
    WHERE r.timestamp IS NOT NULL
),
callers AS (
    SELECT DISTINCT t.vendor, t.tenant_id, t.conversation_id, t.ani FROM touched t WHERE t.ani IS NOT NULL
),
calls AS (
    SELECT DISTINCT t.vendor, t.tenant_id, a.ani, t.day_ms
    FROM touched t
    JOIN callers a ON a.vendor = t.vendor AND a.tenant_id = t.tenant_id AND a.conversation_id = t.conversation_id
    WHERE t.event_type = 'conversation.started'
)
SELECT t.vendor, t.tenant_id, t.day_ms
FROM touched t
UNION
SELECT c.vendor, c.tenant_id, c.day_ms + :day_ms
FROM calls c
JOIN conversations f
  ON f.vendor = c.vendor AND f.tenant_id = c.tenant_id AND f.ani = c.ani
 AND f.started_at >= to_timestamp((c.day_ms + :day_ms) / 1000.0)
 AND f.started_at < to_timestamp((c.day_ms + 2 * :day_ms) / 1000.0)

-- name: range_days
-- Every day with an event of a conversation, or with rows: theirs are deleted.
INSERT INTO daily_scope (vendor, tenant_id, day_ms)
SELECT e.vendor, e.tenant_id, e.timestamp_ms - mod(e.timestamp_ms, :day_ms)
FROM events e
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms >= :low_ms AND e.timestamp_ms < :high_ms
  AND e.conversation_id IS NOT NULL
UNION
SELECT d.vendor, d.tenant_id, CAST(extract(epoch FROM d.day) * 1000 AS BIGINT)
FROM daily_analytics d
WHERE d.day >= :first_day AND d.day <= :last_day

-- name: chunks
SELECT DISTINCT CAST((s.day_ms - mod(s.day_ms, :size_ms)) / :size_ms AS BIGINT) AS chunk FROM daily_scope s ORDER BY chunk

-- name: scope_conversations
INSERT INTO conversation_scope (vendor, tenant_id, conversation_id)
SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
FROM events e
JOIN daily_scope s
  ON s.vendor = e.vendor AND s.tenant_id = e.tenant_id AND s.day_ms = e.timestamp_ms - mod(e.timestamp_ms, :day_ms)
WHERE e.timestamp IS NOT NULL AND e.timestamp_ms >= :low_ms AND e.timestamp_ms < :high_ms
  AND e.conversation_id IS NOT NULL

-- name: delete
DELETE FROM daily_analytics
WHERE day >= :first_day AND day <= :last_day
  AND EXISTS (
    SELECT 1
    FROM daily_scope s
    WHERE s.vendor = daily_analytics.vendor AND s.tenant_id = daily_analytics.tenant_id
      AND CAST(to_timestamp(s.day_ms / 1000.0) AS DATE) = daily_analytics.day
  )

-- name: insert
-- A leg is transferred if its contact went on without the agent: a queue was entered when the agent left or later, or
-- left after that, or a leg that began later ended later and one that began later is another agent's. A consultation
-- that ends before the leg is none.
-- Who calls is not known if the number is withheld, in the words that networks use for it (RFC 3323 among them).
INSERT INTO daily_analytics (
    vendor, tenant_id, day, queue_id, agent_id, media_type, conversations, known_callers, repeat_callers, offered, answered,
    abandoned, flowed_out, answered_in_threshold, wait_answered_ms, wait_abandoned_ms, handled, transferred, talk_ms,
    hold_ms, acw_ms
)
WITH facts AS (
    SELECT
        f.*, f.left_ms - f.talk_ms - f.hold_ms AS began_ms, coalesce(c.parent_conversation_id, f.conversation_id) AS master_id
    FROM queue_facts f
    LEFT JOIN conversations c
      ON c.vendor = f.vendor AND c.tenant_id = f.tenant_id AND c.conversation_id = f.conversation_id
),
queueing AS (
    SELECT
        f.vendor, f.tenant_id, f.master_id,
        max(CASE WHEN f.kind = 'offered' THEN f.at_ms END) AS last_entry_ms,
        max(CASE WHEN f.kind <> 'offered' THEN f.at_ms END) AS last_exit_ms
    FROM facts f
    WHERE f.kind <> 'handled'
    GROUP BY f.vendor, f.tenant_id, f.master_id
),
legs AS (
    SELECT
        f.*,
        max(f.left_ms) OVER later AS later_left_ms,
        min(f.agent_id) OVER later AS least_later_agent,
        max(f.agent_id) OVER later AS greatest_later_agent
    FROM facts f
    WHERE f.kind = 'handled'
    WINDOW later AS (
        PARTITION BY f.vendor, f.tenant_id, f.master_id
        ORDER BY f.began_ms DESC
        RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
tenants AS (
    SELECT DISTINCT vendor, tenant_id FROM daily_scope
),
started AS (
    SELECT
        c.vendor, c.tenant_id, c.first_queue_id, coalesce(c.media_type, 'UNKNOWN') AS media_type,
        CAST(extract(epoch FROM c.started_at) * 1000 AS BIGINT) AS at_ms,
        CASE
            WHEN c.direction = 'INBOUND' AND coalesce(c.parent_conversation_id, c.conversation_id) = c.conversation_id
                AND lower(c.ani) NOT LIKE '%anonymous%'
                AND lower(c.ani) NOT IN ('', 'blocked', 'private', 'restricted', 'unavailable', 'unknown', 'withheld')
                THEN c.ani
        END AS caller
    FROM conversations c
    JOIN tenants t ON t.vendor = c.vendor AND t.tenant_id = c.tenant_id
    WHERE c.started_at >= to_timestamp((:low_ms - :day_ms) / 1000.0) AND c.started_at < to_timestamp(:high_ms / 1000.0)
),
calls AS (
    SELECT
        s.*,
        count(*) OVER (
            PARTITION BY s.vendor, s.tenant_id, s.caller
            ORDER BY s.at_ms
            RANGE BETWEEN CAST(:day_ms AS BIGINT) PRECEDING AND 1 PRECEDING
        ) AS earlier
    FROM started s
),
measures AS (
    SELECT
        f.vendor, f.tenant_id, f.queue_id, CASE WHEN f.kind = 'answered' THEN f.agent_id END AS agent_id, f.media_type,
        f.at_ms, f.kind, f.wait_ms, 0 AS talk_ms, 0 AS hold_ms, 0 AS acw_ms, 0 AS transferred, 0 AS known, 0 AS repeated
    FROM queue_facts f
    WHERE f.kind <> 'handled'
    UNION ALL
    SELECT
        l.vendor, l.tenant_id, l.queue_id, l.agent_id, l.media_type, l.at_ms, l.kind, NULL, l.talk_ms, l.hold_ms, l.acw_ms,
        CASE
            WHEN q.last_entry_ms >= l.left_ms AND q.last_entry_ms > l.began_ms THEN 1
            WHEN q.last_exit_ms > l.left_ms THEN 1
            WHEN l.later_left_ms > l.left_ms
                AND (l.least_later_agent <> l.agent_id OR l.greatest_later_agent <> l.agent_id) THEN 1
            ELSE 0
        END,
        0, 0
    FROM legs l
    LEFT JOIN queueing q ON q.vendor = l.vendor AND q.tenant_id = l.tenant_id AND q.master_id = l.master_id
    UNION ALL
    SELECT
        c.vendor, c.tenant_id, c.first_queue_id, NULL, c.media_type, c.at_ms, 'started', NULL, 0, 0, 0, 0,
        CASE WHEN c.caller IS NOT NULL THEN 1 ELSE 0 END,
        CASE WHEN c.caller IS NOT NULL AND c.earlier > 0 THEN 1 ELSE 0 END
    FROM calls c
)
SELECT
    m.vendor, m.tenant_id, CAST(to_timestamp(s.day_ms / 1000.0) AS DATE), m.queue_id, m.agent_id, m.media_type,
    sum(CASE WHEN m.kind = 'started' THEN 1 ELSE 0 END),
    sum(m.known),
    sum(m.repeated),
    sum(CASE WHEN m.kind = 'offered' THEN 1 ELSE 0 END),
    sum(CASE WHEN m.kind = 'answered' THEN 1 ELSE 0 END),
    sum(CASE WHEN m.kind = 'abandoned' THEN 1 ELSE 0 END),
    sum(CASE WHEN m.kind = 'flowed_out' THEN 1 ELSE 0 END),
    sum(CASE WHEN m.kind = 'answered' AND m.wait_ms <= :threshold_ms THEN 1 ELSE 0 END),
    sum(CASE WHEN m.kind = 'answered' THEN coalesce(m.wait_ms, 0) ELSE 0 END),
    sum(CASE WHEN m.kind = 'abandoned' THEN coalesce(m.wait_ms, 0) ELSE 0 END),
    sum(CASE WHEN m.kind = 'handled' THEN 1 ELSE 0 END),
    sum(m.transferred),
    sum(m.talk_ms),
    sum(m.hold_ms),
    sum(m.acw_ms)
FROM measures m
JOIN daily_scope s ON s.vendor = m.vendor AND s.tenant_id = m.tenant_id AND s.day_ms = m.at_ms - mod(m.at_ms, :day_ms)
WHERE m.at_ms >= :low_ms AND m.at_ms < :high_ms
GROUP BY m.vendor, m.tenant_id, s.day_ms, m.queue_id, m.agent_id, m.media_type
