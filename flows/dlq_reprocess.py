"""Deployment dlq-reprocess. Dead letters tried again, mended by fix-ups if any are given; each at most once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, run_id, show_table
from flows._tenants import RunLogger, for_each_tenant
from streaming.errors import CcaasError
from streaming.reprocess.fixups import FixUps, shown
from streaming.reprocess.replays import Outcome
from streaming.reprocess.report import TenantReport
from streaming.reprocess.run import MAX_ATTEMPTS, Order, reprocess
from streaming.reprocess.selection import Selection
from streaming.settings import Settings, Tenant, load_settings

PARKED = "ccaas.dead-letters.parked"
"""Event raised when dead letters failed for the last time: only a person's run tries them again."""

_SAY_S = 10.0
_DID = dict(zip(Outcome, ("replayed", "failed again", "parked"), strict=True))
_WOULD = dict(zip(Outcome, ("would pass", "would fail again", "would be parked"), strict=True))


class ReprocessFailedError(CcaasError):
    """Some tenants' dead letters could not be replayed; the others' were."""


@flow(name="dlq-reprocess")
def dlq_reprocess(  # noqa: PLR0917 (parameters of the deployment, given by name)
    vendor: str | None = None,
    tenant: str | None = None,
    stage: str | None = None,
    reason: str | None = None,
    path: str | None = None,
    event_type: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    dry_run: bool = True,  # noqa: FBT001, FBT002 (parameters of the deployment)
    fixups: list[dict[str, Any]] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    include_parked: bool = False,  # noqa: FBT001, FBT002
    include_untrusted: bool = False,  # noqa: FBT001, FBT002
    due_only: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, int]:
    """Try dead letters again. Safe to interrupt and to repeat; of two runs of a tenant at once the later goes on.

    Args:
        vendor: Only this vendor's. Empty, as all below: all.
        tenant: Only this tenant's.
        stage: Only those that failed at this step, e.g. `normalise`.
        reason: Only those that failed for this reason, e.g. `missing_field`.
        path: Only those that failed because of this field, as `failed_events` names it.
        event_type: Only those of this type, the vendor's name, e.g. `CALL_ENDED`.
        start: Only failures since then, UTC.
        end: Only failures before then, UTC.
        dry_run: Show what would pass now and what would not; write nothing.
        fixups: Changes to try on each, in this order; docs/dead-letters.md has examples.
        max_attempts: What fails so often is parked.
        include_parked: Also what is parked.
        include_untrusted: Also webhooks that nobody proved to be the vendor's. You vouch for them.
        due_only: Only what has waited long enough since its last failure (1, 4, 16, then 64 hours).

    Returns:
        Dead letters replayed, or in a dry run those that would be, by vendor/tenant.

    Raises:
        ConfigurationError: a parameter or a fix-up is wrong; nothing was touched.
        ReprocessFailedError: some tenants could not be done; it names them and why.
    """
    settings = load_settings()
    selection = Selection.of(
        vendor=vendor, tenant=tenant, stage=stage, reason=reason, path=path, event_type=event_type, start=start,
        end=end, include_parked=include_parked, include_untrusted=include_untrusted, due_only=due_only,
    )  # fmt: skip
    given = fixups or []
    # Faults that have nothing to do with a tenant are told once, before the first.
    Order(selection, FixUps(given), dry_run, max_attempts)
    logger = get_run_logger()

    def work(chosen: Tenant) -> TenantReport:
        order = Order(selection, FixUps(given), dry_run, max_attempts, run_id())
        report = TenantReport(chosen.vendor, chosen.tenant_id, is_dry_run=dry_run)
        _replay(settings, chosen, order, report, _Sayer(logger))
        return report

    reports, failures = for_each_tenant(selection.tenants(settings), work, logger)
    _show(reports, FixUps(given))
    for report in reports:
        if report.count(Outcome.PARKED) and not dry_run:
            _alert(report)
    if failures:
        msg = f"{len(failures)} of {len(failures) + len(reports)} tenants not done: " + "; ".join(failures)
        raise ReprocessFailedError(msg)
    return {f"{report.vendor}/{report.tenant_id}": report.count(Outcome.REPLAYED) for report in reports}


@retry_while_down
def _replay(settings: Settings, tenant: Tenant, order: Order, report: TenantReport, progress: _Sayer) -> None:
    reprocess(settings, tenant, order, report, progress=progress)


class _Sayer:
    """Says now and then how far a tenant is."""

    def __init__(self, logger: RunLogger) -> None:
        self._logger = logger
        self._said = time.monotonic()

    def __call__(self, report: TenantReport) -> None:
        if time.monotonic() - self._said >= _SAY_S:
            self._said = time.monotonic()
            self._logger.info("%s: %s", report.tenant_id, _sums(report))


def _sums(report: TenantReport) -> str:
    names = _WOULD if report.is_dry_run else _DID
    return ", ".join(f"{report.count(outcome):,} {names[outcome]}" for outcome in Outcome)


def _show(reports: Sequence[TenantReport], fixups: FixUps) -> None:
    show_table("dlq-reprocess", [row for report in reports for row in _rows(report)])
    left = [
        {"tenant": report.tenant_id, "left alone, since": why.value, "dead letters": number}
        for report in reports
        for why, number in report.left.most_common()
    ]
    show_table("dlq-reprocess-left-alone", left)
    create_markdown_artifact(
        "\n\n".join(_text(report, fixups) for report in reports) or "No tenant.",
        key="dlq-reprocess-summary",
        description="What became of the selected dead letters",
    )


def _rows(report: TenantReport) -> list[dict[str, Any]]:
    names = _WOULD if report.is_dry_run else _DID
    return [
        {
            "tenant": report.tenant_id,
            "stage": row.stage,
            "failed for": row.reason,
            "field": row.path,
            "event type": row.event_type,
            "now": names[row.outcome],
            "fails now for": row.reason_now,
            "because of": row.path_now,
            "dead letters": number,
        }
        for row, number in report.rows.most_common()
    ]


def _text(report: TenantReport, fixups: FixUps) -> str:
    what = "dry run, nothing was written" if report.is_dry_run else f"{report.events:,} events published"
    lines = [
        f"### {report.vendor}/{report.tenant_id}",
        f"{report.read:,} dead letters looked at: {_sums(report)}, {report.left.total():,} left alone ({what}).",
    ]
    if fixups:
        changed = zip(fixups.parts, report.applied, strict=True)
        lines.append(
            "| fix-up | changed dead letters |\n| --- | ---: |\n"
            + "\n".join(f"| {part.op} `{shown(part.path)}` | {number:,} |" for part, number in changed)
        )
    lines += [f"{number:,} left alone: {why}." for why, number in report.refused.most_common()]
    return "\n\n".join(lines)


def _alert(report: TenantReport) -> None:
    emit_event(
        event=PARKED,
        resource={
            "prefect.resource.id": f"ccaas.tenant.{report.vendor}.{report.tenant_id}",
            "prefect.resource.name": report.tenant_id,
            ALERT_KEY: PARKED,
        },
        payload={"parked": report.count(Outcome.PARKED), "replayed": report.count(Outcome.REPLAYED)},
    )
