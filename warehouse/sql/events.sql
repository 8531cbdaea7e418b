-- Landing rows → events. staged_events holds one batch of landing files.

-- name: drop_repeats
-- One row an id: the lowest topic, partition and offset. Narrow columns only; most batches have no repeats.
DELETE FROM staged_events
WHERE staged_no IN (
    SELECT r.staged_no
    FROM (
        SELECT
            s.staged_no,
            row_number() OVER (
                PARTITION BY s.event_id ORDER BY s.topic, s."partition", s."offset", s.timestamp_ms, s.staged_no
            ) AS nth
        FROM staged_events s
        WHERE s.event_id IN (SELECT d.event_id FROM staged_events d GROUP BY d.event_id HAVING count(*) > 1)
    ) r
    WHERE r.nth > 1
)

-- name: delete_window
-- Rows that are replaced. What the landing zone no longer holds stays, and so do earlier batches of the same load.
DELETE FROM events
WHERE timestamp_ms >= :start_ms AND timestamp_ms < :end_ms
  AND load_id < :before_load
  AND event_id IN (SELECT s.event_id FROM staged_events s)

-- name: insert
INSERT INTO events (
    event_id, vendor, tenant_id, event_type, timestamp, timestamp_ms, conversation_id, parent_conversation_id, queue_id,
    agent_id, media_type, direction, ani, dnis, outcome, agent_status, end_reason, wrapup_code, wait_ms, talk_ms, hold_ms,
    acw_ms, duration_ms, payload, metadata, topic, "partition", "offset", published_at, load_id
)
SELECT
    s.event_id, s.vendor, s.tenant_id, s.event_type, s.timestamp, s.timestamp_ms, s.conversation_id,
    s.parent_conversation_id, s.queue_id, s.agent_id, s.media_type, s.direction, s.ani, s.dnis, s.outcome, s.agent_status,
    s.end_reason, s.wrapup_code, s.wait_ms, s.talk_ms, s.hold_ms, s.acw_ms, s.duration_ms, s.payload, s.metadata, s.topic,
    s."partition", s."offset", s.published_at, :load_id
FROM staged_events s
WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.event_id = s.event_id)
