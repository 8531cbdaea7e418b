-- The frames of the quality checks, as table.frame: keys, then what is counted. They hold sums by tenant, queue or day and
-- never an event, a conversation's id or a person's number. :start and :end bound event time, :cells_end is :end or the
-- horizon of the cells if that comes first. What loads have not taken account of yet (later than :through, :told) plays no
-- part: it is looked at in a later run.

-- name: events.types
SELECT e.event_type, count(*) AS events
FROM events e
WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms
GROUP BY e.event_type

-- name: events.dates
-- Dated outside 1970 to 9999, or in the future. Of what was published within the window.
SELECT e.vendor, e.tenant_id, count(*) AS misdated
FROM events e
WHERE (e.timestamp_ms < 0 OR e.timestamp_ms >= :future_ms) AND coalesce(e.published_at, :start) >= :start
GROUP BY e.vendor, e.tenant_id

-- name: events.belonging
SELECT
    e.vendor, e.tenant_id, count(*) AS events,
    count(*) FILTER (WHERE e.event_type LIKE 'conversation.%' AND e.conversation_id IS NULL) AS without_conversation,
    count(*) FILTER (WHERE e.event_type = 'agent.status_changed' AND e.agent_id IS NULL) AS without_agent
FROM events e
WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms
GROUP BY e.vendor, e.tenant_id

-- name: reconciled_events.represented
-- A reconciled event is in events, or a pushed one of the same occurrence is: warehouse/twins.py.
WITH represented AS (
    SELECT DISTINCT r.event_id
    FROM reconciled_events r
    JOIN events e
      ON e.vendor = r.vendor AND e.tenant_id = r.tenant_id AND e.conversation_id = r.conversation_id
     AND e.event_type = r.event_type AND e.queue_id IS NOT DISTINCT FROM r.queue_id
     AND e.agent_id IS NOT DISTINCT FROM r.agent_id
     AND e.timestamp_ms >= r.timestamp_ms - :near_ms AND e.timestamp_ms <= r.timestamp_ms + :near_ms
    WHERE r.timestamp_ms >= :start_ms AND r.timestamp_ms < :end_ms
      AND e.timestamp_ms >= :start_ms - :near_ms AND e.timestamp_ms < :end_ms + :near_ms
)
SELECT r.vendor, r.tenant_id, count(*) AS reconciled, count(*) FILTER (WHERE p.event_id IS NULL) AS not_represented
FROM reconciled_events r
LEFT JOIN represented p ON p.event_id = r.event_id
WHERE r.timestamp_ms >= :start_ms AND r.timestamp_ms < :end_ms
GROUP BY r.vendor, r.tenant_id

-- name: conversations.conservation
-- Rows against the events of their conversations, straight from these, by the day of the first one.
WITH scope AS (
    SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.conversation_id IS NOT NULL
    EXCEPT
    SELECT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.load_id > :told
),
counted AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, min(e.timestamp) AS first_event_at, count(*) AS events,
        count(*) FILTER (WHERE e.event_type = 'conversation.queued') AS offered,
        count(*) FILTER (WHERE e.event_type = 'conversation.assigned') AS answered,
        count(*) FILTER (WHERE e.event_type = 'conversation.abandoned') AS abandoned,
        count(*) FILTER (WHERE e.event_type = 'conversation.flowed_out') AS flowed_out,
        count(*) FILTER (WHERE e.event_type = 'conversation.handled') AS legs,
        coalesce(sum(greatest(e.talk_ms, 0)) FILTER (WHERE e.event_type = 'conversation.handled'), 0) AS talk_ms,
        coalesce(sum(greatest(e.hold_ms, 0)) FILTER (WHERE e.event_type = 'conversation.handled'), 0) AS hold_ms
    FROM events e
    JOIN scope s ON s.vendor = e.vendor AND s.tenant_id = e.tenant_id AND s.conversation_id = e.conversation_id
    WHERE e.timestamp IS NOT NULL
    GROUP BY e.vendor, e.tenant_id, e.conversation_id
)
SELECT
    k.vendor, k.tenant_id, CAST(k.first_event_at AS DATE) AS day, count(*) AS conversations,
    count(*) FILTER (WHERE c.conversation_id IS NULL) AS without_row,
    count(*) FILTER (WHERE c.events <> k.events OR c.first_event_at <> k.first_event_at) AS events_differ,
    count(*) FILTER (
        WHERE c.offered <> k.offered OR c.answered <> k.answered OR c.abandoned <> k.abandoned
            OR c.flowed_out <> k.flowed_out
    ) AS queue_counts_differ,
    count(*) FILTER (WHERE c.legs <> k.legs OR c.talk_ms <> k.talk_ms OR c.hold_ms <> k.hold_ms) AS legs_differ
