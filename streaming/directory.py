"""What a vendor calls its queues and agents: ``DIRECTORY`` of its package, called with a tenant."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

from streaming.errors import ServiceUnavailableError
from streaming.settings import Tenant

Json = Any
Entry = TypeVar("Entry")

MAX_NAME = 500
"""Characters of a name; the rest is cut off."""

MAX_ENTRIES = 200_000
"""Queues, or agents, of one tenant: all of them are held in memory."""

# A list that changed while it was read is read again, so often.
_MAX_SWEEPS = 4


class Queue(NamedTuple):
    """A queue as the vendor has it now; what it does not tell is None."""

    id: str
    name: str | None
    media_type: str | None = None
    division: str | None = None
    is_active: bool = True


class Agent(NamedTuple):
    """An agent as the vendor has it now; what it does not tell is None."""

    id: str
    name: str | None
    team: str | None = None
    division: str | None = None
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Directory:
    """All queues and agents of a tenant, each id once."""

    queues: tuple[Queue, ...]
    agents: tuple[Agent, ...]


def read_directory(tenant: Tenant) -> Directory:
    """Ask the tenant's vendor.

    Raises:
        ConfigurationError: the connection section is wrong, credentials are, or a scope is missing.
        VendorRefusedError: the vendor finds fault with the request.
        ServiceUnavailableError: it does not answer, or its lists never stood still.
    """
    package = importlib.import_module(f"streaming.vendors.{tenant.vendor}")
    return cast("Directory", package.DIRECTORY(tenant))


Page = Callable[[int, int], Awaitable[tuple[list[Json], int]]]
"""Of a page's number, from 0, and how many rows came before it: its rows, and the number of all that there are."""


async def whole_list(
    name: str, page: Page, key: str, entry: Callable[[str, dict[str, Json]], Entry]
) -> tuple[Entry, ...]:
    """A paged list without gaps: who is missing counts as gone.

    A row that appears or vanishes between two pages shifts the rest, and not all of that shows in the counts. So
    several pages are read until two readings have the same ids, each once; a single page can't move. A list that ends
    before the number of rows that the vendor told is no reading.

    Args:
        name: For messages.
        page: Reads a page.
        key: Field of the id. Rows without one are passed over.
        entry: Of the id, as text, and the row: what is kept. Rows hold more of people than anybody needs here.

    Raises:
        ServiceUnavailableError: the list never stood still, always ended early, or is longer than ``MAX_ENTRIES``.
    """
    before: set[str] | None = None
    for _ in range(_MAX_SWEEPS):
        found, pages, gap = await _sweep(name, page, key, entry)
        if not gap and (pages == 1 or found.keys() == before):
            return tuple(found.values())
        before = set(found)
    msg = f"{name}: the list changed while it was read, {_MAX_SWEEPS} times{gap and f' ({gap})'}; try again later"
    raise ServiceUnavailableError(msg)


async def _sweep(
    name: str, page: Page, key: str, entry: Callable[[str, dict[str, Json]], Entry]
) -> tuple[dict[str, Entry], int, str]:
    """All entries by id, how many pages they are, and what is wrong with the reading, empty if nothing is."""
    found: dict[str, Entry] = {}
    number = read = named = most = 0
    while True:
        rows, total = await page(number, read)
        most = max(most, total)
        read, number = read + len(rows), number + 1
        if max(total, read) > MAX_ENTRIES:
            msg = f"{name}: more than {MAX_ENTRIES} entries"
            raise ServiceUnavailableError(msg)
        good = [
            (found_id, entry(found_id, row))
            for row in rows
            if isinstance(row, dict) and (found_id := text(row.get(key)))
        ]
        found |= dict(good)
        named += len(good)
        if not rows and read < most:
            return found, number, f"{read} of {most} entries came"
        if not rows or read >= total:
            return found, number, f"{named - len(found)} came twice" if named > len(found) else ""


def text(value: Json) -> str | None:
    """A name or an id as text: of a bounded length and without control characters; None if it is neither."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return "".join(character if character.isprintable() else " " for character in str(value)).strip()[:MAX_NAME] or None
