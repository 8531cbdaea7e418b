"""The list of erased callers, and loads that bring nothing of theirs back.

The list has keyed digests only. Without anybody on it a load pays one look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from pydantic import SecretStr

from streaming.erasure.personal import ErasureKey, Mode, Owner, Rule, Suppressed
from streaming.errors import ConfigurationError
from streaming.instants import from_ms, to_ms
from warehouse import scratch, tables
from warehouse.cleaning import Cleaner, temporary
from warehouse.statements import run as execute
from warehouse.statements import statements

_FETCHED = 10_000

ADDRESS, CONVERSATION = "address", "conversation"

_new = sa.Table(
    "suppressed_new",
    sa.MetaData(),
    *[sa.Column(column.name, column.type) for column in tables.suppressed.c],
    prefixes=["TEMPORARY"],
)
_contacts = temporary("suppressed_contacts", "vendor", "tenant_id", "conversation_id", "ani", "dnis", "mode")


class Entry(NamedTuple):
    """Somebody on the list; ``digest`` is of an ``address`` or of a ``conversation``."""

    kind: str
    digest: str
    rule: Rule


def read_list(connection: sa.Connection, key: ErasureKey, owner: Owner | None = None) -> Suppressed:
    """The list, or that of one tenant: some 300 bytes an entry.

    Raises:
        ConfigurationError: it was made with another key, so nobody on it would be known again.
    """
    if connection.execute(statements("erasure")["other_keys"], {"key_id": key.id}).scalar_one():
        msg = "erasure.key is not the one by which callers were erased before: set that one again (CCAAS_ERASURE__KEY)"
        raise ConfigurationError(msg)
    c = tables.suppressed.c
    query = sa.select(c.vendor, c.tenant_id, c.kind, c.digest, c.mode, c.until)
    if owner is not None:
        query = query.where(c.vendor == owner.vendor, c.tenant_id == owner.tenant_id)
    rules: dict[str, dict[tuple[Owner, str], Rule]] = {ADDRESS: {}, CONVERSATION: {}}
    for row in connection.execute(query):
        until_ms = None if row.until is None else to_ms(row.until)
        rules[row.kind][Owner(row.vendor, row.tenant_id), row.digest] = Rule(row.mode, until_ms)
    return Suppressed(key, rules[ADDRESS], rules[CONVERSATION])


def put_on_list(
    connection: sa.Connection, owner: Owner, entries: Sequence[Entry], key: ErasureKey, erasure_id: str
) -> None:
    """Add to the list, in the caller's transaction. Of who is on it the stronger mode and the later end stay."""
    scratch.renew(connection, _new)
    rows = [
        {
            **owner._asdict(),
            "kind": kind,
            "digest": digest,
            "mode": rule.mode,
            "until": None if rule.until_ms is None else from_ms(rule.until_ms),
            "key_id": key.id,
            "erasure_id": erasure_id,
        }
        for kind, digest, rule in entries
    ]
    scratch.insert_rows(connection, _new, rows)
    for statement in ("keep_stronger", "keep_later", "take_off", "put_on"):
        execute(connection, "erasure", statement)
    scratch.drop(connection, _new)


