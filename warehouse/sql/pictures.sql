-- What the pictures and tables for people show.

-- name: interval_counts
SELECT
    interval_start, max(interval_minutes),
    CAST(sum(offered) AS BIGINT), CAST(sum(answered) AS BIGINT), CAST(sum(abandoned) AS BIGINT)
FROM queue_intervals
WHERE interval_start >= :start AND interval_start < :end
  AND (CAST(:tenant_id AS TEXT) IS NULL OR tenant_id = CAST(:tenant_id AS TEXT))
  AND (CAST(:queue_id AS TEXT) IS NULL OR queue_id = CAST(:queue_id AS TEXT))
GROUP BY interval_start
ORDER BY interval_start

-- name: queue_summaries
SELECT
    vendor, tenant_id, queue_id,
    CAST(sum(offered) AS BIGINT), CAST(sum(answered) AS BIGINT), CAST(sum(abandoned) AS BIGINT),
    CAST(sum(answered_in_threshold) AS DOUBLE PRECISION) / NULLIF(sum(answered), 0),
    CAST(sum(wait_answered_ms) AS DOUBLE PRECISION) / NULLIF(sum(answered), 0),
    CAST(sum(talk_ms + hold_ms + acw_ms) AS DOUBLE PRECISION) / NULLIF(sum(handled), 0),
    CAST(sum(abandoned) AS DOUBLE PRECISION) / NULLIF(sum(offered), 0)
FROM queue_intervals
WHERE interval_start >= :start AND interval_start < :end
GROUP BY vendor, tenant_id, queue_id
ORDER BY sum(offered) DESC, vendor, tenant_id, queue_id
