-- Landing rows → events. staged_events holds one batch of landing files; passed_over those that are not inserted.

-- name: pass_over_repeats
-- One row an id: the lowest topic, partition and offset. Narrow columns only; most batches have no repeats.
INSERT INTO passed_over (staged_no)
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

-- name: pass_over_known
-- Ids only: a join that also held the rows to be inserted would take a batch's whole size in memory.
INSERT INTO passed_over (staged_no)
SELECT s.staged_no
FROM staged_events s
WHERE EXISTS (SELECT 1 FROM events e WHERE e.event_id = s.event_id)

-- name: delete_window
-- Rows that are replaced. What the landing zone no longer holds stays, and so do earlier batches of the same load.
DELETE FROM events
WHERE timestamp_ms >= :start_ms AND timestamp_ms < :end_ms
  AND load_id < :before_load
  AND event_id IN (SELECT s.event_id FROM staged_events s)
