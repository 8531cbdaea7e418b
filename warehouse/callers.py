"""Which conversations are a caller's: those with the address, those that were named, their parents and children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from streaming.erasure.landing import contacts
from streaming.erasure.personal import PSEUDONYM, ErasureKey, Mode, Owner, normal_address
from streaming.errors import ConfigurationError
from streaming.sink.store import Store
from warehouse import scratch
from warehouse.cleaning import temporary
from warehouse.statements import run as execute
from warehouse.statements import statements

addresses = temporary("erasure_addresses", "address")
"""The caller's address in the forms in which the warehouse has it."""

scope = temporary("erasure_scope", "conversation_id")
"""The caller's conversations; unique."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Whose data is erased.

    Args:
        owner: Tenant.
        address: The caller's, in any usual form; never shown.
        conversation_ids: Conversations, beside those of the address.
        mode: ``erase`` removes addresses, ``pseudonymise`` puts a token in their place that is the same for the same
            address of a tenant.
        most_conversations: More than these are refused: the address is rather one of the company's own.

    Raises:
        ConfigurationError: the address or a conversation's id is empty, or there is neither.
    """

    owner: Owner
    address: str | None = field(default=None, repr=False)
    conversation_ids: Sequence[str] = ()
    mode: Mode = "erase"
    most_conversations: int = 10_000

    def __post_init__(self) -> None:
        if self.address is not None and not normal_address(self.address):
            msg = "the address is empty: give a telephone number or another address, or leave it out"
            raise ConfigurationError(msg)
        if not all(self.conversation_ids):
            msg = "conversation_ids has an empty one: leave it out"
            raise ConfigurationError(msg)
        if self.address is None and not self.conversation_ids:
            msg = "nobody is named: give an address or conversation_ids"
            raise ConfigurationError(msg)


class Landed(NamedTuple):
    """What landing files know.

    Attributes:
        conversations: The address's.
        relatives: Parents and children by conversation, of the whole tenant.
    """

    conversations: set[str]
    relatives: dict[str, set[str]]


def read_landing(store: Store, request: Request, key: ErasureKey) -> Landed:
    """Read all landing files; raises as :func:`streaming.erasure.landing.contacts`."""
    landed = Landed(set(), {})
    wanted = None if request.address is None else key.address(request.owner, request.address)
    for contact in contacts(store, request.owner):
        own, parent = contact.conversation_id, contact.parent_conversation_id
        if not own:
            continue
        if any(address and key.address(request.owner, address) == wanted for address in contact.addresses):
            landed.conversations.add(own)
        if parent and parent != own:
            landed.relatives.setdefault(own, set()).add(parent)
            landed.relatives.setdefault(parent, set()).add(own)
    return landed


def find(connection: sa.Connection, request: Request, key: ErasureKey, landed: Landed) -> set[str]:
    """Fill :data:`addresses` and :data:`scope`, in the caller's transaction.

    Returns:
        The conversations.

    Raises:
        ConfigurationError: they are too many.
    """
    owner = request.owner._asdict()
    scratch.renew(connection, addresses, scope)
    _add(connection, {*request.conversation_ids} | landed.conversations)
    if request.address is not None:
        wanted = key.address(request.owner, request.address)
        values = {**owner, **_needle(request.address), "pseudonym": PSEUDONYM + wanted}
        candidates = connection.execute(statements("erasure")["addresses"], values).scalars()
        written = [text for text in candidates if key.address(request.owner, text) == wanted]
        scratch.insert_rows(connection, addresses, [{"address": text} for text in written])
        execute(connection, "erasure", "conversations_of_addresses", **owner)
    known = _in_scope(connection, request)
    while True:
        execute(connection, "erasure", "relatives", **owner)
        found = _in_scope(connection, request)
        further = {relative for id_ in found for relative in landed.relatives.get(id_, ())} - found
        if found == known and not further:
            return found
        _add(connection, further)
        known = found | further


def _add(connection: sa.Connection, conversations: set[str]) -> None:
    scratch.insert_rows(connection, scope, [{"conversation_id": id_} for id_ in sorted(conversations)])


def _needle(address: str) -> dict[str, str]:
    """What all ways of writing an address have in common, for the statement that looks for candidates."""
    normal = normal_address(address)
    return {"needle": normal, "noise": "[^0-9]" if normal.isdecimal() else "[[:space:]]"}


def _in_scope(connection: sa.Connection, request: Request) -> set[str]:
    found = set(connection.execute(sa.select(scope.c.conversation_id)).scalars())
    if len(found) > request.most_conversations:
        msg = (
            f"{len(found)} or more conversations belong to what was asked for, {request.most_conversations} are "
            "allowed: is it a number of the company's own? If not, raise most_conversations"
        )
        raise ConfigurationError(msg)
    return found
