-- What the ledger says of datasets by span of time. Everything in epoch ms: no day is longer than another.

-- name: by_span
WITH known (dataset, fed_by_events) AS (
    VALUES
        ('events', FALSE), ('conversations', TRUE), ('wfm_intervals', TRUE), ('daily_analytics', TRUE),
        ('metadata_field_usage', TRUE)
),
datasets AS (
    SELECT dataset, fed_by_events
    FROM known
    WHERE CAST(:dataset AS TEXT) IS NULL OR dataset = :dataset
),
-- Loads up to this number began too long ago to count. Loads hold the lock, so numbers ascend as they begin.
ignored AS (
    SELECT coalesce(max(load_id), 0) AS load_id
    FROM load_runs
    WHERE started_at < :loaded_since
),
spans AS (
    SELECT g.at_ms AS span_ms, greatest(g.at_ms, :start_ms) AS from_ms, least(g.at_ms + :size_ms, :end_ms) AS to_ms
    FROM generate_series(
        CAST(:origin_ms AS BIGINT), CAST(:end_ms AS BIGINT) - 1, CAST(:size_ms AS BIGINT)
    ) AS g (at_ms)
),
arrivals AS (
    SELECT
        dataset, max(through_load_id) AS through, CAST(extract(epoch FROM max(window_end)) * 1000 AS BIGINT) AS horizon_ms
    FROM load_runs
    WHERE kind = 'arrival' AND status = 'succeeded'
    GROUP BY dataset
),
event_loads AS (
    SELECT e.timestamp_ms - mod(e.timestamp_ms, 86400000) AS day_ms, e.load_id
    FROM events e
    WHERE e.timestamp_ms >= :first_day_ms AND e.timestamp_ms < :past_days_ms AND e.timestamp IS NOT NULL
    GROUP BY e.timestamp_ms - mod(e.timestamp_ms, 86400000), e.load_id
),
event_days AS (
    SELECT
        l.day_ms, min(l.load_id) AS oldest, max(l.load_id) AS newest,
        min(CASE WHEN r.kind = 'arrival' THEN l.load_id END) AS first_arrival
    FROM event_loads l
    LEFT JOIN load_runs r ON r.load_id = l.load_id
    GROUP BY l.day_ms
),
-- By arrival events cover the days in which they lie, and what is made of them the days whose events it took account of.
-- The number that counts against a failure is the first one: later loads by arrival do not repeat what failed.
attempts (dataset, load_id, is_good, by_window, from_ms, to_ms) AS (
    SELECT
        r.dataset, r.load_id, r.status = 'succeeded', TRUE,
        CAST(extract(epoch FROM r.window_start) * 1000 AS BIGINT),
        CAST(extract(epoch FROM r.window_end) * 1000 AS BIGINT)
    FROM load_runs r
    WHERE r.window_start < :past_days AND r.window_end > :first_day
    UNION ALL
    SELECT 'events', d.first_arrival, TRUE, FALSE, d.day_ms, d.day_ms + 86400000
    FROM event_days d
    WHERE d.first_arrival IS NOT NULL
    UNION ALL
    SELECT r.dataset, min(r.load_id), TRUE, FALSE, d.day_ms, d.day_ms + 86400000
    FROM load_runs r
    JOIN event_days d ON d.oldest <= r.through_load_id
    WHERE r.kind = 'arrival' AND r.status = 'succeeded' AND r.window_start IS NULL
    GROUP BY r.dataset, d.day_ms
),
attempt_spans AS (
    SELECT a.dataset, a.load_id, a.is_good, a.by_window, a.from_ms, a.to_ms, g.span_ms
    FROM (
        SELECT
            dataset, load_id, is_good, by_window, greatest(from_ms, :start_ms) AS from_ms, least(to_ms, :end_ms) AS to_ms
        FROM attempts
        WHERE from_ms < :end_ms AND to_ms > :start_ms
    ) a
    CROSS JOIN LATERAL generate_series(
        a.from_ms - mod(a.from_ms - :origin_ms, :size_ms), a.to_ms - 1, CAST(:size_ms AS BIGINT)
    ) AS g (span_ms)
),
-- Spans are cut at midnight and wherever an attempt begins or ends: of each piece the latest attempt tells.
-- Days of queues and agents are made of conversations, so their attempts cut them too.
cutting AS (
    SELECT d.dataset, a.span_ms, a.from_ms, a.to_ms
    FROM attempt_spans a
    JOIN datasets d ON d.dataset = a.dataset OR (d.dataset = 'daily_analytics' AND a.dataset = 'conversations')
),
cuts AS (
    SELECT d.dataset, s.span_ms, s.from_ms AS at_ms FROM datasets d CROSS JOIN spans s
    UNION
    SELECT d.dataset, g.at_ms - mod(g.at_ms - :origin_ms, :size_ms), g.at_ms
    FROM datasets d
    CROSS JOIN generate_series(
        CAST(:first_day_ms AS BIGINT) + 86400000, CAST(:end_ms AS BIGINT) - 1, CAST(86400000 AS BIGINT)
    ) AS g (at_ms)
    UNION
    SELECT a.dataset, a.span_ms, a.from_ms
    FROM cutting a
    JOIN spans s ON s.span_ms = a.span_ms AND a.from_ms > s.from_ms
    UNION
    SELECT a.dataset, a.span_ms, a.to_ms
    FROM cutting a
    JOIN spans s ON s.span_ms = a.span_ms AND a.to_ms < s.to_ms
),
pieces AS (
    SELECT c.dataset, c.span_ms, c.at_ms, max(a.load_id) AS latest, max(CASE WHEN a.is_good THEN a.load_id END) AS good
    FROM cuts c
    LEFT JOIN attempt_spans a
      ON a.dataset = c.dataset AND a.span_ms = c.span_ms AND a.from_ms <= c.at_ms AND a.to_ms > c.at_ms
     AND a.load_id > (SELECT load_id FROM ignored)
    GROUP BY c.dataset, c.span_ms, c.at_ms
),
rebuilt AS (
    SELECT g.day_ms, max(a.load_id) AS load_id
    FROM attempts a
    CROSS JOIN LATERAL generate_series(
        greatest(a.from_ms - mod(a.from_ms, 86400000), CAST(:first_day_ms AS BIGINT)),
        least(a.to_ms, CAST(:past_days_ms AS BIGINT)) - 1, CAST(86400000 AS BIGINT)
    ) AS g (day_ms)
    WHERE a.dataset = 'conversations' AND a.is_good
    GROUP BY g.day_ms
),
-- The first loads of conversations that took account of a day's newest events: by arrival, by window.
caught_up AS (
    SELECT e.day_ms, min(r.load_id) AS load_id
    FROM event_days e
    JOIN load_runs r ON r.through_load_id >= e.newest
    WHERE r.dataset = 'conversations' AND r.kind = 'arrival' AND r.status = 'succeeded'
    GROUP BY e.day_ms
),
renewed AS (
    SELECT p.span_ms, p.at_ms, min(a.load_id) AS load_id
    FROM pieces p
    JOIN event_days e ON e.day_ms = p.at_ms - mod(p.at_ms, 86400000)
    JOIN attempt_spans a
      ON a.dataset = 'conversations' AND a.is_good AND a.by_window AND a.load_id > e.newest
     AND a.span_ms = p.span_ms AND a.from_ms <= p.at_ms AND a.to_ms > p.at_ms
    WHERE p.dataset = 'daily_analytics'
    GROUP BY p.span_ms, p.at_ms
),
-- Fresh: no event of the day came after the load that last took account of it, by window or by arrival; and what is made
-- of conversations found those events in them, and they were not rebuilt since.
judged AS (
    SELECT
        p.dataset, p.span_ms, p.latest IS NOT NULL AS is_tried,
        coalesce(p.good < p.latest, p.latest IS NOT NULL) AS is_failed,
        p.good IS NOT NULL AND (
            NOT d.fed_by_events OR e.newest IS NULL
            OR (p.dataset <> 'daily_analytics' AND e.newest < p.good)
            OR c.load_id < p.good OR w.load_id < p.good
            OR (e.newest <= a.through AND (a.horizon_ms IS NULL OR p.at_ms < a.horizon_ms))
        ) AND (p.dataset <> 'daily_analytics' OR r.load_id IS NULL OR r.load_id < p.good) AS is_fresh
    FROM pieces p
    JOIN datasets d ON d.dataset = p.dataset
    LEFT JOIN arrivals a ON a.dataset = p.dataset
    LEFT JOIN event_days e ON e.day_ms = p.at_ms - mod(p.at_ms, 86400000)
    LEFT JOIN rebuilt r ON r.day_ms = p.at_ms - mod(p.at_ms, 86400000)
    LEFT JOIN caught_up c ON p.dataset = 'daily_analytics' AND c.day_ms = e.day_ms
    LEFT JOIN renewed w ON p.dataset = 'daily_analytics' AND w.span_ms = p.span_ms AND w.at_ms = p.at_ms
)
SELECT
    j.dataset, s.from_ms, s.to_ms,
    CASE
        WHEN max(CASE WHEN j.is_failed THEN 1 ELSE 0 END) = 1 THEN 'failed'
        WHEN max(CASE WHEN j.is_tried THEN 1 ELSE 0 END) = 0 THEN 'missing'
        WHEN min(CASE WHEN j.is_fresh THEN 1 ELSE 0 END) = 1 THEN 'loaded'
        ELSE 'partly'
    END
FROM judged j
JOIN spans s ON s.span_ms = j.span_ms
GROUP BY j.dataset, s.from_ms, s.to_ms
ORDER BY j.dataset, s.from_ms
