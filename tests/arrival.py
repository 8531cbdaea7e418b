"""Columns of the warehouse that comparisons leave out."""

from __future__ import annotations

ARRIVAL = frozenset({"topic", "partition", "offset", "published_at", "load_id"})
"""Where, when and with which load a row arrived."""

ENGINES_OWN = frozenset({"event_key"})
"""DuckDB's number for an id; NULL on PostgreSQL."""
