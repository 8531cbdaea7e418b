-- Queues and agents as a vendor lists them now. What it no longer lists stays, inactive: cells of the past name it.

-- name: update_queues
UPDATE queues
SET name = l.name, media_type = l.media_type, division = l.division, is_active = l.is_active, last_seen_at = :now
FROM listed_queues l
WHERE queues.vendor = :vendor AND queues.tenant_id = :tenant_id AND queues.queue_id = l.queue_id

-- name: retire_queues
UPDATE queues
SET is_active = FALSE
WHERE vendor = :vendor AND tenant_id = :tenant_id AND is_active
  AND queue_id NOT IN (SELECT l.queue_id FROM listed_queues l)

-- name: insert_queues
INSERT INTO queues (
    vendor, tenant_id, queue_id, name, media_type, division, is_active, first_seen_at, last_seen_at
)
SELECT :vendor, :tenant_id, l.queue_id, l.name, l.media_type, l.division, l.is_active, :now, :now
FROM listed_queues l
WHERE l.queue_id NOT IN (SELECT q.queue_id FROM queues q WHERE q.vendor = :vendor AND q.tenant_id = :tenant_id)

-- name: update_agents
UPDATE agents
SET name = l.name, team = l.team, division = l.division, is_active = l.is_active, last_seen_at = :now
FROM listed_agents l
WHERE agents.vendor = :vendor AND agents.tenant_id = :tenant_id AND agents.agent_id = l.agent_id

-- name: retire_agents
UPDATE agents
SET is_active = FALSE
WHERE vendor = :vendor AND tenant_id = :tenant_id AND is_active
  AND agent_id NOT IN (SELECT l.agent_id FROM listed_agents l)

-- name: insert_agents
INSERT INTO agents (
    vendor, tenant_id, agent_id, name, team, division, is_active, first_seen_at, last_seen_at
)
SELECT :vendor, :tenant_id, l.agent_id, l.name, l.team, l.division, l.is_active, :now, :now
FROM listed_agents l
WHERE l.agent_id NOT IN (SELECT a.agent_id FROM agents a WHERE a.vendor = :vendor AND a.tenant_id = :tenant_id)

-- name: counts
SELECT
    (SELECT count(*) FROM queues WHERE vendor = :vendor AND tenant_id = :tenant_id AND is_active),
    (SELECT count(*) FROM agents WHERE vendor = :vendor AND tenant_id = :tenant_id AND is_active)
