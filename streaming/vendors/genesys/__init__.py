"""Genesys Cloud CX: events by a server-sent stream."""

from __future__ import annotations

import threading

from streaming.reprocess.hook import VendorReplay
from streaming.service import Service
from streaming.settings import Settings, Tenant
from streaming.vendors.genesys.connection import GenesysConnection, GenesysOptions

CONNECTION = GenesysConnection
OPTIONS = GenesysOptions


def _ingest(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.genesys.ingest import GenesysIngest  # noqa: PLC0415 (only what runs is imported)

    GenesysIngest(settings, stop).run()


def REPLAY(tenant: Tenant) -> VendorReplay:  # noqa: N802 (a name of the package, as the others)
    """How the tenant's dead letters are normalised again."""
    from streaming.vendors.genesys.replay import genesys_replay  # noqa: PLC0415

    return genesys_replay(tenant)


SERVICES: dict[str, Service] = {"genesys-ingest": _ingest}
