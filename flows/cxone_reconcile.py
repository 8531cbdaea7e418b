"""Deployment cxone-reconcile. Finds CXone events whose webhooks never came, and publishes them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, scheduled_time, show_table
from flows._tenants import RunLogger, for_each_tenant
from streaming.errors import CcaasError, ConfigurationError
from streaming.settings import Settings, Tenant, load_settings
from streaming.vendors import options_of
from streaming.vendors.cxone.access import cxone_tenants
from streaming.vendors.cxone.connection import VENDOR, CxoneOptions
from streaming.vendors.cxone.progress import ReconciledThrough
from streaming.vendors.cxone.reconcile import reconcile
from streaming.vendors.cxone.report import AGE_BOUNDS_S, ReconcileReport

MISSING = "ccaas.reconcile.missing-above-threshold"
"""Event raised when more than the set share of a tenant's events was missing."""

NOT_JUDGED = "ccaas.reconcile.not-judged"
"""Event raised when a scheduled run could not look for some events: Kafka no longer has their time, or contacts ran for
longer than ``longest_contact_hours``."""

# A run every quarter of an hour; the window overlaps with the last one by the look-back.
_PERIOD = timedelta(minutes=15)
# Webhooks that are under way are not missing yet.
_SETTLE = timedelta(minutes=5)


class ReconcileFailedError(CcaasError):
    """Some tenants could not be reconciled; the others were."""


@flow(name="cxone-reconcile")
def cxone_reconcile(
    tenant: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    look_back_minutes: int = 120,
    dry_run: bool = False,  # noqa: FBT001, FBT002 (a parameter of the deployment)
) -> dict[str, int]:
    """Reconcile the contacts that ended in a window. Idempotent; two runs at once are safe.

    Runs without a window of their own keep how far each tenant is reconciled, and begin there if that is longer ago: so
    the time of runs that failed, or never were, is made up for, as far as Kafka's retention reaches.

    Args:
        tenant: Only this tenant. Empty: all of CXone's.
        start: Start of the window, UTC. Empty: look-back and period before the scheduled time, or where the last good
            run ended.
        end: Its end, exclusive. Empty: five minutes before the scheduled time, so that webhooks can settle.
        look_back_minutes: How far scheduled windows overlap.
        dry_run: Count only, publish nothing.

    Returns:
        Events published, by tenant.

    Raises:
        ConfigurationError: the window or the tenant is wrong.
        ReconcileFailedError: some tenants could not be reconciled; it names them and why.
    """
    settings = load_settings()
    bounds = _window(start, end, look_back_minutes)
    is_scheduled = start is None
    chosen = cxone_tenants(settings, tenant) if tenant else settings.tenants_of(VENDOR)
    logger = get_run_logger()
    with ReconciledThrough(settings.state_url) as through:
        work = partial(_reconcile, settings, logger, bounds, through if is_scheduled else None, publish=not dry_run)
        reports, failures = for_each_tenant(chosen, work, logger)
    _show(reports, dry_run=dry_run)
    threshold = options_of(settings, VENDOR, CxoneOptions).alert_missing_share
    for report in reports:
        if report.missing_share > threshold:
            _alert(
                MISSING,
                report,
                expected=report.expected,
                missing=report.missing,
                published=report.published,
                missing_share=round(report.missing_share, 6),
                threshold=threshold,
            )
        if is_scheduled and report.not_judged:
            _alert(NOT_JUDGED, report, not_judged=report.not_judged)
    if failures:
        msg = f"{len(failures)} of {len(failures) + len(reports)} tenants not reconciled: " + "; ".join(failures)
        raise ReconcileFailedError(msg)
    return {report.tenant_id: report.published for report in reports}


