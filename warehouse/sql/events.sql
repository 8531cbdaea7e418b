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
