-- What completed when, for the conversations in conversation_scope: the source of queue cells, agents' handled and
-- conversation rows. A function of the set of events, whatever the order in which they arrived.

-- name: span
-- Between which instants those conversations' events lie: there the facts are looked for, on DuckDB by skipping the rest.
SELECT min(e.timestamp_ms) AS first_ms, max(e.timestamp_ms) AS last_ms
FROM events e
JOIN conversation_scope c
  ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
WHERE e.timestamp IS NOT NULL

-- name: insert
-- Ties of time are broken by event_id; a queue entry comes before an answer, a leg before its wrap-up.
-- Wait: the vendor's, else from the latest entry of that conversation into that queue, else NULL (unknown).
-- A leg's wrap-up: the first at or after it, of the same agent and queue, before the agent's next leg in that queue.
INSERT INTO queue_facts (
    vendor, tenant_id, conversation_id, kind, at_ms, event_id, queue_id, agent_id, media_type, outcome, wait_ms, talk_ms,
    hold_ms, acw_ms, left_ms
)
WITH ordered AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, e.event_type, e.timestamp_ms, e.event_id, e.queue_id, e.agent_id,
        e.outcome, e.wait_ms, e.talk_ms, e.hold_ms, e.acw_ms,
        coalesce(
            e.media_type,
            first_value(e.media_type) OVER (
                PARTITION BY e.vendor, e.tenant_id, e.conversation_id
                ORDER BY CASE WHEN e.media_type IS NULL THEN 1 ELSE 0 END, e.timestamp_ms, e.event_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ),
            'UNKNOWN'
        ) AS media_type,
        max(CASE WHEN e.event_type = 'conversation.queued' THEN e.timestamp_ms END) OVER (
            PARTITION BY e.vendor, e.tenant_id, e.conversation_id, e.queue_id
            ORDER BY e.timestamp_ms, CASE WHEN e.event_type = 'conversation.queued' THEN 0 ELSE 1 END, e.event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS queued_ms,
        sum(CASE WHEN e.event_type = 'conversation.handled' THEN 1 ELSE 0 END) OVER (
            PARTITION BY e.vendor, e.tenant_id, e.conversation_id, e.queue_id, e.agent_id
            ORDER BY e.timestamp_ms, CASE WHEN e.event_type = 'conversation.handled' THEN 0 ELSE 1 END, e.event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS leg_no
    FROM events e
    JOIN conversation_scope c
      ON c.vendor = e.vendor AND c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
      AND e.event_type LIKE 'conversation.%'
      AND e.timestamp_ms >= :first_ms AND e.timestamp_ms <= :last_ms
),
wrapups AS (
    SELECT
        o.*,
        row_number() OVER (
            PARTITION BY o.vendor, o.tenant_id, o.conversation_id, o.queue_id, o.agent_id, o.leg_no
            ORDER BY o.timestamp_ms, o.event_id
        ) AS nth
    FROM ordered o
    WHERE o.event_type = 'conversation.wrapup' AND o.leg_no > 0
),
first_wrapups AS (
    SELECT * FROM wrapups WHERE nth = 1
),
queue_exits AS (
    SELECT
        o.*,
        CASE
            WHEN o.wait_ms >= 0 THEN o.wait_ms
            WHEN o.timestamp_ms - o.queued_ms >= 0 THEN o.timestamp_ms - o.queued_ms
        END AS known_wait_ms
    FROM ordered o
    WHERE o.event_type IN ('conversation.assigned', 'conversation.abandoned', 'conversation.flowed_out')
)
SELECT
    vendor, tenant_id, conversation_id, 'offered', timestamp_ms, event_id, queue_id, NULL, media_type, NULL,
    CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), CAST(NULL AS BIGINT)
FROM ordered
WHERE event_type = 'conversation.queued'
UNION ALL
SELECT
    vendor, tenant_id, conversation_id,
    CASE event_type
        WHEN 'conversation.assigned' THEN 'answered'
        WHEN 'conversation.abandoned' THEN 'abandoned'
        ELSE 'flowed_out'
    END,
    timestamp_ms, event_id, queue_id, agent_id, media_type,
    CASE event_type
        WHEN 'conversation.assigned' THEN 'ANSWERED'
        WHEN 'conversation.abandoned' THEN 'ABANDON'
        ELSE coalesce(outcome, 'FLOW_OUT')
    END,
    known_wait_ms, NULL, NULL, NULL, NULL
FROM queue_exits
UNION ALL
SELECT
    h.vendor, h.tenant_id, h.conversation_id, 'handled', coalesce(w.timestamp_ms, h.timestamp_ms), h.event_id, h.queue_id,
    h.agent_id, h.media_type, NULL, NULL,
    CASE WHEN h.talk_ms > 0 THEN h.talk_ms ELSE 0 END,
    CASE WHEN h.hold_ms > 0 THEN h.hold_ms ELSE 0 END,
    CASE WHEN w.acw_ms > 0 THEN w.acw_ms ELSE 0 END,
    h.timestamp_ms
FROM ordered h
LEFT JOIN first_wrapups w
  ON w.vendor = h.vendor AND w.tenant_id = h.tenant_id AND w.conversation_id = h.conversation_id
 AND w.queue_id IS NOT DISTINCT FROM h.queue_id AND w.agent_id IS NOT DISTINCT FROM h.agent_id AND w.leg_no = h.leg_no
WHERE h.event_type = 'conversation.handled'
