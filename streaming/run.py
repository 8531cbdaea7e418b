"""The long-running services by name: what the command, the Prefect flows and the tests start."""

from __future__ import annotations

import importlib
import threading

from streaming.service import Service
from streaming.settings import Settings
from streaming.vendors import known_vendors


def services() -> dict[str, Service]:
    """Every vendor's services, and the consumers."""
    found: dict[str, Service] = {"analytics-sink": _sink, "crm-sync": _crm, "wfm-realtime": _wfm}
    for vendor in sorted(known_vendors()):
        found |= importlib.import_module(f"streaming.vendors.{vendor}").SERVICES
    return found


def _sink(settings: Settings, stop: threading.Event) -> None:
    from streaming.sink.sink import run_sink  # noqa: PLC0415 (only what runs is imported)

    run_sink(settings, stop)


def _crm(settings: Settings, stop: threading.Event) -> None:
    from streaming.crm.sync import run_crm_sync  # noqa: PLC0415

    run_crm_sync(settings, stop)


def _wfm(settings: Settings, stop: threading.Event) -> None:
    from streaming.wfm.run import run_wfm  # noqa: PLC0415

    run_wfm(settings, stop)