def clean_loaded(connection: sa.Connection, secret: SecretStr | None, load_id: int) -> int:
    """Take erased callers' personal data out of the events that a load has just put in, in its transaction.

    A conversation that is new with an erased address goes on the list, so that nothing else of it, before or after,
    keeps anything.

    Args:
        connection: A writer's, in a transaction.
        secret: ``erasure.key``.
        load_id: The load.

    Returns:
        Rows that lost something.

    Raises:
        ConfigurationError: somebody is on the list, and the key is missing or another one: the load would bring erased
            data back.
    """
    if not connection.execute(statements("erasure")["is_any"]).scalar_one():
        return 0
    key = ErasureKey(secret)
    suppressed = read_list(connection, key)
    events = (tables.events, tables.reconciled_events)
    found = {contact: mode for table in events for contact, mode in _suppressed(connection, table, load_id, suppressed)}
    if not found:
        return 0
    for owner in {contact.owner for contact in found}:
        entries = [
            Entry(CONVERSATION, key.conversation(owner, contact.conversation_id), Rule(mode))
            for contact, mode in found.items()
            if contact.owner == owner and contact.conversation_id
            if not suppressed.mode_of(owner, contact.conversation_id, (), 0)  # known by its address alone
        ]
        if entries:
            put_on_list(connection, owner, entries, key, f"load {load_id}")
    scratch.fill(connection, _contacts, [contact.row(mode) for contact, mode in found.items()])
    cleaner = Cleaner(connection, key)
    cleaned = sum(
        cleaner.events(table, "event_id", _rows_of_contacts(table, load_id), lambda row: cast("Mode", row.mode))
        for table in events
    )
    # Most are rebuilt from their clean events; what retention keeps a load from rebuilding is not.
    for owner in {contact.owner for contact in found}:
        cleaner.conversations(owner, _conversations_of(owner), lambda row: cast("Mode", row.mode))
    scratch.drop(connection, _contacts)
    return cleaned


class _Contact(NamedTuple):
    """A conversation; or, of an event without one, its addresses."""

    owner: Owner
    conversation_id: str | None
    ani: str | None = None
    dnis: str | None = None

    def row(self, mode: Mode) -> dict[str, str | None]:
        """Of the temporary table."""
        owner, conversation_id, ani, dnis = self
        return {**owner._asdict(), "conversation_id": conversation_id, "ani": ani, "dnis": dnis, "mode": mode}


def _suppressed(
    connection: sa.Connection, table: sa.Table, load_id: int, suppressed: Suppressed
) -> Iterator[tuple[_Contact, Mode]]:
    """Of a load, what is on the list; of a conversation the strongest mode comes last."""
    c, s = table.c, tables.suppressed.c
    has_any = sa.exists().where(s.vendor == c.vendor, s.tenant_id == c.tenant_id)
    keys = (c.vendor, c.tenant_id, c.conversation_id, c.ani, c.dnis)
    query = sa.select(*keys, sa.func.min(c.timestamp_ms).label("at_ms")).where(c.load_id == load_id, has_any)
    found: list[tuple[_Contact, Mode]] = []
    for part in connection.execute(query.group_by(*keys)).partitions(_FETCHED):
        for row in part:
            owner, addresses = Owner(row.vendor, row.tenant_id), (row.ani, row.dnis)
            if mode := suppressed.mode_of(owner, row.conversation_id, addresses, row.at_ms):
                of_event = () if row.conversation_id else addresses
                found.append((_Contact(owner, row.conversation_id, *of_event), mode))
    return iter(sorted(found, key=lambda one: one[1] == "erase"))


def _conversations_of(owner: Owner) -> sa.Select[Any]:
    c, k = tables.conversations.c, _contacts.c
    rows = sa.select(c.conversation_id, c.ani, c.dnis, c.end_reason, c.wrapup_code, k.mode)
    own = (k.vendor == owner.vendor, k.tenant_id == owner.tenant_id)
    return rows.where(c.vendor == k.vendor, c.tenant_id == k.tenant_id, c.conversation_id == k.conversation_id, *own)


def _rows_of_contacts(table: sa.Table, load_id: int) -> sa.CompoundSelect[Any]:
    c, k = table.c, _contacts.c
    rows = sa.select(c.event_id.label("row_id"), c.vendor, c.tenant_id, c.payload, c.metadata, k.mode).where(
        c.vendor == k.vendor, c.tenant_id == k.tenant_id
    )
    alone = [c.load_id == load_id, c.conversation_id.is_(None), k.conversation_id.is_(None)]
    same = [c[name].is_not_distinct_from(k[name]) for name in ("ani", "dnis")]
    return sa.union_all(rows.where(c.conversation_id == k.conversation_id), rows.where(*alone, *same))
