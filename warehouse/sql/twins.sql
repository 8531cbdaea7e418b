-- Reconciled events (REST, whole seconds) and the webhooks that came after all (ms): one row of each pair stays in events,
-- the pushed one, whichever came first. reconciled_events keeps every reconciled event, so that the verdict is a function
-- of the set of events and not of the order in which they came.

-- name: staged
SELECT count(*) FROM staged_events s WHERE s.metadata LIKE :mark AND s.conversation_id IS NOT NULL

-- name: kept
SELECT count(*) FROM (SELECT 1 AS one FROM reconciled_events LIMIT 1) r

-- name: note_again
-- Decided anew: a load by window may have to put it back.
UPDATE reconciled_events
SET load_id = :load_id
WHERE event_id IN (SELECT s.event_id FROM staged_events s WHERE s.metadata LIKE :mark)

-- name: unstage
DELETE FROM staged_events WHERE metadata LIKE :mark AND conversation_id IS NOT NULL

-- name: same_ids
SELECT count(*) FROM reconciled_events r JOIN staged_events s ON s.event_id = r.event_id

-- name: replace_same_ids
-- Pushed within the same second, so under the same id. A reconciled row is told by its place on Kafka.
DELETE FROM events
WHERE EXISTS (
    SELECT 1
    FROM reconciled_events r
    JOIN staged_events s ON s.event_id = r.event_id
    WHERE r.event_id = events.event_id AND r.topic = events.topic AND r."partition" = events."partition"
      AND r."offset" = events."offset"
)

-- name: scope
-- Conversations with a reconciled event that is new, or with one and something else that is new.
INSERT INTO twin_scope (vendor, tenant_id, conversation_id)
SELECT r.vendor, r.tenant_id, r.conversation_id
FROM reconciled_events r
WHERE r.load_id = :load_id
UNION
SELECT r.vendor, r.tenant_id, r.conversation_id
FROM reconciled_events r
JOIN events e ON e.vendor = r.vendor AND e.tenant_id = r.tenant_id AND e.conversation_id = r.conversation_id
WHERE e.load_id = :load_id

-- name: in_scope
SELECT count(*) FROM twin_scope

-- name: pushed
INSERT INTO twin_pushed (
    vendor, tenant_id, conversation_id, event_type, queue_id, agent_id, timestamp_ms, event_id
)
SELECT e.vendor, e.tenant_id, e.conversation_id, e.event_type, e.queue_id, e.agent_id, e.timestamp_ms, e.event_id
FROM events e
JOIN twin_scope s ON s.vendor = e.vendor AND s.tenant_id = e.tenant_id AND s.conversation_id = e.conversation_id
WHERE NOT EXISTS (
    SELECT 1
    FROM reconciled_events r
    WHERE r.event_id = e.event_id AND r.topic = e.topic AND r."partition" = e."partition" AND r."offset" = e."offset"
)

-- name: members
-- Numbered by time within tenant, conversation, type, queue and agent. Those with one id are a pair already.
INSERT INTO twin_members (group_no, side, nth, at_ms, event_id)
WITH both_sides AS (
    SELECT
        'reconciled' AS side, r.vendor, r.tenant_id, r.conversation_id, r.event_type, r.queue_id, r.agent_id,
        r.timestamp_ms, r.event_id
    FROM reconciled_events r
    JOIN twin_scope s ON s.vendor = r.vendor AND s.tenant_id = r.tenant_id AND s.conversation_id = r.conversation_id
    WHERE NOT EXISTS (SELECT 1 FROM twin_pushed p WHERE p.event_id = r.event_id)
    UNION ALL
    SELECT
        'pushed', p.vendor, p.tenant_id, p.conversation_id, p.event_type, p.queue_id, p.agent_id, p.timestamp_ms,
        p.event_id
    FROM twin_pushed p
    WHERE NOT EXISTS (SELECT 1 FROM reconciled_events r WHERE r.event_id = p.event_id)
)
SELECT
    dense_rank() OVER (
        ORDER BY b.vendor, b.tenant_id, b.conversation_id, b.event_type, b.queue_id, b.agent_id
    ),
    b.side,
    row_number() OVER (
        PARTITION BY b.vendor, b.tenant_id, b.conversation_id, b.event_type, b.queue_id, b.agent_id, b.side
        ORDER BY b.timestamp_ms, b.event_id
    ),
    b.timestamp_ms,
    b.event_id
FROM both_sides b

-- name: losers
-- Both sides of a group are walked by time: the two that are met are a pair if they are near, else the earlier one stays
-- alone. No other pairing has more pairs.
INSERT INTO twin_losers (event_id)
WITH RECURSIVE walk AS (
    SELECT DISTINCT
        m.group_no, CAST(1 AS BIGINT) AS reconciled_nth, CAST(1 AS BIGINT) AS pushed_nth
    FROM twin_members m
    WHERE m.side = 'reconciled'
    UNION ALL
    SELECT
        w.group_no,
        w.reconciled_nth + CASE WHEN r.at_ms <= p.at_ms + :near_ms THEN 1 ELSE 0 END,
        w.pushed_nth + CASE WHEN p.at_ms <= r.at_ms + :near_ms THEN 1 ELSE 0 END
    FROM walk w
    JOIN twin_members r ON r.group_no = w.group_no AND r.side = 'reconciled' AND r.nth = w.reconciled_nth
    JOIN twin_members p ON p.group_no = w.group_no AND p.side = 'pushed' AND p.nth = w.pushed_nth
)
SELECT r.event_id
FROM walk w
JOIN twin_members r ON r.group_no = w.group_no AND r.side = 'reconciled' AND r.nth = w.reconciled_nth
JOIN twin_members p ON p.group_no = w.group_no AND p.side = 'pushed' AND p.nth = w.pushed_nth
WHERE r.at_ms <= p.at_ms + :near_ms AND p.at_ms <= r.at_ms + :near_ms
UNION
SELECT p.event_id
FROM twin_pushed p
JOIN reconciled_events r ON r.event_id = p.event_id

-- name: set_aside
DELETE FROM events
WHERE EXISTS (
    SELECT 1
    FROM reconciled_events r
    JOIN twin_losers l ON l.event_id = r.event_id
    WHERE r.event_id = events.event_id AND r.topic = events.topic AND r."partition" = events."partition"
      AND r."offset" = events."offset"
)