FROM counted k
LEFT JOIN conversations c
  ON c.vendor = k.vendor AND c.tenant_id = k.tenant_id AND c.conversation_id = k.conversation_id
GROUP BY k.vendor, k.tenant_id, CAST(k.first_event_at AS DATE)

-- name: conversations.rows
SELECT
    c.vendor, c.tenant_id, CAST(c.first_event_at AS DATE) AS day, count(*) AS conversations,
    count(*) FILTER (WHERE e.conversation_id IS NULL) AS without_events,
    count(*) FILTER (WHERE c.last_event_at < c.first_event_at) AS last_before_first,
    count(*) FILTER (WHERE c.ended_at < c.started_at) AS ended_before_start,
    count(*) FILTER (WHERE c.ended_at IS NULL AND c.last_event_at < :silent_since) AS never_ended
FROM conversations c
LEFT JOIN (
    SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms AND e.conversation_id IS NOT NULL
) e ON e.vendor = c.vendor AND e.tenant_id = c.tenant_id AND e.conversation_id = c.conversation_id
WHERE c.first_event_at >= :start AND c.first_event_at < :end
GROUP BY c.vendor, c.tenant_id, CAST(c.first_event_at AS DATE)

-- name: queue_intervals.cells
SELECT
    q.vendor, q.tenant_id, count(*) AS cells,
    count(*) FILTER (
        WHERE mod(CAST(extract(epoch FROM q.interval_start) AS BIGINT), q.interval_minutes * 60) <> 0
    ) AS off_grid,
    count(*) FILTER (WHERE q.interval_minutes <> :interval_minutes) AS other_length,
    count(*) FILTER (WHERE q.answered_in_threshold > q.answered) AS threshold_above_answered,
    count(*) FILTER (
        WHERE (q.answered = 0 AND q.wait_answered_ms <> 0) OR (q.abandoned = 0 AND q.wait_abandoned_ms <> 0)
            OR (q.handled = 0 AND q.talk_ms + q.hold_ms + q.acw_ms <> 0)
    ) AS time_of_nothing
FROM queue_intervals q
WHERE q.interval_start >= :start AND q.interval_start < :end
GROUP BY q.vendor, q.tenant_id

