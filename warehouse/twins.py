"""Twins: an event that reconciliation published, and the webhook of the same occurrence that came after all.

REST tells whole seconds and may be one off, so the two may have different ids. Within a load's transaction one row of
each pair stays in ``events``, the pushed one. A load without reconciled events costs a look at its metadata keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from schemas.canonical import RECOVERED_KEY, REST_NEAR_MS
from schemas.promoted import PromotedField
from warehouse import scratch, tables
from warehouse.promoted import column_names, insert_from
from warehouse.statements import run as execute
from warehouse.statements import statements

# How the metadata's JSON says it. A vendor's text can't: its quotation marks are escaped there.
_MARK = f'%"{RECOVERED_KEY}":"reconciled"%'
_SCRATCH = (scratch.twin_scope, scratch.twin_pushed, scratch.twin_members, scratch.twin_losers)


def take_reconciled(connection: sa.Connection, staged: sa.Table, fields: Sequence[PromotedField], load_id: int) -> None:
    """Move reconciled events from ``staged_events`` to ``reconciled_events``, before repeats are passed over."""
    if not _count(connection, "staged", mark=_MARK):
        return
    execute(connection, "twins", "note_again", load_id=load_id, mark=_MARK)
    connection.execute(_note(staged, fields, load_id))
    execute(connection, "twins", "unstage", mark=_MARK)


def _note(staged: sa.Table, fields: Sequence[PromotedField], load_id: int) -> sa.Insert:
    """Of repeats the lowest topic, partition and offset; what is known already stays as it is."""
    c = staged.c
    order = (c.topic, c.partition, c.offset, c.timestamp_ms, c.staged_no)
    nth = sa.func.row_number().over(partition_by=c.event_id, order_by=order).label("nth")
    found = sa.select(staged, nth).where(c.metadata.like(_MARK), c.conversation_id.is_not(None)).subquery()
    return insert_from(tables.reconciled_events, found, fields, load_id, found.c.nth == 1)


def give_way(connection: sa.Connection) -> None:
    """Delete reconciled rows from ``events`` whose very id was staged as a pushed event, before that is inserted."""
    if _count(connection, "kept") and _count(connection, "same_ids"):
        execute(connection, "twins", "replace_same_ids")


def decide(connection: sa.Connection, fields: Sequence[PromotedField], load_id: int) -> None:
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
        connection.execute(_put_in(fields, load_id))
    scratch.drop(connection, *_SCRATCH)


def _put_in(fields: Sequence[PromotedField], load_id: int) -> sa.Insert:
    """Those without a twin."""
    kept = sa.table(tables.reconciled_events.name, *map(sa.column, column_names(fields)))
    scope, losers = scratch.twin_scope.c, scratch.twin_losers.c
    in_scope = sa.exists().where(
        scope.vendor == kept.c.vendor,
        scope.tenant_id == kept.c.tenant_id,
        scope.conversation_id == kept.c.conversation_id,
    )
    has_twin = sa.exists().where(losers.event_id == kept.c.event_id)
    return insert_from(tables.events, kept, fields, load_id, in_scope, ~has_twin)


def _count(connection: sa.Connection, name: str, **values: object) -> int:
    return int(connection.execute(statements("twins")[name], values).scalar_one())
