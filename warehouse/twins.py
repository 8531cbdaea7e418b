"""Twins: an event that reconciliation published, and the webhook of the same occurrence that came after all.

REST tells whole seconds and may be one off, so the two may have different ids. Within a load's transaction one row of
each pair stays in ``events``, the pushed one. A load without reconciled events costs one scan of what it staged.
"""

from __future__ import annotations

import sqlalchemy as sa

from schemas.canonical import RECOVERED_KEY, REST_NEAR_MS
from warehouse import scratch
from warehouse.statements import run as execute
from warehouse.statements import statements

# How the metadata's JSON says it. A vendor's text can't: its quotation marks are escaped there.
_MARK = f'%"{RECOVERED_KEY}":"reconciled"%'
_SCRATCH = (scratch.twin_scope, scratch.twin_pushed, scratch.twin_members, scratch.twin_losers)


def take_reconciled(connection: sa.Connection, load_id: int) -> None:
    """Move reconciled events from ``staged_events`` to ``reconciled_events``, before repeats are dropped."""
    if not _count(connection, "staged", mark=_MARK):
        return
    for name in ("note_again", "note", "unstage"):
        execute(connection, "twins", name, load_id=load_id, mark=_MARK)


def give_way(connection: sa.Connection) -> None:
    """Delete reconciled rows from ``events`` whose very id was staged as a pushed event, before that is inserted."""
    if _count(connection, "same_ids"):
        execute(connection, "twins", "replace_same_ids")


def decide(connection: sa.Connection, load_id: int) -> None:
    """Once the load's pushed events are in ``events``: put in reconciled ones without a twin, remove those with one."""
    if not _count(connection, "kept"):
        return
    scratch.renew(connection, *_SCRATCH)
    execute(connection, "twins", "scope", load_id=load_id)
    if _count(connection, "in_scope"):
        scratch.analyze(connection, scratch.twin_scope)
        execute(connection, "twins", "pushed")
        scratch.analyze(connection, scratch.twin_pushed)
        execute(connection, "twins", "members")
        scratch.analyze(connection, scratch.twin_members)
        execute(connection, "twins", "losers", near_ms=REST_NEAR_MS)
        scratch.analyze(connection, scratch.twin_losers)
        execute(connection, "twins", "set_aside")
        execute(connection, "twins", "put_in", load_id=load_id)
    scratch.drop(connection, *_SCRATCH)


def _count(connection: sa.Connection, name: str, **values: object) -> int:
    return int(connection.execute(statements("twins")[name], values).scalar_one())
