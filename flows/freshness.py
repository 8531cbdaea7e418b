"""Deployment freshness. Tells once when a tenant's newest intervals are late, and once when they have recovered."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

from prefect import flow
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, run_id, scheduled_time, show_table
from streaming.settings import load_settings
from warehouse.freshness import Change, by_tenant, check_freshness
from warehouse.schema import open_warehouse

LATE = "ccaas.freshness.late"
"""Event raised when a tenant's newest interval is too old."""

RECOVERED = "ccaas.freshness.recovered"
"""Event raised when it no longer is."""

_TITLES = {"late": "intervals are late", "fresh": "intervals are no longer late"}
_REMEDIES = {
    "late": (
        "See which step stands still: is the tenant's stream or webhook alive, does analytics-sink write files, did "
        "the latest runs of load-events and load-wfm-intervals succeed? docs/quality.md, Freshness."
    ),
    "fresh": "Nothing needs to be done. What came late is in its intervals.",
}
# More tenants at once have one cause; they are one message.
_MOST_TENANTS = 10
_NAMESPACE = uuid.UUID("2f6a1c58-9a0e-5c2b-8f0d-6f4f2f3f7c11")


@flow(name="freshness")
def freshness() -> int:
    """Look at every tenant's newest queue and agent interval.

    Returns:
        Tenants' tables that became late, or recovered.
    """
    changes = _check()
    show_table("freshness", [_for_people(change) for change in changes])
    return len(changes)


@retry_while_down
def _check() -> Sequence[Change]:
    settings = load_settings()
    with open_warehouse(settings) as warehouse:
        return check_freshness(warehouse, settings, now=scheduled_time(), run_id=run_id(), tell=_tell)


def _tell(changes: Sequence[Change]) -> None:
    for status, event in (("late", LATE), ("fresh", RECOVERED)):
        tenants = by_tenant(change for change in changes if change.status == status)
        if len(tenants) > _MOST_TENANTS:
            everything = [change for group in tenants.values() for change in group]
            _emit(event, "ccaas.warehouse", f"{len(tenants)} tenants", everything)
        else:
            for (vendor, tenant), group in tenants.items():
                _emit(event, f"ccaas.tenant.{vendor}.{tenant}", f"{vendor}/{tenant}", group)


def _emit(event: str, resource: str, who: str, changes: Sequence[Change]) -> None:
    newest = min(changes, key=lambda change: change.newest_end)
    tables = sorted({change.cells.table for change in changes})
    emit_event(
        # Told again after a kill it is the same event.
        id=uuid.uuid5(_NAMESPACE, f"{event} {resource} {newest.newest_end.isoformat()}"),
        event=event,
        resource={
            "prefect.resource.id": resource,
            "prefect.resource.name": who,
            ALERT_KEY: f"{event}/{resource.removeprefix('ccaas.')}",
        },
        payload={
            "title": _TITLES[newest.status],
            "summary": f"{who}: the newest of {' and '.join(tables)} ended {newest.newest_end:%Y-%m-%d %H:%M}Z",
            "allowed age in minutes": newest.limit // timedelta(minutes=1),
            "tenants": ", ".join(sorted({change.cells.tenant_id for change in changes})[:20]),
            "remedy": _REMEDIES[newest.status],
        },
    )


def _for_people(change: Change) -> dict[str, str | int]:
    return {
        "vendor": change.cells.vendor,
        "tenant": change.cells.tenant_id,
        "table": change.cells.table,
        "is now": change.status,
        "newest interval ended": f"{change.newest_end:%Y-%m-%d %H:%M}Z",
        "allowed age in minutes": change.limit // timedelta(minutes=1),
    }
