-- What only PostgreSQL speaks.

-- name: fields
-- jsonb takes no NUL: an escaped one (after an even number of backslashes) is left out.
INSERT INTO usage_counts (vendor, event_type, day, field, events, longs, doubles, booleans, strings, jsons, nth)
SELECT
    f.*,
    row_number() OVER (PARTITION BY f.vendor, f.event_type, f.day ORDER BY f.events DESC, f.field COLLATE "C")
FROM (
    SELECT
        m.vendor, m.event_type, m.day, v.key, count(*) AS events,
        count(*) FILTER (WHERE v.value ~ :long) AS longs,
        count(*) FILTER (WHERE v.value !~ :long AND v.value ~ :double) AS doubles,
        count(*) FILTER (WHERE v.value ~ :boolean) AS booleans,
        0 AS strings,
        count(*) FILTER (WHERE v.value ~ :json) AS jsons
    FROM (
        SELECT
            e.vendor, e.event_type, s.day,
            CAST(
                CASE
                    WHEN position(:nul IN e.metadata) = 0 THEN e.metadata
                    ELSE regexp_replace(e.metadata, :escaped_nul, :kept, 'g')
                END AS jsonb
            ) AS metadata
        FROM events e
        JOIN usage_scope s
          ON s.vendor = e.vendor AND s.event_type = e.event_type AND s.day = CAST(e.timestamp AS DATE)
    ) m
    CROSS JOIN LATERAL jsonb_each_text(m.metadata) AS v (key, value)
    WHERE NOT starts_with(v.key, :ours)
    GROUP BY m.vendor, m.event_type, m.day, v.key
) f (vendor, event_type, day, field, events, longs, doubles, booleans, strings, jsons)
