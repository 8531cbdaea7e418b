"""Skills and agents of a business unit.

Source: NICE CXone Admin API v30.0, ``GET skills`` and ``GET agents``: ``fields``, ``skip``, ``top``, ``totalRecords``;
204 if there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from schemas.fieldmap import load_field_map
from streaming.directory import Agent, Directory, Entry, Queue, text, whole_list
from streaming.errors import ServiceUnavailableError
from streaming.rest import RestClient
from streaming.settings import Tenant
from streaming.vendors import connection_of
from streaming.vendors.cxone.access import rest_client
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.contacts import SCOPE

Json = Any

_PATH = "/inContactAPI/services/v30.0/"
# No more is asked for: agents' rows hold addresses and telephone numbers.
_FIELDS = {
    "skills": "skillId,skillName,mediaTypeName,campaignName,isActive",
    "agents": "agentId,firstName,lastName,teamName,isActive",
}
# The vendor's words for media, and those of the events.
_MEDIA_TYPES = load_field_map(VENDOR).fields["contact"]["media_type"].values
_PAGE = 10_000
_TIMEOUT_S = 60


def cxone_directory(tenant: Tenant) -> Directory:
    """The hook ``DIRECTORY``; raises as :func:`streaming.directory.read_directory`."""
    return asyncio.run(_read(connection_of(tenant, CxoneConnection)))


async def _read(connection: CxoneConnection) -> Directory:
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as http:
        rest = rest_client(http, connection)
        return Directory(
            await _list(rest, connection.api_url, "skills", "skillId", _queue),
            await _list(rest, connection.api_url, "agents", "agentId", _agent),
        )


async def _list(
    rest: RestClient, api_url: str, name: str, key: str, entry: Callable[[str, dict[str, Json]], Entry]
) -> tuple[Entry, ...]:
    async def page(_number: int, read: int) -> tuple[list[Json], int]:
        params = {"fields": _FIELDS[name], "skip": read, "top": _PAGE}
        answer = await rest.request("GET", api_url.rstrip("/") + _PATH + name, scope=SCOPE, params=params)
        if answer.status_code == httpx.codes.NO_CONTENT:
            return [], 0  # it tells no number; that of the pages before counts
        try:
            found = answer.json()
            return list(found[name]), int(found["totalRecords"])
        except (ValueError, KeyError, TypeError):
            msg = f"{_PATH}{name}: no {name} and totalRecords in the answer"
            raise ServiceUnavailableError(msg) from None

    return await whole_list(_PATH + name, page, key, entry)


def _queue(key: str, row: dict[str, Json]) -> Queue:
    return Queue(
        key, text(row.get("skillName")), _media_type(row), text(row.get("campaignName")), is_active=_is_active(row)
    )


def _agent(key: str, row: dict[str, Json]) -> Agent:
    return Agent(key, _name(row), text(row.get("teamName")), is_active=_is_active(row))


def _name(row: dict[str, Json]) -> str | None:
    return text(" ".join(part for part in (text(row.get("firstName")), text(row.get("lastName"))) if part))


def _is_active(row: dict[str, Json]) -> bool:
    """The vendor writes it as a boolean, a number or text."""
    return str(row.get("isActive", True)).lower() not in {"false", "0"}


def _media_type(row: dict[str, Json]) -> str | None:
    """In the words of the events."""
    told = text(row.get("mediaTypeName"))
    return None if told is None else _MEDIA_TYPES.get(told, told)
