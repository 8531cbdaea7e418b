-- Erasure of callers' data, and the list of those who are suppressed. erasure_addresses and erasure_scope are temporary.

-- name: addresses
-- Texts that may be the address: with its digits in this order, or, if it is no number, with its letters.
SELECT DISTINCT a.address
FROM (
    SELECT e.ani AS address FROM events e WHERE e.vendor = :vendor AND e.tenant_id = :tenant_id
    UNION ALL
    SELECT e.dnis FROM events e WHERE e.vendor = :vendor AND e.tenant_id = :tenant_id
    UNION ALL
    SELECT r.ani FROM reconciled_events r WHERE r.vendor = :vendor AND r.tenant_id = :tenant_id
    UNION ALL
    SELECT r.dnis FROM reconciled_events r WHERE r.vendor = :vendor AND r.tenant_id = :tenant_id
    UNION ALL
    SELECT c.ani FROM conversations c WHERE c.vendor = :vendor AND c.tenant_id = :tenant_id
    UNION ALL
    SELECT c.dnis FROM conversations c WHERE c.vendor = :vendor AND c.tenant_id = :tenant_id
) a
WHERE a.address = :pseudonym OR strpos(regexp_replace(lower(a.address), :noise, '', 'g'), :needle) > 0

-- name: conversations_of_addresses
INSERT INTO erasure_scope (conversation_id)
SELECT DISTINCT f.conversation_id
FROM (
    SELECT e.vendor, e.tenant_id, e.conversation_id, e.ani, e.dnis FROM events e
    UNION ALL
    SELECT r.vendor, r.tenant_id, r.conversation_id, r.ani, r.dnis FROM reconciled_events r
    UNION ALL
    SELECT c.vendor, c.tenant_id, c.conversation_id, c.ani, c.dnis FROM conversations c
) f
WHERE f.vendor = :vendor AND f.tenant_id = :tenant_id AND f.conversation_id IS NOT NULL
  AND (f.ani IN (SELECT a.address FROM erasure_addresses a) OR f.dnis IN (SELECT a.address FROM erasure_addresses a))
  AND f.conversation_id NOT IN (SELECT s.conversation_id FROM erasure_scope s)

-- name: relatives
-- Parents and children of those that are in scope, one step.
INSERT INTO erasure_scope (conversation_id)
SELECT DISTINCT n.conversation_id
FROM (
    SELECT
        CASE WHEN s.conversation_id = l.conversation_id THEN l.parent_conversation_id ELSE l.conversation_id END
            AS conversation_id
    FROM (
        SELECT e.vendor, e.tenant_id, e.conversation_id, e.parent_conversation_id FROM events e
        UNION ALL
        SELECT r.vendor, r.tenant_id, r.conversation_id, r.parent_conversation_id FROM reconciled_events r
        UNION ALL
        SELECT c.vendor, c.tenant_id, c.conversation_id, c.parent_conversation_id FROM conversations c
    ) l
    JOIN erasure_scope s ON s.conversation_id = l.conversation_id OR s.conversation_id = l.parent_conversation_id
    WHERE l.vendor = :vendor AND l.tenant_id = :tenant_id
      AND l.conversation_id IS NOT NULL AND l.parent_conversation_id IS NOT NULL
      AND l.conversation_id <> l.parent_conversation_id
) n
WHERE n.conversation_id NOT IN (SELECT s.conversation_id FROM erasure_scope s)

-- name: forget_samples
UPDATE failed_events
SET sample = NULL
WHERE vendor = :vendor AND tenant_id = :tenant_id AND sample IN (SELECT f.sample FROM erasure_samples f)

-- name: supersede
UPDATE erasures
SET status = 'superseded'
WHERE vendor = :vendor AND tenant_id = :tenant_id AND subject = :subject AND mode = :mode AND status = 'running'
  AND erasure_id <> :erasure_id

-- name: keep_stronger
-- What was erased is not pseudonymised when it comes again.
UPDATE suppressed_new
SET mode = 'erase'
WHERE EXISTS (
    SELECT 1
    FROM suppressed s
    WHERE s.vendor = suppressed_new.vendor AND s.tenant_id = suppressed_new.tenant_id
      AND s.kind = suppressed_new.kind AND s.digest = suppressed_new.digest AND s.mode = 'erase'
)

-- name: keep_later
-- Two erasures of one address may end in another order than they began. NULL is for ever.
UPDATE suppressed_new
SET until = CASE
    WHEN suppressed_new.until IS NOT NULL AND s.until IS NOT NULL THEN greatest(suppressed_new.until, s.until)
END
FROM suppressed s
WHERE s.vendor = suppressed_new.vendor AND s.tenant_id = suppressed_new.tenant_id
  AND s.kind = suppressed_new.kind AND s.digest = suppressed_new.digest

-- name: take_off
DELETE FROM suppressed
WHERE EXISTS (
    SELECT 1
    FROM suppressed_new n
    WHERE n.vendor = suppressed.vendor AND n.tenant_id = suppressed.tenant_id
      AND n.kind = suppressed.kind AND n.digest = suppressed.digest
)

-- name: put_on
INSERT INTO suppressed (vendor, tenant_id, kind, digest, mode, until, key_id, erasure_id)
SELECT n.vendor, n.tenant_id, n.kind, n.digest, n.mode, n.until, n.key_id, n.erasure_id
FROM suppressed_new n

-- name: is_any
SELECT count(*) FROM (SELECT 1 AS one FROM suppressed LIMIT 1) s

-- name: other_keys
SELECT count(*) FROM suppressed s WHERE s.key_id <> :key_id
