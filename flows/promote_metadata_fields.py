"""Deployment promote-metadata-fields. Metadata fields that have proven stable become typed fields and columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, run_id, scheduled_time, show_picture, show_table
from schemas.evolution import Evidence, Proposal, Thresholds
from schemas.promoted import PromotedField
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.settings import Settings, load_settings
from warehouse.field_usage import count_field_usage
from warehouse.presence_picture import presence_png
from warehouse.promotion import Promotion, catch_up, promote, proposal
from warehouse.schema import open_warehouse

PROMOTED = "ccaas.schema.promoted"
"""Event: a new version of the schema is registered."""


class Approval(RunInput):
    """What a person answers in the Prefect UI."""

    approve: bool = True
    fields: list[str] = Field(default_factory=list)
    """Metadata keys to promote; empty: all that are proposed."""


@flow(name="promote-metadata-fields")
def promote_metadata_fields(  # noqa: PLR0917 (parameters of the deployment)
    as_of: date | None = None,
    approval: Literal["automatic", "manual", "propose"] = "automatic",
    fields: list[str] | None = None,
    exclude: list[str] | None = None,
    names: dict[str, str] | None = None,
    first_seen_days: int = 30,
    window_days: int = 30,
    min_presence: float = 0.95,
    min_events: int = 1,
    approval_hours: float = 12,
) -> list[str]:
    """Count the use of metadata fields and promote those that meet the thresholds. Two runs at once make one version.

    Args:
        as_of: Day whose eve ends the window. Empty: the scheduled day.
        approval: ``automatic``; ``manual``: the run pauses, and a person resumes it in the UI; ``propose``: only shown.
        fields: Only these metadata keys. Empty: all that meet the thresholds.
        exclude: Patterns of metadata keys never to promote, e.g. ``*.sessionId``.
        names: Names by metadata key, where the one made from the key clashes.
        first_seen_days: Days since a field was first seen.
        window_days: Days that are looked at.
        min_presence: Share of an event type's events with the field, on every day on which the type occurred.
        min_events: Of that type in the window.
        approval_hours: How long a paused run waits.

    Returns:
        Names of the fields that were promoted.

    Raises:
        ConfigurationError: a parameter is wrong.
        IncompatibleSchemaError: the next version is refused; nothing was changed.
        ServiceUnavailableError: registry or warehouse do not answer.
    """
    thresholds = _thresholds(first_seen_days, window_days, min_presence, min_events)
    settings = load_settings()
    day = as_of or scheduled_time().date()
    found = _propose(settings, day, thresholds, names or {}, exclude or [])
    chosen = _chosen(found.candidates, fields or [])
    _show(found)
    if chosen and approval == "manual":
        chosen = _approved(chosen, approval_hours)
    if not chosen or approval == "propose":
        return []
    done = _promote(settings, chosen)
    _tell(done)
    return [field.name for field in chosen]


@retry_while_down
def _propose(
    settings: Settings, as_of: date, thresholds: Thresholds, names: dict[str, str], exclude: Sequence[str]
) -> Proposal:
    registry = Registry(settings.registry)
    try:
        with open_warehouse(settings) as warehouse:
            # What an earlier run registered and could not finish comes first.
            if (late := catch_up(warehouse, registry)).fields:
                _tell(late)
            count_field_usage(warehouse, run_id=run_id())
            return proposal(warehouse, registry, as_of=as_of, thresholds=thresholds, names=names, exclude=exclude)
    finally:
        registry.close()


@retry_while_down
def _promote(settings: Settings, chosen: Sequence[PromotedField]) -> Promotion:
    registry = Registry(settings.registry)
    try:
        with open_warehouse(settings) as warehouse:
            return promote(warehouse, registry, chosen)
    finally:
        registry.close()


def _thresholds(first_seen_days: int, window_days: int, min_presence: float, min_events: int) -> Thresholds:
    for name, value in (("first_seen_days", first_seen_days), ("window_days", window_days), ("min_events", min_events)):
        if value < 1:
            msg = f"{name} is {value}: give 1 or more"
            raise ConfigurationError(msg)
    if not 0 < min_presence <= 1:
        msg = f"min_presence is {min_presence}: give a share above 0, at most 1, e.g. 0.95"
        raise ConfigurationError(msg)
    return Thresholds(first_seen_days, window_days, min_presence, min_events)


def _chosen(candidates: Sequence[PromotedField], keys: Sequence[str]) -> list[PromotedField]:
    unknown = set(keys) - {field.key for field in candidates}
    if unknown:
        msg = f"fields: {', '.join(sorted(unknown))}: not proposed; the artifact metadata-fields says why"
        raise ConfigurationError(msg)
    return [field for field in candidates if not keys or field.key in keys]


def _approved(chosen: list[PromotedField], hours: float) -> list[PromotedField]:
    """Those that a person lets pass; none if nobody answers in time."""
    told = "\n".join(f"- `{field.key}` as `{field.name}`, {field.type}" for field in chosen)
    form = Approval.with_initial_data(
        description=f"Promote these metadata fields? A promoted field is never removed or retyped.\n\n{told}",
        fields=[field.key for field in chosen],
    )
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=round(hours * 3600), poll_interval=5)
    except FlowPauseTimeout:
        get_run_logger().warning("nobody approved within %g hours; nothing is promoted, the next run asks again", hours)
        return []
    if answer is None or not answer.approve:
        return []
    return _chosen(chosen, answer.fields)


def _show(found: Proposal) -> None:
    show_table("metadata-fields", [_for_people(item) for item in found.evidence])
    show_picture("metadata-field-presence", presence_png(found), "Presence of metadata fields by day")


def _for_people(item: Evidence) -> dict[str, str]:
    presence = item.presence.values()
    share = f"{min(presence):.1%} / {sum(presence) / len(presence):.1%}" if presence else "none"
    return {
        "field": item.key,
        "verdict": item.verdict,
        "as": item.name,
        "type": item.type or "none stable",
        "first seen": str(item.first_seen),
        "presence min / mean": share,
        "event types": ", ".join(item.event_types),
        "why": item.reason,
    }


def _tell(done: Promotion) -> None:
    rows = "\n".join(f"| `{field.key}` | `{field.name}` | {field.type} |" for field in done.fields)
    head = f"Version {done.version} of the schema: {done.file}."
    text = f"{head}\n\n| metadata | column | type |\n| --- | --- | --- |\n{rows}"
    create_markdown_artifact(text, key="promoted-fields", description="Fields promoted by this run")
    emit_event(
        event=PROMOTED,
        resource={"prefect.resource.id": "ccaas.schema.CanonicalCcaaEvent", ALERT_KEY: PROMOTED},
        payload={
            "title": "new columns",
            "summary": f"Version {done.version} of the schema has further fields.",
            "fields": ", ".join(field.name for field in done.fields),
            "file": done.file,
            "remedy": "Nothing needs to be done; commit the new version's file: docs/schema-evolution.md.",
        },
    )
