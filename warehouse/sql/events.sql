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

-- name: find_known
-- DuckDB reads all the keys, 6 bytes each, and not the ids, 40 bytes each. Different ids rarely have the same key.
INSERT INTO maybe_known (staged_no, event_key, event_id)
SELECT s.staged_no, s.event_key, s.event_id
FROM staged_events s
WHERE EXISTS (SELECT 1 FROM events e WHERE e.event_key = s.event_key)

-- name: count_maybe_known
SELECT count(*) FROM maybe_known

-- name: pass_over_known
-- Ids only: a join that also held the rows to be inserted would take a batch's whole size in memory.
INSERT INTO passed_over (staged_no)
SELECT m.staged_no
FROM maybe_known m
WHERE EXISTS (SELECT 1 FROM events e WHERE e.event_key = m.event_key AND e.event_id = m.event_id)

-- name: delete_window
-- Rows that are replaced. What the landing zone no longer holds stays, and so do earlier batches of the same load.
DELETE FROM events
WHERE timestamp_ms >= :start_ms AND timestamp_ms < :end_ms
  AND load_id < :before_load
  AND event_id IN (SELECT s.event_id FROM staged_events s)