@retry_while_down
def _reconcile(
    settings: Settings,
    logger: RunLogger,
    bounds: tuple[datetime, datetime],
    through: ReconciledThrough | None,
    tenant: Tenant,
    *,
    publish: bool,
) -> ReconcileReport:
    def say(step: str, count: int) -> None:
        logger.info("%s: %s %d", tenant.tenant_id, step, count)

    start, end = bounds
    if through is not None and (done := through.read(tenant.tenant_id)) is not None:
        # What Kafka may have deleted can't be judged.
        start = min(start, max(done, end - timedelta(milliseconds=tenant.retention_ms)))
    report = reconcile(settings, tenant, start, end, publish=publish, progress=say)
    if through is not None and publish and report.steady:
        through.move(tenant.tenant_id, end)
    return report


def _window(start: datetime | None, end: datetime | None, look_back_minutes: int) -> tuple[datetime, datetime]:
    if (start is None) != (end is None):
        msg = "give both start and end (UTC, half-open), or neither: then the window follows the scheduled time"
        raise ConfigurationError(msg)
    if start is not None and end is not None:
        return start, end
    if look_back_minutes < 0:
        msg = f"look_back_minutes is {look_back_minutes}: give 0 or more"
        raise ConfigurationError(msg)
    due = scheduled_time()
    return due - _PERIOD - timedelta(minutes=look_back_minutes), due - _SETTLE


def _show(reports: list[ReconcileReport], *, dry_run: bool) -> None:
    show_table("cxone-reconcile", [row for report in reports for row in _rows(report)])
    create_markdown_artifact(
        "\n\n".join(_text(report, dry_run=dry_run) for report in reports) or "No CXone tenant.",
        key="cxone-reconcile-lateness",
        description="How much was missing, and how old it was when it was found",
    )


def _rows(report: ReconcileReport) -> list[dict[str, Any]]:
    return [
        {
            "tenant": report.tenant_id,
            "event type": kind,
            "expected": count.expected,
            "by webhook": count.pushed,
            "reconciled before": count.recovered,
            "in the spool": count.in_spool,
            "set aside": count.deferred,
            "dead letters": count.dead_letters,
            "missing": count.missing,
        }
        for kind, count in report.by_type.items()
    ]


def _text(report: ReconcileReport, *, dry_run: bool) -> str:
    window = f"[{report.window_start:%Y-%m-%d %H:%M:%SZ}, {report.window_end:%Y-%m-%d %H:%M:%SZ})"
    done = "nothing published (dry run)" if dry_run else f"{report.published} published"
    lines = [
        f"### {report.tenant_id} {window}",
        (
            f"{report.contacts} contacts, {report.expected} events expected, {report.missing} missing "
            f"({report.missing_share:.2%}), {done}."
        ),
    ]
    if report.ages:
        classes = [name for name in (*AGE_BOUNDS_S, "more") if report.ages.get(name)]
        lines.append(
            "| missing for up to | events |\n| --- | ---: |\n"
            + "\n".join(f"| {name} | {report.ages[name]} |" for name in classes)
        )
    notes = {
        f"{report.bad_rows} rows of REST can't be used: dead letters of stage `reconcile`.": report.bad_rows,
        (
            f"**{report.not_judged} events were not looked for**: they are older than `longest_contact_hours` reaches, "
            "or than what Kafka still holds."
        ): report.not_judged,
        f"{report.undecodable} records on the bus are no canonical events.": report.undecodable,
        "REST's lists changed whenever they were read; a later run finds what was overlooked.": not report.steady,
    }
    lines += [note for note, holds in notes.items() if holds]
    return "\n\n".join(lines)


def _alert(event: str, report: ReconcileReport, **payload: float) -> None:
    emit_event(
        event=event,
        resource={
            "prefect.resource.id": f"ccaas.tenant.{VENDOR}.{report.tenant_id}",
            "prefect.resource.name": report.tenant_id,
            ALERT_KEY: event,
        },
        payload={
            "window_start": report.window_start.isoformat(),
            "window_end": report.window_end.isoformat(),
            **payload,
        },
    )
