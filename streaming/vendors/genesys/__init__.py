"""Genesys Cloud CX: events by a server-sent stream."""

from __future__ import annotations

import threading

from streaming.service import Service
from streaming.settings import Settings
from streaming.vendors.genesys.connection import GenesysConnection, GenesysOptions

CONNECTION = GenesysConnection
OPTIONS = GenesysOptions


def _ingest(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.genesys.ingest import GenesysIngest  # noqa: PLC0415 (only what runs is imported)

    GenesysIngest(settings, stop).run()


SERVICES: dict[str, Service] = {"genesys-ingest": _ingest}
