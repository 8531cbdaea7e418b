"""Deployment genesys-backfill. Ad hoc: events of a past window that are not on the bus, by the vendor's REST API."""

from __future__ import annotations

from datetime import datetime

from prefect import flow, get_run_logger

from flows._load import retry_while_down, show_table, shown_progress
from streaming.settings import load_settings
from streaming.vendors.genesys.backfill import BackfillReport, backfill, genesys_tenant


@flow(name="genesys-backfill")
def genesys_backfill(tenant: str, start: datetime, end: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """Publish what is missing of a window; again, or twice at once, does no harm: ids are those of the stream.

    Args:
        tenant: Tenant id.
        start: Event time, UTC.
        end: Exclusive.
        dry_run: Only count.

    Returns:
        Events that were missing, by type.
    """
    settings = load_settings()
    show = shown_progress(f"genesys-backfill-{tenant.lower().replace('_', '-')}")

    def progress(until: datetime) -> None:
        show((until - start) / (end - start))

    report = retry_while_down(backfill)(
        settings, genesys_tenant(settings, tenant), start, end, publish=not dry_run, progress=progress
    )
    show_backfill("genesys-backfill-counts", [report])
    done = "would be published (dry run)" if dry_run else "published"
    get_run_logger().info("%s events were missing and %s", sum(report.missing.values()), done)
    return report.missing


def show_backfill(key: str, reports: list[BackfillReport]) -> None:
    """Reports as a table: a row for each tenant and type."""
    show_table(
        key,
        [
            {
                "tenant": report.tenant_id,
                "event type": kind,
                "told by REST": expected,
                "on the bus": expected - report.missing.get(kind, 0),
                "missing": report.missing.get(kind, 0),
                "dead letters": report.dead_letters,
            }
            for report in reports
            for kind, expected in sorted(report.expected.items())
        ],
    )
