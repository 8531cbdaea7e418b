"""What a simulated CRM has: effects by key, how often each key was asked, and the states they lead to. On disk."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effect (
    key TEXT PRIMARY KEY, vendor TEXT NOT NULL, tenant_id TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    event_type TEXT NOT NULL, timestamp INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call (key TEXT PRIMARY KEY, asked INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    vendor TEXT NOT NULL, tenant_id TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, field TEXT NOT NULL,
    timestamp INTEGER NOT NULL, step INTEGER NOT NULL, event_id TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (vendor, tenant_id, kind, id, field)
) WITHOUT ROWID;
"""
_ASKED = "INSERT INTO call VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET asked = asked + 1"
_EFFECT = "INSERT INTO effect VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"
# Field by field the newest stays.
_FOLD = """
INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (vendor, tenant_id, kind, id, field) DO UPDATE
SET timestamp = excluded.timestamp, step = excluded.step, event_id = excluded.event_id, value = excluded.value
WHERE (excluded.timestamp, excluded.step, excluded.event_id, excluded.value) > (timestamp, step, event_id, value)
"""


class Entity(NamedTuple):
    """A conversation or an agent."""

    vendor: str
    tenant_id: str
    kind: str
    id: str


class Effect(NamedTuple):
    """What a call does if its key is new."""

    entity: Entity
    event_type: str
    timestamp: int
    step: int
    fields: dict[str, str]


class Call(NamedTuple):
    """A call to be written down.

    Attributes:
        key: Its idempotency key.
        effect: None if the call fails before it has one; then only the call counts.
    """

    key: str
    effect: Effect | None


class EffectLog:
    """An SQLite file in WAL mode: what is committed outlives a killed process. Use it from one thread at a time.

    Args:
        file: Made if it is not there.
    """

    def __init__(self, file: Path) -> None:
        # The simulator's one writing thread is not the one that makes it.
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, calls: Sequence[Call]) -> list[bool]:
        """Write calls and their effects in one transaction.

        Returns:
            For each call whether its effect is new; False without one.
        """
        self._database.execute("BEGIN IMMEDIATE")
        try:
            new = [self._write(call) for call in calls]
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return new

    def _write(self, call: Call) -> bool:
        execute = self._database.execute
        execute(_ASKED, (call.key,))
        effect = call.effect
        if effect is None:
            return False
        row = (call.key, *effect.entity, effect.event_type, effect.timestamp)
        if execute(_EFFECT, row).rowcount == 0:
            return False
        version = (effect.timestamp, effect.step, call.key)
        self._database.executemany(
            _FOLD, [(*effect.entity, name, *version, value) for name, value in effect.fields.items()]
        )
        return True

    def keys(self) -> set[str]:
        """Keys that have had an effect, each once."""
        return {key for (key,) in self._database.execute("SELECT key FROM effect")}

    def asked(self) -> Counter[str]:
        """How often each key was asked."""
        return Counter(dict(self._database.execute("SELECT key, asked FROM call")))

    def counts(self) -> dict[str, Any]:
        """Effects, in all and by vendor, and calls."""
        by_vendor = dict(self._database.execute("SELECT vendor, count(*) FROM effect GROUP BY vendor"))
        (calls,) = self._database.execute("SELECT coalesce(sum(asked), 0) FROM call").fetchone()
        return {"effects": sum(by_vendor.values()), "effects_by_vendor": by_vendor, "calls": calls}

    def states(self, vendor: str | None = None, tenant_id: str | None = None) -> dict[Entity, dict[str, str]]:
        """Fields of every conversation and agent, or of one vendor's or tenant's."""
        rows: Any = self._database.execute(
            "SELECT vendor, tenant_id, kind, id, field, value FROM state"
            " WHERE (?1 IS NULL OR vendor = ?1) AND (?2 IS NULL OR tenant_id = ?2)",
            (vendor, tenant_id),
        )
        states: dict[Entity, dict[str, str]] = {}
        for *entity, field, value in rows:
            states.setdefault(Entity(*entity), {})[field] = value
        return states