-- name: queue_intervals.conservation
-- Cells less what the events say, each at its own time; a leg at its wrap-up, which is the row that follows it. How much
-- they differ, added up over the intervals, whichever sign. Intervals of conversations with events that no load of
-- intervals has taken account of are left out.
WITH pending AS (
    SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.load_id > :through AND e.conversation_id IS NOT NULL
),
unsettled AS (
    SELECT e.vendor, e.tenant_id, e.timestamp_ms - mod(e.timestamp_ms, :step_ms) AS interval_ms
    FROM events e
    JOIN pending p ON p.vendor = e.vendor AND p.tenant_id = e.tenant_id AND p.conversation_id = e.conversation_id
    UNION
    SELECT r.vendor, r.tenant_id, r.timestamp_ms - mod(r.timestamp_ms, :step_ms)
    FROM reconciled_events r
    JOIN pending p ON p.vendor = r.vendor AND p.tenant_id = r.tenant_id AND p.conversation_id = r.conversation_id
),
scope AS (
    SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :cells_end_ms AND e.conversation_id IS NOT NULL
),
steps AS (
    SELECT
        e.vendor, e.tenant_id, e.queue_id, e.event_type, e.timestamp_ms, e.talk_ms, e.hold_ms,
        lead(e.event_type) OVER leg AS next_type, lead(e.timestamp_ms) OVER leg AS next_ms, lead(e.acw_ms) OVER leg AS next_acw_ms
    FROM events e
    JOIN scope s ON s.vendor = e.vendor AND s.tenant_id = e.tenant_id AND s.conversation_id = e.conversation_id
    WHERE e.event_type IN ('conversation.handled', 'conversation.wrapup') AND e.timestamp IS NOT NULL
    WINDOW leg AS (
        PARTITION BY e.vendor, e.tenant_id, e.conversation_id, e.queue_id, e.agent_id
        ORDER BY e.timestamp_ms, e.event_type, e.event_id
    )
),
counted AS (
    SELECT
        q.vendor, q.tenant_id, q.queue_id, CAST(extract(epoch FROM q.interval_start) AS BIGINT) * 1000 AS at_ms,
        q.offered, q.answered, q.abandoned, q.flowed_out, q.handled, q.talk_ms, q.hold_ms, q.acw_ms
    FROM queue_intervals q
    WHERE q.interval_start >= :start AND q.interval_start < :cells_end
    UNION ALL
    SELECT
        e.vendor, e.tenant_id, e.queue_id, e.timestamp_ms,
        CASE WHEN e.event_type = 'conversation.queued' THEN -1 ELSE 0 END,
        CASE WHEN e.event_type = 'conversation.assigned' THEN -1 ELSE 0 END,
        CASE WHEN e.event_type = 'conversation.abandoned' THEN -1 ELSE 0 END,
        CASE WHEN e.event_type = 'conversation.flowed_out' THEN -1 ELSE 0 END,
        0, 0, 0, 0
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :cells_end_ms
      AND e.conversation_id IS NOT NULL AND e.queue_id IS NOT NULL
    UNION ALL
    SELECT
        l.vendor, l.tenant_id, l.queue_id, l.at_ms, 0, 0, 0, 0, -1, -l.talk_ms, -l.hold_ms, -l.acw_ms
    FROM (
        SELECT
            s.vendor, s.tenant_id, s.queue_id,
            CASE WHEN s.next_type = 'conversation.wrapup' THEN s.next_ms ELSE s.timestamp_ms END AS at_ms,
            coalesce(greatest(s.talk_ms, 0), 0) AS talk_ms,
            coalesce(greatest(s.hold_ms, 0), 0) AS hold_ms,
            CASE WHEN s.next_type = 'conversation.wrapup' THEN coalesce(greatest(s.next_acw_ms, 0), 0) ELSE 0 END AS acw_ms
        FROM steps s
        WHERE s.event_type = 'conversation.handled' AND s.queue_id IS NOT NULL
    ) l
    WHERE l.at_ms >= :start_ms AND l.at_ms < :cells_end_ms
),
by_interval AS (
    SELECT
        c.vendor, c.tenant_id, c.queue_id, c.at_ms - mod(c.at_ms, :step_ms) AS interval_ms,
        abs(sum(c.offered)) AS offered, abs(sum(c.answered)) AS answered, abs(sum(c.abandoned)) AS abandoned,
        abs(sum(c.flowed_out)) AS flowed_out, abs(sum(c.handled)) AS handled, abs(sum(c.talk_ms)) AS talk_ms,
        abs(sum(c.hold_ms)) AS hold_ms, abs(sum(c.acw_ms)) AS acw_ms
    FROM counted c
    GROUP BY c.vendor, c.tenant_id, c.queue_id, c.at_ms - mod(c.at_ms, :step_ms)
)
SELECT
    b.vendor, b.tenant_id, b.queue_id,
    min(CASE
        WHEN b.offered + b.answered + b.abandoned + b.flowed_out + b.handled + b.talk_ms + b.hold_ms + b.acw_ms > 0
        THEN to_timestamp(b.interval_ms / 1000.0)
    END) AS first_difference,
    count(*) AS cells,
    CAST(sum(b.offered) AS BIGINT) AS offered_differs,
    CAST(sum(b.answered) AS BIGINT) AS answered_differs,
    CAST(sum(b.abandoned) AS BIGINT) AS abandoned_differs,
    CAST(sum(b.flowed_out) AS BIGINT) AS flowed_out_differs,
    CAST(sum(b.handled) AS BIGINT) AS handled_differs,
    CAST(sum(b.talk_ms + b.hold_ms + b.acw_ms) AS BIGINT) AS handle_time_differs
