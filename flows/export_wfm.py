"""Deployment export-wfm. Interval files for WFM tools, by tenant and UTC day."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow, get_run_logger

from flows._load import retry_while_down, scheduled_time, show_table
from flows._tenants import chosen_tenants
from streaming.errors import ConfigurationError
from streaming.settings import load_settings
from warehouse.engine import Warehouse, publish_read_copy
from warehouse.export import Exported, ExportResult, Target, export_days, export_new
from warehouse.export_files import Format
from warehouse.schema import migrate

_SHOWN = 200
"""Rows of the table in the UI; the rest is counted in its last row."""


@flow(name="export-wfm")
def export_wfm(
    start: date | None = None,
    end: date | None = None,
    tenant: str | None = None,
    formats: list[Format] | None = None,
) -> int:
    """Write the interval files of whole UTC days, and again those of days that later events have changed.

    Repeatable for any days; two runs at once are safe. A file is replaced as a whole, and only if it differs.

    Args:
        start: First day to export, whatever was exported. Empty: what is new or changed since the last run without
            parameters, the first time yesterday.
        end: First day after them.
        tenant: Only this tenant.
        formats: csv, parquet. Empty: as configured.

    Returns:
        Files that are new or changed.

    Raises:
        ConfigurationError: there is no such tenant, only one of start and end is given, or days can't be exported.
        ExportError: files can't be written. It names the days; the others are exported.
    """
    result = _export(_days(start, end), tenant, formats or [])
    if result.through is None and start is None:
        get_run_logger().info("nothing to export: load-wfm-intervals has not built any cells yet")
    show_table("export-wfm", _rows(result))
    return sum(len(day.changed) for day in result.days)


def _days(start: date | None, end: date | None) -> tuple[date, date] | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        msg = "give both start and end (UTC days, end excluded), or neither: then what is new or changed is exported"
        raise ConfigurationError(msg)
    return start, end


@retry_while_down
def _export(days: tuple[date, date] | None, tenant: str | None, formats: list[Format]) -> ExportResult:
    settings = load_settings()
    chosen_tenants(settings, tenant)  # a name with a slip in it would export nothing and say nothing
    warehouse = Warehouse.from_settings(settings)
    migrate(warehouse)
    publish_read_copy(warehouse, force=True)
    target = Target(settings.export_dir, formats or settings.export.formats, tenant)
    if days:
        return export_days(warehouse, target, *days, due=scheduled_time())
    return export_new(warehouse, target, due=scheduled_time(), remember=not (tenant or formats))


def _rows(result: ExportResult) -> list[dict[str, Any]]:
    shown = sorted(result.days, key=lambda day: not day.changed)  # what has changed first
    rows = [_for_people(day) for day in shown[:_SHOWN]]
    if rest := shown[_SHOWN:]:
        changed = sum(len(day.changed) for day in rest)
        rows.append({**dict.fromkeys(rows[0], ""), "vendor": f"{len(rest)} more", "files": f"{changed} new or changed"})
    return rows


def _for_people(day: Exported) -> dict[str, Any]:
    return {
        "vendor": day.of.vendor,
        "tenant": day.of.tenant_id,
        "day": str(day.of.day),
        "queue rows": day.queue_rows,
        "agent rows": day.agent_rows,
        "files": ", ".join(day.changed) or "unchanged",
    }
