"""Queues and users of an organisation.

Source: developer.genesys.cloud, Routing API ``GET /api/v2/routing/queues`` and Users API ``GET /api/v2/users``, which
lists those that are active.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from streaming.directory import Agent, Directory, Entry, Queue, text, whole_list
from streaming.errors import ServiceUnavailableError
from streaming.rest import RestClient
from streaming.settings import Tenant
from streaming.vendors import connection_of
from streaming.vendors.genesys.connection import GenesysConnection
from streaming.vendors.genesys.ingest import rest_client, token_source

Json = Any

_QUEUES = "/api/v2/routing/queues"
_USERS = "/api/v2/users"
_SCOPE = "conversation:view"
_PAGE = 100
_TIMEOUT_S = 30


def genesys_directory(tenant: Tenant) -> Directory:
    """The hook ``DIRECTORY``; raises as :func:`streaming.directory.read_directory`."""
    return asyncio.run(_read(connection_of(tenant, GenesysConnection)))


async def _read(connection: GenesysConnection) -> Directory:
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as http:
        rest = rest_client(http, token_source(http, connection), connection)
        return Directory(
            await _list(rest, connection.api_url, _QUEUES, _queue),
            await _list(rest, connection.api_url, _USERS, _agent),
        )


async def _list(
    rest: RestClient, api_url: str, path: str, entry: Callable[[str, dict[str, Json]], Entry]
) -> tuple[Entry, ...]:
    async def page(number: int, _read: int) -> tuple[list[Json], int]:
        params = {"pageSize": _PAGE, "pageNumber": number + 1}
        answer = await rest.request("GET", api_url.rstrip("/") + path, scope=_SCOPE, params=params)
        try:
            found = answer.json()
            return list(found["entities"]), int(found["total"])
        except (ValueError, KeyError, TypeError):
            msg = f"{path}: no entities and total in the answer"
            raise ServiceUnavailableError(msg) from None

    return await whole_list(path, page, "id", entry)


def _queue(key: str, row: dict[str, Json]) -> Queue:
    return Queue(key, text(row.get("name")), division=_division(row))


def _agent(key: str, row: dict[str, Json]) -> Agent:
    return Agent(key, text(row.get("name")), text(row.get("department")), _division(row), _is_active(row))


def _division(row: dict[str, Json]) -> str | None:
    division = row.get("division")
    return text(division.get("name")) if isinstance(division, dict) else None


def _is_active(row: dict[str, Json]) -> bool:
    return str(row.get("state", "active")) == "active"