FROM by_interval b
LEFT JOIN unsettled u ON u.vendor = b.vendor AND u.tenant_id = b.tenant_id AND u.interval_ms = b.interval_ms
WHERE u.interval_ms IS NULL
GROUP BY b.vendor, b.tenant_id, b.queue_id

-- name: queue_intervals.balance
-- Offered = answered + abandoned + flowed out + still waiting, over the window: the cells' sums and what waited at its start
-- against the conversations that are in the queue at its end. A conversation that is answered without having been queued
-- (its entry came before the platform, or was lost) is counted aside. Who waits since before the window and does nothing
-- within it is on neither side. Queues of which an event came too late for the cells are left out.
WITH pending AS (
    SELECT DISTINCT e.vendor, e.tenant_id, e.queue_id
    FROM events e
    WHERE e.load_id > :through AND e.timestamp_ms < :cells_end_ms AND e.conversation_id IS NOT NULL
      AND e.queue_id IS NOT NULL
),
moves AS (
    SELECT
        e.vendor, e.tenant_id, e.conversation_id, e.queue_id, e.timestamp_ms,
        CASE WHEN e.event_type = 'conversation.queued' THEN 1 ELSE -1 END AS step
    FROM events e
    WHERE e.event_type IN (
        'conversation.queued', 'conversation.assigned', 'conversation.abandoned', 'conversation.flowed_out'
    )
      AND e.timestamp IS NOT NULL AND e.timestamp_ms < :cells_end_ms
      AND e.conversation_id IS NOT NULL AND e.queue_id IS NOT NULL
),
active AS (
    SELECT DISTINCT m.vendor, m.tenant_id, m.conversation_id, m.queue_id
    FROM moves m
    WHERE m.timestamp_ms >= :start_ms
),
standing AS (
    SELECT
        m.vendor, m.tenant_id, m.queue_id, m.conversation_id,
        coalesce(sum(m.step) FILTER (WHERE m.timestamp_ms < :start_ms), 0) AS at_start,
        sum(m.step) AS at_end
    FROM moves m
    JOIN active a
      ON a.vendor = m.vendor AND a.tenant_id = m.tenant_id AND a.conversation_id = m.conversation_id
     AND a.queue_id = m.queue_id
    GROUP BY m.vendor, m.tenant_id, m.queue_id, m.conversation_id
),
waiting AS (
    SELECT
        s.vendor, s.tenant_id, s.queue_id, sum(greatest(s.at_start, 0)) AS waiting_before,
        sum(greatest(s.at_end, 0)) AS open_conversations,
        sum(greatest(-s.at_end, 0) - greatest(-s.at_start, 0)) AS without_entry,
        count(*) FILTER (WHERE s.at_end > 0 AND c.ended_at < :cells_end) AS ended_while_waiting
    FROM standing s
    LEFT JOIN conversations c
      ON c.vendor = s.vendor AND c.tenant_id = s.tenant_id AND c.conversation_id = s.conversation_id
    GROUP BY s.vendor, s.tenant_id, s.queue_id
),
summed AS (
    SELECT
        q.vendor, q.tenant_id, q.queue_id, sum(q.offered) AS offered, sum(q.answered) AS answered,
        sum(q.abandoned) AS abandoned, sum(q.flowed_out) AS flowed_out
    FROM queue_intervals q
    WHERE q.interval_start >= :start AND q.interval_start < :cells_end
    GROUP BY q.vendor, q.tenant_id, q.queue_id
),
queues AS (
    SELECT vendor, tenant_id, queue_id FROM waiting
    UNION
    SELECT vendor, tenant_id, queue_id FROM summed
    EXCEPT
    SELECT vendor, tenant_id, queue_id FROM pending
)
SELECT
    k.vendor, k.tenant_id, k.queue_id,
    CAST(coalesce(c.offered, 0) AS BIGINT) AS offered,
    CAST(coalesce(c.answered, 0) AS BIGINT) AS answered,
    CAST(coalesce(c.abandoned, 0) AS BIGINT) AS abandoned,
    CAST(coalesce(c.flowed_out, 0) AS BIGINT) AS flowed_out,
    CAST(coalesce(w.without_entry, 0) AS BIGINT) AS without_entry,
    CAST(coalesce(w.ended_while_waiting, 0) AS BIGINT) AS ended_while_waiting,
    CAST(coalesce(w.open_conversations, 0) AS BIGINT) AS open_conversations,
    CAST(
        coalesce(w.waiting_before, 0) + coalesce(c.offered, 0) - coalesce(c.answered, 0) - coalesce(c.abandoned, 0)
        - coalesce(c.flowed_out, 0) + coalesce(w.without_entry, 0) AS BIGINT
    ) AS still_waiting
