"""Genesys Cloud CX: events by a server-sent stream."""

from __future__ import annotations

import threading

from streaming.directory import Directory
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


def DIRECTORY(tenant: Tenant) -> Directory:  # noqa: N802
    """The tenant's queues and agents."""
    from streaming.vendors.genesys.directory import genesys_directory  # noqa: PLC0415

    return genesys_directory(tenant)


SERVICES: dict[str, Service] = {"genesys-ingest": _ingest}
