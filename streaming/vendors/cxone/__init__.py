"""NICE CXone: events by signed webhooks, agent states by polling."""

from __future__ import annotations

import threading

from streaming.directory import Directory
from streaming.reprocess.hook import VendorReplay
from streaming.service import Service
from streaming.settings import Settings, Tenant
from streaming.vendors.cxone.connection import CxoneConnection, CxoneOptions

CONNECTION = CxoneConnection
OPTIONS = CxoneOptions


def _receiver(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.cxone.serve import run_receiver  # noqa: PLC0415 (only what runs is imported)

    run_receiver(settings, stop)


def _publisher(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.cxone.publish import run_publisher  # noqa: PLC0415

    run_publisher(settings, stop)


def REPLAY(tenant: Tenant) -> VendorReplay:  # noqa: N802 (a name of the package, as the others)
    """How the tenant's dead letters are normalised again."""
    from streaming.vendors.cxone.replay import cxone_replay  # noqa: PLC0415

    return cxone_replay(tenant)


def DIRECTORY(tenant: Tenant) -> Directory:  # noqa: N802
    """The tenant's queues and agents."""
    from streaming.vendors.cxone.directory import cxone_directory  # noqa: PLC0415

    return cxone_directory(tenant)


SERVICES: dict[str, Service] = {"cxone-receiver": _receiver, "cxone-publisher": _publisher}