FROM queues k
LEFT JOIN waiting w ON w.vendor = k.vendor AND w.tenant_id = k.tenant_id AND w.queue_id = k.queue_id
LEFT JOIN summed c ON c.vendor = k.vendor AND c.tenant_id = k.tenant_id AND c.queue_id = k.queue_id

-- name: agent_intervals.cells
SELECT
    a.vendor, a.tenant_id, count(*) AS cells,
    count(*) FILTER (
        WHERE mod(CAST(extract(epoch FROM a.interval_start) AS BIGINT), a.interval_minutes * 60) <> 0
    ) AS off_grid,
    count(*) FILTER (WHERE a.interval_minutes <> :interval_minutes) AS other_length,
    count(*) FILTER (
        WHERE a.interacting_ms + a.communicating_ms + a.idle_ms + a.not_responding_ms + a.off_queue_ms
            > CAST(a.interval_minutes AS BIGINT) * 60000
    ) AS longer_than_interval,
    count(*) FILTER (
        WHERE a.interacting_ms + a.communicating_ms + a.idle_ms + a.not_responding_ms + a.handled = 0
    ) AS without_activity
FROM agent_intervals a
WHERE a.interval_start >= :start AND a.interval_start < :end
GROUP BY a.vendor, a.tenant_id

-- name: daily_analytics.conservation
-- A day's sums are its cells' sums, queue by queue. Days of conversations with events that one of the two loads has not
-- taken account of are left out. How much they differ, added up over the days.
WITH pending AS (
    SELECT DISTINCT e.vendor, e.tenant_id, e.conversation_id
    FROM events e
    WHERE e.load_id > :daily_through AND e.conversation_id IS NOT NULL
),
unsettled AS (
    SELECT e.vendor, e.tenant_id, CAST(e.timestamp AS DATE) AS day
    FROM events e
    JOIN pending p ON p.vendor = e.vendor AND p.tenant_id = e.tenant_id AND p.conversation_id = e.conversation_id
    UNION
    SELECT r.vendor, r.tenant_id, CAST(r.timestamp AS DATE)
    FROM reconciled_events r
    JOIN pending p ON p.vendor = r.vendor AND p.tenant_id = r.tenant_id AND p.conversation_id = r.conversation_id
),
both_tables AS (
    SELECT
        d.vendor, d.tenant_id, d.queue_id, d.day, d.offered, d.answered, d.abandoned, d.flowed_out,
        d.handled, d.talk_ms + d.hold_ms + d.acw_ms AS handle_ms
    FROM daily_analytics d
    WHERE d.queue_id IS NOT NULL AND d.day >= :first_day AND d.day < :cells_last_day
    UNION ALL
    SELECT
        q.vendor, q.tenant_id, q.queue_id, CAST(q.interval_start AS DATE), -q.offered, -q.answered, -q.abandoned,
        -q.flowed_out, -q.handled, -q.talk_ms - q.hold_ms - q.acw_ms
    FROM queue_intervals q
    WHERE q.interval_start >= :first_midnight AND q.interval_start < :cells_last_midnight
),
by_day AS (
    SELECT
        b.vendor, b.tenant_id, b.queue_id, b.day,
        abs(sum(b.offered)) + abs(sum(b.answered)) + abs(sum(b.abandoned)) + abs(sum(b.flowed_out)) AS queue_counts,
        abs(sum(b.handled)) + abs(sum(b.handle_ms)) AS legs
    FROM both_tables b
    GROUP BY b.vendor, b.tenant_id, b.queue_id, b.day
)
SELECT
    b.vendor, b.tenant_id, b.queue_id, min(CASE WHEN b.queue_counts + b.legs > 0 THEN b.day END) AS first_difference,
    count(*) AS days,
    CAST(sum(b.queue_counts) AS BIGINT) AS queue_counts_differ,
    CAST(sum(b.legs) AS BIGINT) AS legs_differ
