"""What vendors changed, as a table: noted once whatever the number of processes, until people are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from streaming.instants import HOUR_MS
from streaming.state import drift, insert

MORE = "(more)"
"""Stands for what goes beyond the bound of a tenant's hour."""

WHAT_CHARS = 500

_KEPT_MS = 30 * 24 * HOUR_MS
# Of a tenant, for ever: a vendor that uses ids as field names adds new ones every hour.
_MAX_FIELDS = 5_000


class DriftKind(StrEnum):
    """What may be noticed."""

    FAILURE = "failure"
    """The first dead letter of its stage, reason and path within an hour."""
    UNMAPPED_FIELD = "unmapped_field"
    """The first event ever with a field that has no place in the payload."""


_PER_HOUR = {DriftKind.FAILURE: 20, DriftKind.UNMAPPED_FIELD: 50}


class Finding(NamedTuple):
    """Something new in what a tenant's vendor sends. Times in epoch ms."""

    vendor: str
    tenant_id: str
    kind: DriftKind
    what: str
    hour_ms: int
    """Of a failure its hour; of a field 0, since it is new only once."""
    sample: str
    """Native type and message, JSON. No values: they may be people's data."""
    noticed_ms: int


class DriftStore:
    """The table ``drift``, which processes write and one of them tells from.

    Args:
        engine: State database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def note(self, findings: Iterable[Finding]) -> list[Finding]:
        """Store what is not known yet. Of a tenant's hour at most 20 failures and 50 fields, then one row ``(more)``.

        Returns:
            What lies beyond the bound; it is to be noticed again.
        """
        groups: dict[tuple[str, str, DriftKind, int, int], dict[str, Finding]] = {}
        for finding in findings:
            hour = finding.noticed_ms - finding.noticed_ms % HOUR_MS
            key = (finding.vendor, finding.tenant_id, finding.kind, finding.hour_ms, hour)
            groups.setdefault(key, {}).setdefault(finding.what, finding)
        refused: list[Finding] = []
        with self._engine.begin() as connection:
            for (_, _, kind, _, hour), found in groups.items():
                new = self._unknown(connection, list(found.values()))
                room = self._room(connection, new[0], hour) if new else 0
                more = [new[room]._replace(what=MORE, hour_ms=hour, sample=_more(kind))] if len(new) > room else []
                for finding in [*new[:room], *more]:
                    row = insert(connection, drift).values(**finding._asdict()).on_conflict_do_nothing()
                    connection.execute(row)
                refused += new[room:]
        return refused

    @staticmethod
    def _unknown(connection: sa.Connection, found: Sequence[Finding]) -> list[Finding]:
        """Those of one tenant, kind and hour that have no row."""
        c, first = drift.c, found[0]
        query = sa.select(c.what).where(
            c.vendor == first.vendor, c.tenant_id == first.tenant_id, c.kind == first.kind,
            c.hour_ms == first.hour_ms, c.what.in_([finding.what for finding in found]),
        )  # fmt: skip
        known = set(connection.execute(query).scalars())
        return [finding for finding in found if finding.what not in known]

    @staticmethod
    def _room(connection: sa.Connection, finding: Finding, hour: int) -> int:
        """How many rows the tenant may still have of this kind."""
        c = drift.c
        within = sa.case((c.noticed_ms >= hour, 1), else_=0)
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(within), 0)).where(
            c.vendor == finding.vendor, c.tenant_id == finding.tenant_id, c.kind == finding.kind, c.what != MORE
        )
        ever, lately = connection.execute(query).one()
        room = _PER_HOUR[finding.kind] - int(lately)
        if finding.kind is DriftKind.UNMAPPED_FIELD:
            room = min(room, _MAX_FIELDS - int(ever))
        return max(room, 0)

    def untold(self, at_most: int) -> list[Finding]:
        """What nobody was told yet, oldest first."""
        return self._findings(drift.c.told_ms.is_(None), at_most)

    def told_since(self, since_ms: int) -> dict[tuple[str, str, str], int]:
        """When people were last told of a vendor's kind of drift, by vendor, kind and what; epoch ms."""
        c = drift.c
        query = (
            sa.select(c.vendor, c.kind, c.what, sa.func.max(c.told_ms))
            .where(c.told_ms >= since_ms)
            .group_by(c.vendor, c.kind, c.what)
        )
        with self._engine.connect() as connection:
            return {(vendor, kind, what): told for vendor, kind, what, told in connection.execute(query)}

    def mark_told(self, findings: Iterable[Finding], told_ms: int) -> None:
        """Note when people were told; who was faster stays."""
        c = drift.c
        with self._engine.begin() as connection:
            for finding in findings:
                connection.execute(
                    sa.update(drift)
                    .where(
                        c.vendor == finding.vendor, c.tenant_id == finding.tenant_id, c.kind == finding.kind,
                        c.what == finding.what, c.hour_ms == finding.hour_ms, c.told_ms.is_(None),
                    )
                    .values(told_ms=told_ms)
                )  # fmt: skip

    def expire(self, now_ms: int) -> None:
        """Delete failures of more than 30 days ago. Fields stay: else they would be new again."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(drift).where(drift.c.hour_ms > 0, drift.c.hour_ms < now_ms - _KEPT_MS))

    def _findings(self, condition: sa.ColumnElement[bool], at_most: int) -> list[Finding]:
        c = drift.c
        query = (
            sa.select(c.vendor, c.tenant_id, c.kind, c.what, c.hour_ms, c.sample, c.noticed_ms)
            .where(condition)
            .order_by(c.noticed_ms, c.vendor, c.tenant_id, c.kind, c.what)
            .limit(at_most)
        )
        with self._engine.connect() as connection:
            return [
                Finding(vendor, tenant_id, DriftKind(kind), *rest)
                for vendor, tenant_id, kind, *rest in connection.execute(query)
            ]


def _more(kind: DriftKind) -> str:
    return f'{{"message": "more than {_PER_HOUR[kind]} within an hour"}}'
