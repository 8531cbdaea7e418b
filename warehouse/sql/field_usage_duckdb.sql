-- What only DuckDB speaks. Unnesting every value of ten million events takes minutes, so first the distinct lists of keys
-- are counted, which are few; then the frequent fields of each type are read by their place, and only the others unnested.

-- name: fields
INSERT INTO usage_counts (vendor, event_type, day, field, events, longs, doubles, booleans, strings, jsons, nth)
SELECT
    f.vendor, f.event_type, f.day, f.field, f.events, 0, 0, 0, 0, 0,
    row_number() OVER (PARTITION BY f.vendor, f.event_type, f.day ORDER BY f.events DESC, f.field)
FROM (
    SELECT k.vendor, k.event_type, k.day, k.field, CAST(sum(k.events) AS BIGINT) AS events
    FROM (
        SELECT g.vendor, g.event_type, g.day, unnest(g.keys) AS field, g.events
        FROM (
            SELECT e.vendor, e.event_type, s.day, json_keys(e.metadata) AS keys, count(*) AS events
            FROM events e
            JOIN usage_scope s
              ON s.vendor = e.vendor AND s.event_type = e.event_type AND s.day = CAST(e.timestamp AS DATE)
            GROUP BY ALL
        ) g
    ) k
    WHERE NOT starts_with(k.field, :ours)
    GROUP BY ALL
) f

-- name: take_types
UPDATE usage_counts
SET longs = t.longs, doubles = t.doubles, booleans = t.booleans, jsons = t.jsons
FROM usage_types t
WHERE t.vendor = usage_counts.vendor AND t.event_type = usage_counts.event_type AND t.day = usage_counts.day
  AND t.field = usage_counts.field

-- name: rare_types
-- Fields beyond the frequent ones: their events are taken apart value by value. Joined, since a list of them would be
-- searched once a value: names that are ids make it long.
UPDATE usage_counts
SET longs = t.longs, doubles = t.doubles, booleans = t.booleans, jsons = t.jsons
FROM (
    SELECT
        v.vendor, v.event_type, v.day, v.field,
        count(*) FILTER (WHERE regexp_full_match(v.value, :long)) AS longs,
        count(*) FILTER (WHERE NOT regexp_full_match(v.value, :long) AND regexp_full_match(v.value, :double)) AS doubles,
        count(*) FILTER (WHERE regexp_full_match(v.value, :boolean)) AS booleans,
        count(*) FILTER (WHERE regexp_full_match(v.value, :json, 's')) AS jsons
    FROM (
        SELECT u.vendor, u.event_type, u.day, u.entry.key AS field, u.entry.value AS value
        FROM (
            SELECT
                e.vendor, e.event_type, s.day,
                unnest(map_entries(CAST(CAST(e.metadata AS JSON) AS MAP(VARCHAR, VARCHAR)))) AS entry
            FROM events e
            JOIN usage_scope s
              ON s.vendor = e.vendor AND s.event_type = e.event_type AND s.day = CAST(e.timestamp AS DATE)
            WHERE e.vendor = :vendor AND e.event_type = :event_type
              AND NOT list_has_all(CAST(:done AS VARCHAR[]), json_keys(e.metadata))
        ) u
    ) v
    JOIN usage_counts c
      ON c.vendor = v.vendor AND c.event_type = v.event_type AND c.day = v.day AND c.field = v.field
    WHERE c.nth <= :most AND NOT list_contains(CAST(:done AS VARCHAR[]), v.field)
    GROUP BY ALL
) t
WHERE t.vendor = usage_counts.vendor AND t.event_type = usage_counts.event_type AND t.day = usage_counts.day
  AND t.field = usage_counts.field
