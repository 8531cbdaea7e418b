-- Use of metadata fields by day. Counted anew is a whole day of an event type, if anything of it is new.

-- name: scope_arrival
-- A new event may take the place of its reconciled twin, which lies within :near_ms and perhaps on another day.
INSERT INTO usage_scope (vendor, event_type, day)
SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE)
FROM events e
WHERE e.load_id > :after AND e.timestamp IS NOT NULL
UNION
SELECT e.vendor, e.event_type, CAST(e.timestamp - :near_ms * INTERVAL '1 millisecond' AS DATE)
FROM events e
WHERE e.load_id > :after AND e.timestamp IS NOT NULL
UNION
SELECT e.vendor, e.event_type, CAST(e.timestamp + :near_ms * INTERVAL '1 millisecond' AS DATE)
FROM events e
WHERE e.load_id > :after AND e.timestamp IS NOT NULL

-- name: scope_window
-- Also days of which no event is left.
INSERT INTO usage_scope (vendor, event_type, day)
SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE)
FROM events e
WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.timestamp IS NOT NULL
UNION
SELECT d.vendor, d.event_type, d.day
FROM event_type_days d
WHERE d.day >= :start_day AND d.day < :end_day

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
