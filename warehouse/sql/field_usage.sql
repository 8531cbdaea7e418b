-- Use of metadata fields by day. Counted anew is a whole day of an event type, if anything of it is new.

-- name: scope_arrival
-- A new event may make reconciled ones of its conversation give way to their twins, perhaps on another day.
INSERT INTO usage_scope (vendor, event_type, day)
SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE)
FROM events e
WHERE e.load_id > :after AND e.timestamp IS NOT NULL
UNION
SELECT r.vendor, r.event_type, CAST(r.timestamp AS DATE)
FROM reconciled_events r
JOIN events e ON e.vendor = r.vendor AND e.tenant_id = r.tenant_id AND e.conversation_id = r.conversation_id
WHERE e.load_id > :after AND r.timestamp IS NOT NULL

-- name: scope_window
-- Also days of which no event is left.
INSERT INTO usage_scope (vendor, event_type, day)
SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE)
FROM events e
WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.timestamp IS NOT NULL
UNION
SELECT d.vendor, d.event_type, d.day
FROM event_type_days d
WHERE d.day >= :first_day AND d.day <= :last_day

-- name: pass_over_long
-- No name of a promoted field, and too long for PostgreSQL's index.
UPDATE usage_counts SET nth = :most + 1 WHERE length(field) > :longest

-- name: delete_usage
DELETE FROM metadata_field_usage
WHERE EXISTS (
    SELECT 1
    FROM usage_scope s
    WHERE s.vendor = metadata_field_usage.vendor AND s.event_type = metadata_field_usage.event_type
      AND s.day = metadata_field_usage.day
)

-- name: delete_days
DELETE FROM event_type_days
WHERE EXISTS (
    SELECT 1
    FROM usage_scope s
    WHERE s.vendor = event_type_days.vendor AND s.event_type = event_type_days.event_type AND s.day = event_type_days.day
)

-- name: insert_usage
INSERT INTO metadata_field_usage (
    vendor, event_type, day, field, events, longs, doubles, booleans, strings, jsons
)
SELECT
    c.vendor, c.event_type, c.day, c.field, c.events, c.longs, c.doubles, c.booleans,
    c.events - c.longs - c.doubles - c.booleans - c.jsons, c.jsons
FROM usage_counts c
WHERE c.nth <= :most

-- name: insert_days
INSERT INTO event_type_days (vendor, event_type, day, events, other_fields)
SELECT
    t.vendor, t.event_type, t.day, t.events,
    (
        SELECT count(*)
        FROM usage_counts c
        WHERE c.vendor = t.vendor AND c.event_type = t.event_type AND c.day = t.day AND c.nth > :most
    )
FROM (
    SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE) AS day, count(*) AS events
    FROM events e
    JOIN usage_scope s
      ON s.vendor = e.vendor AND s.event_type = e.event_type AND s.day = CAST(e.timestamp AS DATE)
    GROUP BY e.vendor, e.event_type, CAST(e.timestamp AS DATE)
) t
