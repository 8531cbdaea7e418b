-- How new tenants' cells are, and what was told of it.

-- name: newest
SELECT
    c.table_name, c.vendor, c.tenant_id, max(c.start_ms + c.interval_minutes * 60000) AS newest_end_ms,
    min(c.start_ms) AS first_ms
FROM (
    SELECT
        'queue_intervals' AS table_name, q.vendor, q.tenant_id, q.interval_minutes,
        CAST(extract(epoch FROM q.interval_start) AS BIGINT) * 1000 AS start_ms
    FROM queue_intervals q
    WHERE q.interval_start >= :since AND q.interval_start < :now
    UNION ALL
    SELECT
        'agent_intervals', a.vendor, a.tenant_id, a.interval_minutes,
        CAST(extract(epoch FROM a.interval_start) AS BIGINT) * 1000
    FROM agent_intervals a
    WHERE a.interval_start >= :since AND a.interval_start < :now
) c
GROUP BY c.table_name, c.vendor, c.tenant_id

-- name: told
-- The latest word on each tenant's cells.
SELECT t.table_name, t.vendor, t.tenant_id, t.status, t.checked_at
FROM (
    SELECT
        r.table_name, r.vendor, r.tenant_id, r.status, r.checked_at,
        row_number() OVER (
            PARTITION BY r.table_name, r.vendor, r.tenant_id ORDER BY r.checked_at DESC, r.run_id DESC
        ) AS nth
    FROM quality_results r
    WHERE r.suite = :suite
) t
WHERE t.nth = 1
