"""NICE CXone: events by signed webhooks, agent states by polling."""

from __future__ import annotations

import threading

from streaming.service import Service
from streaming.settings import Settings
from streaming.vendors.cxone.connection import CxoneConnection, CxoneOptions

CONNECTION = CxoneConnection
OPTIONS = CxoneOptions


def _receiver(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.cxone.serve import run_receiver  # noqa: PLC0415 (only what runs is imported)

    run_receiver(settings, stop)


def _publisher(settings: Settings, stop: threading.Event) -> None:
    from streaming.vendors.cxone.publish import run_publisher  # noqa: PLC0415

    run_publisher(settings, stop)


SERVICES: dict[str, Service] = {"cxone-receiver": _receiver, "cxone-publisher": _publisher}
