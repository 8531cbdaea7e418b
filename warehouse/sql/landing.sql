-- Reading landing files, by DuckDB whatever the warehouse is.

-- name: select
-- Numbers longer than 12 digits (31 years of ms) and instants outside 1970 to 9999 are no measurements: NULL.
-- A map's value is text; what is not a whole number in decimal is NULL. Last come the columns of promoted fields, those of
-- any of the files; others have NULL there.
-- A row's number is its place: a file has fewer than 2^40 rows. Counting them would need a single thread.
SELECT
    (CAST(file_index AS BIGINT) << 40) | file_row_number AS staged_no,
    event_id,
    vendor,
    tenant_id,
    event_type,
    CASE WHEN timestamp >= 0 AND timestamp < 253402300800000 THEN make_timestamptz(timestamp * 1000) END AS timestamp,
    timestamp AS timestamp_ms,
    payload['conversation_id'] AS conversation_id,
    payload['parent_conversation_id'] AS parent_conversation_id,
    payload['queue_id'] AS queue_id,
    payload['agent_id'] AS agent_id,
    payload['media_type'] AS media_type,
    payload['direction'] AS direction,
    payload['ani'] AS ani,
    payload['dnis'] AS dnis,
    payload['outcome'] AS outcome,
    payload['agent_status'] AS agent_status,
    payload['end_reason'] AS end_reason,
    payload['wrapup_code'] AS wrapup_code,
    TRY_CAST(regexp_extract(payload['wait_ms'], '^-?[0-9]{1,12}$') AS BIGINT) AS wait_ms,
    TRY_CAST(regexp_extract(payload['talk_ms'], '^-?[0-9]{1,12}$') AS BIGINT) AS talk_ms,
    TRY_CAST(regexp_extract(payload['hold_ms'], '^-?[0-9]{1,12}$') AS BIGINT) AS hold_ms,
    TRY_CAST(regexp_extract(payload['acw_ms'], '^-?[0-9]{1,12}$') AS BIGINT) AS acw_ms,
    TRY_CAST(regexp_extract(payload['duration_ms'], '^-?[0-9]{1,12}$') AS BIGINT) AS duration_ms,
    CAST(to_json(payload) AS VARCHAR) AS payload,
    CAST(to_json(metadata) AS VARCHAR) AS metadata,
    _topic AS topic,
    _partition AS "partition",
    _offset AS "offset",
    CASE
        WHEN _published_at >= 0 AND _published_at < 253402300800000 THEN make_timestamptz(_published_at * 1000)
    END AS published_at,
    -- An id's last 48 bits; its hash takes five times as long. hash() is faster, but another DuckDB may hash otherwise.
    CAST(coalesce(
        TRY_CAST('0x' || right(event_id, 12) AS BIGINT), md5_number_lower(event_id) >> 1
    ) AS BIGINT) AS event_key,
    * EXCLUDE (
        _topic, _partition, _offset, _published_at, event_id, vendor, tenant_id, timestamp, event_type, payload, metadata,
        file_row_number
    )
-- The folders' names say nothing that the rows don't: a file of several tenants lies in tenant_id=_several.
-- Variables, since a view has no parameters.
FROM read_parquet(
    getvariable('landing_files'), union_by_name => true, hive_partitioning => false, file_row_number => true
)
WHERE timestamp >= getvariable('landing_low') AND timestamp <= getvariable('landing_high')

-- name: set_files
SET VARIABLE landing_files = :files

-- name: set_low
SET VARIABLE landing_low = CAST(:low AS BIGINT)

-- name: set_high
SET VARIABLE landing_high = CAST(:high AS BIGINT)

-- name: own_rows
CREATE TEMPORARY TABLE owned_rows AS SELECT * FROM staged_events

-- name: drop_view
DROP VIEW staged_events

-- name: rename
ALTER TABLE owned_rows RENAME TO staged_events
