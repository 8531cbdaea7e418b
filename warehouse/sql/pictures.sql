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

-- name: service_levels
-- Per bucket of time; the busiest queues by themselves, place 1 first, the rest together behind them.
WITH ranked AS (
    SELECT
        vendor, tenant_id, queue_id,
        row_number() OVER (ORDER BY sum(answered) DESC, vendor, tenant_id, queue_id) AS place
    FROM queue_intervals
    WHERE interval_start >= :start AND interval_start < :end
    GROUP BY vendor, tenant_id, queue_id
),
placed AS (
    SELECT
        CASE WHEN r.place <= :most THEN r.place ELSE :most + 1 END AS place,
        q.vendor, q.tenant_id, q.queue_id, q.answered, q.answered_in_threshold,
        CAST(extract(epoch FROM q.interval_start) * 1000 AS BIGINT) AS start_ms
    FROM queue_intervals q
    JOIN ranked r ON r.vendor = q.vendor AND r.tenant_id = q.tenant_id AND r.queue_id = q.queue_id
    WHERE q.interval_start >= :start AND q.interval_start < :end
)
SELECT
    place, min(vendor), min(tenant_id), min(queue_id), start_ms - mod(start_ms, :bucket_ms),
    CAST(sum(answered_in_threshold) AS BIGINT), CAST(sum(answered) AS BIGINT), CAST(sum(answered) AS BIGINT)
FROM placed
GROUP BY place, start_ms - mod(start_ms, :bucket_ms)
ORDER BY place, start_ms - mod(start_ms, :bucket_ms)

-- name: occupancies
-- As service_levels, of the tenants' agents; the last column is the time on queue, in any status but OFF_QUEUE.
WITH ranked AS (
    SELECT
        vendor, tenant_id,
        row_number() OVER (
            ORDER BY sum(interacting_ms + communicating_ms + idle_ms) DESC, vendor, tenant_id
        ) AS place
    FROM agent_intervals
    WHERE interval_start >= :start AND interval_start < :end
    GROUP BY vendor, tenant_id
),
placed AS (
    SELECT
        CASE WHEN r.place <= :most THEN r.place ELSE :most + 1 END AS place,
        a.*,
        CAST(extract(epoch FROM a.interval_start) * 1000 AS BIGINT) AS start_ms
    FROM agent_intervals a
    JOIN ranked r ON r.vendor = a.vendor AND r.tenant_id = a.tenant_id
    WHERE a.interval_start >= :start AND a.interval_start < :end
)
SELECT
    place, min(vendor), min(tenant_id), '', start_ms - mod(start_ms, :bucket_ms),
    CAST(sum(interacting_ms) AS BIGINT),
    CAST(sum(interacting_ms + communicating_ms + idle_ms) AS BIGINT),
    CAST(sum(interacting_ms + communicating_ms + idle_ms + not_responding_ms) AS BIGINT)
FROM placed
GROUP BY place, start_ms - mod(start_ms, :bucket_ms)
ORDER BY place, start_ms - mod(start_ms, :bucket_ms)

-- name: hourly_offered
SELECT
    CAST(extract(epoch FROM interval_start) * 1000 AS BIGINT)
    - mod(CAST(extract(epoch FROM interval_start) * 1000 AS BIGINT), 3600000) AS hour_ms,
    CAST(sum(offered) AS BIGINT)
FROM queue_intervals
WHERE interval_start >= :start AND interval_start < :end
  AND (CAST(:tenant_id AS TEXT) IS NULL OR tenant_id = CAST(:tenant_id AS TEXT))
GROUP BY 1
ORDER BY 1

-- name: loads_of
-- First and last number of the loads of events that ended within the window; 0 and -1 if there were none.
SELECT coalesce(min(load_id), 0), coalesce(max(load_id), -1)
FROM load_runs
WHERE dataset = 'events' AND kind = 'arrival' AND status = 'succeeded' AND finished_at >= :start AND finished_at < :end

-- name: arrival_buckets
-- Events by how long after their own time they were on Kafka: the least bound that they kept, NULL beyond the last.
-- A load by window brings no arrivals, it repeats earlier ones.
-- Counted as behind their interval's load: those that came when the intervals' horizon had passed them.
WITH horizons AS (
    SELECT e.load_id, max(i.window_end) AS horizon
    FROM load_runs e
    JOIN load_runs i
      ON i.dataset = 'wfm_intervals' AND i.kind = 'arrival' AND i.status = 'succeeded' AND i.load_id < e.load_id
    WHERE e.dataset = 'events' AND e.load_id >= :first_load AND e.load_id <= :last_load
    GROUP BY e.load_id
),
delays AS (
    SELECT
        v.vendor,
        CAST(round(extract(epoch FROM v.published_at) * 1000) AS BIGINT) - v.timestamp_ms AS delay_ms,
        CASE WHEN v.timestamp < h.horizon THEN 1 ELSE 0 END AS behind
    FROM events v
    JOIN load_runs l ON l.load_id = v.load_id AND l.kind = 'arrival'
    LEFT JOIN horizons h ON h.load_id = v.load_id
    WHERE v.load_id >= :first_load AND v.load_id <= :last_load
      AND v.timestamp IS NOT NULL AND v.published_at IS NOT NULL
)
SELECT
    vendor,
    CASE
        WHEN delay_ms < 0 THEN 0
        WHEN delay_ms <= 100 THEN 100
        WHEN delay_ms <= 200 THEN 200
        WHEN delay_ms <= 500 THEN 500
        WHEN delay_ms <= 1000 THEN 1000
        WHEN delay_ms <= 2000 THEN 2000
        WHEN delay_ms <= 5000 THEN 5000
        WHEN delay_ms <= 15000 THEN 15000
        WHEN delay_ms <= 60000 THEN 60000
        WHEN delay_ms <= 300000 THEN 300000
        WHEN delay_ms <= 900000 THEN 900000
        WHEN delay_ms <= 3600000 THEN 3600000
        WHEN delay_ms <= 21600000 THEN 21600000
        WHEN delay_ms <= 86400000 THEN 86400000
    END AS bound_ms,
    CAST(count(*) AS BIGINT),
    CAST(sum(behind) AS BIGINT)
FROM delays
GROUP BY 1, 2
ORDER BY 1, 2

-- name: arrival_percentiles
SELECT
    percentile_disc(0.5) WITHIN GROUP (ORDER BY delay_ms),
    percentile_disc(0.95) WITHIN GROUP (ORDER BY delay_ms),
    percentile_disc(0.99) WITHIN GROUP (ORDER BY delay_ms)
FROM (
    SELECT CAST(round(extract(epoch FROM v.published_at) * 1000) AS BIGINT) - v.timestamp_ms AS delay_ms
    FROM events v
    JOIN load_runs l ON l.load_id = v.load_id AND l.kind = 'arrival'
    WHERE v.load_id >= :first_load AND v.load_id <= :last_load
      AND v.timestamp IS NOT NULL AND v.published_at IS NOT NULL
) d
