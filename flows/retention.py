"""Deployment retention. What is older than the settings say expires, in the landing zone and in the warehouse."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from flows._load import retry_while_down, run_id, scheduled_time, show_table
from streaming.settings import Settings, load_settings
from warehouse.landing_retention import expire_landing
from warehouse.retention import Expiry, cuts, expire_tables
from warehouse.schema import open_warehouse


@flow(name="retention")
def retention(*, dry_run: bool = True) -> dict[str, int]:
    """Delete what is dated before the days that `[retention]` keeps. Idempotent; two runs at once are safe.

    Args:
        dry_run: Only show what would go.

    Returns:
        Rows deleted, or in a dry run those that would be, by dataset.
    """
    settings = load_settings()
    if not cuts(settings.retention, scheduled_time()):
        get_run_logger().info("[retention] names no days: everything is kept; docs/retention.md says how to set them")
    expiries = _expire(settings, dry_run=dry_run)
    show_table("retention", [_row(expiry, dry_run=dry_run) for expiry in expiries])
    for expiry in expiries:
        if expiry.note:
            get_run_logger().warning("%s: %s", expiry.dataset, expiry.note)
    return {expiry.dataset: expiry.rows for expiry in expiries}


@retry_while_down
def _expire(settings: Settings, *, dry_run: bool) -> list[Expiry]:
    wanted = cuts(settings.retention, scheduled_time())
    if not wanted:
        return []
    with open_warehouse(settings) as warehouse:
        expiries = expire_tables(warehouse, wanted, run_id=run_id(), dry_run=dry_run)
        if before := wanted.get("landing"):
            expiries.append(expire_landing(settings, warehouse, before, run_id=run_id(), dry_run=dry_run))
    return expiries


def _row(expiry: Expiry, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dataset": expiry.dataset,
        "dated before": f"{expiry.before:%Y-%m-%d}",
        "would go" if dry_run else "deleted rows": expiry.rows,
        "from": str(expiry.first_day or ""),
        "files": expiry.files or "",
        "MB": round(expiry.bytes / 1e6, 1) if expiry.files else "",
        "note": expiry.note,
    }
