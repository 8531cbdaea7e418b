"""Callers whose data was erased. No personal data: addresses and conversations are keyed digests."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text

from warehouse.tables.columns import TENANT, VENDOR, instant, key, metadata, postgresql_key, text

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", Text, primary_key=True, doc="Number of the erasure, a UUID"),
    key("run_id", "The caller's id, for example of the Prefect run"),
    text("requested_by", "Who asked for it, as the run was told"),
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("mode", "erase or pseudonymise"),
    key("subject", "Keyed digests of what was asked for, JSON array"),
    key("key_id", "Which erasure.key made the digests"),
    key("status", "running; finished; incomplete (files that can't be read); superseded by a later run of the subject"),
    text("counts", "What was changed, by place, JSON object; NULL while running"),
    instant("started_at", "Wall time", nullable=False),
    instant("finished_at", "Wall time; NULL while running"),
    info={"row": "one erasure of a caller's data"},
)

suppressed = Table(
    "suppressed",
    metadata,
    key("vendor", VENDOR),
    key("tenant_id", TENANT),
    key("kind", "address or conversation"),
    key("digest", "Keyed digest of the address or of the conversation's id"),
    key("mode", "erase or pseudonymise"),
    instant("until", "Of an address: events up to this time only; NULL: all"),
    key("key_id", "Which erasure.key made the digest"),
    key("erasure_id", "Erasure that put it here (erasures), or load: a conversation with an erased address"),
    postgresql_key("suppressed_key", "vendor", "tenant_id", "kind", "digest"),
    info={"row": "a caller or conversation whose events are suppressed"},
)