FROM by_day b
LEFT JOIN unsettled u ON u.vendor = b.vendor AND u.tenant_id = b.tenant_id AND u.day = b.day
WHERE u.day IS NULL
GROUP BY b.vendor, b.tenant_id, b.queue_id

-- name: load_runs.latest
SELECT
    l.dataset,
    CASE WHEN l.status = 'succeeded' THEN 0 ELSE 1 END AS failed,
    CASE WHEN l.window_end < l.window_start OR l.finished_at < l.started_at THEN 1 ELSE 0 END AS wrong_way_round
FROM load_runs l
JOIN (SELECT max(r.load_id) AS load_id FROM load_runs r GROUP BY r.dataset) n ON n.load_id = l.load_id

-- name: landed_files.files
SELECT
    count(*) AS files,
    count(*) FILTER (WHERE f.status = 'quarantined') AS quarantined,
    count(*) FILTER (WHERE f.status = 'loaded' AND (f.load_id IS NULL OR f.rows IS NULL)) AS without_load
FROM landed_files f

-- name: event_type_days.conservation
-- Days of types without events that are not counted yet.
SELECT
    d.vendor, d.event_type, d.day, d.events, coalesce(e.events, 0) AS events_there
FROM event_type_days d
LEFT JOIN (
    SELECT e.vendor, e.event_type, CAST(e.timestamp AS DATE) AS day, count(*) AS events, max(e.load_id) AS load_id
    FROM events e
    WHERE e.timestamp_ms >= :start_ms AND e.timestamp_ms < :end_ms
    GROUP BY e.vendor, e.event_type, CAST(e.timestamp AS DATE)
) e ON e.vendor = d.vendor AND e.event_type = d.event_type AND e.day = d.day
WHERE d.day >= :first_day AND d.day < :last_day AND coalesce(e.load_id, 0) <= :usage_through

-- name: metadata_field_usage.bounds
SELECT
    u.vendor, u.event_type, count(*) AS fields,
    count(*) FILTER (WHERE d.events IS NULL OR u.events > d.events) AS above_the_day
FROM metadata_field_usage u
LEFT JOIN event_type_days d ON d.vendor = u.vendor AND d.event_type = u.event_type AND d.day = u.day
WHERE u.day >= :first_day AND u.day < :last_day
GROUP BY u.vendor, u.event_type

-- name: promoted_fields.types
SELECT p.type, count(*) AS fields FROM promoted_fields p GROUP BY p.type

-- name: failed_events.outcomes
SELECT
    f.vendor, f.tenant_id, count(*) AS kinds,
    count(*) FILTER (WHERE f.replayed + f.failed_again + f.parked > f.events) AS more_than_failed,
    count(*) FILTER (WHERE f.last_seen < f.first_seen) AS last_before_first
FROM failed_events f
WHERE f.hour >= :start AND f.hour < :end
GROUP BY f.vendor, f.tenant_id

-- name: dead_letter_replays.outcomes
SELECT r.outcome, count(*) AS kinds FROM dead_letter_replays r GROUP BY r.outcome

-- name: consumed_offsets.offsets
SELECT c.topic, count(*) AS partitions, count(*) FILTER (WHERE c.next_offset < 0) AS negative
FROM consumed_offsets c
GROUP BY c.topic

-- name: quality_results.statuses
SELECT r.status, count(*) AS results FROM quality_results r GROUP BY r.status
