"""Deployment promote-metadata-fields. Metadata fields that have proven stable become typed fields and columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows._alert_key import ALERT_KEY
from flows._load import retry_while_down, run_id, scheduled_time, show_picture, show_table
from schemas.evolution import Evidence, Proposal, Thresholds, Verdict
from schemas.promoted import PromotedField
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.settings import Settings, load_settings
from warehouse.engine import Warehouse, publish_read_copy
from warehouse.field_usage import count_field_usage
from warehouse.presence_picture import presence_png
from warehouse.promotion import Promotion, catch_up, promote, proposal
from warehouse.schema import open_warehouse

PROMOTED = "ccaas.schema.promoted"
"""Event: a new version of the schema is registered."""


_MOST_SHOWN = 300
"""Rows of the table of fields: one of thousands does not open in the UI."""

Positive = Annotated[int, Field(ge=1)]


class Approval(RunInput):
    """What a person answers in the Prefect UI."""

    approve: bool = Field(default=True, description="Untick to promote nothing.")
    fields: list[str] = Field(default_factory=list, description="Remove those that are not to be promoted.")


@flow(name="promote-metadata-fields")
def promote_metadata_fields(  # noqa: PLR0917 (parameters of the deployment)
    as_of: date | None = None,
    approval: Literal["automatic", "manual", "propose"] = "automatic",
    fields: list[str] | None = None,
    exclude: list[str] | None = None,
    names: dict[str, str] | None = None,
    first_seen_days: Positive = 30,
    window_days: Positive = 30,
    min_presence: Annotated[float, Field(gt=0, le=1)] = 0.95,
    min_events: Positive = 1,
    approval_hours: Annotated[float, Field(gt=0)] = 12,
) -> list[str]:
    """Count the use of metadata fields and promote those that meet the thresholds. Two runs at once make one version.

    Args:
        as_of: Day whose eve ends the window. Empty: the scheduled day.
        approval: ``automatic``; ``manual``: the run pauses, and a person resumes it in the UI; ``propose``: only shown.
        fields: Only these metadata keys; those that are promoted already are passed over. Empty: all that meet the
            thresholds.
        exclude: Patterns of metadata keys never to promote, e.g. ``*.sessionId``.
        names: Names by metadata key, where the one made from the key clashes.
        first_seen_days: Days since a field was first seen.
        window_days: Days that are looked at.
        min_presence: Share of an event type's events with the field, on every day on which the type occurred.
        min_events: Of that type in the window.
        approval_hours: How long a paused run waits.

    Returns:
        Names of the fields that this run promoted.

    Raises:
        ConfigurationError: a field that is named is not proposed, or the warehouse can't have its column.
        FlowPauseTimeout: nobody approved in time; nothing was changed.
        IncompatibleSchemaError: the next version is refused; nothing was changed.
        ServiceUnavailableError: registry or warehouse do not answer.
    """
    thresholds = Thresholds(first_seen_days, window_days, min_presence, min_events)
    settings = load_settings()
    day = as_of or scheduled_time().date()
    found = _propose(settings, day, thresholds, names or {}, exclude or [])
    _show(found)
    chosen = _chosen(found, fields or [])
    if chosen and approval == "manual":
        chosen = _approved(chosen, approval_hours)
    if not chosen or approval == "propose":
        return []
    done = _promote(settings, chosen)
    _tell(settings, done)
    return [field.name for field in done.fields]


@retry_while_down
def _propose(
    settings: Settings, as_of: date, thresholds: Thresholds, names: dict[str, str], exclude: Sequence[str]
) -> Proposal:
    registry = Registry(settings.registry)
    try:
        with open_warehouse(settings) as warehouse:
            # What an earlier run registered and could not finish comes first.
            _tell(settings, catch_up(warehouse, registry))
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


@retry_while_down
def _publish(settings: Settings) -> None:
    """Readers see the new columns at once."""
    publish_read_copy(Warehouse.from_settings(settings), force=True)


def _chosen(found: Proposal, keys: Sequence[str]) -> list[PromotedField]:
    """Of what is proposed that which a person named; what is promoted already is no mistake, but nothing to do."""
    promoted = {item.key for item in found.evidence if item.verdict is Verdict.PROMOTED}
    unknown = set(keys) - promoted - {field.key for field in found.candidates}
    if unknown:
        msg = f"fields: {', '.join(sorted(unknown))}: not proposed; the artifact metadata-fields says why"
        raise ConfigurationError(msg)
    return [field for field in found.candidates if not keys or field.key in keys]


def _approved(chosen: list[PromotedField], hours: float) -> list[PromotedField]:
    """Those that a person lets pass."""
    told = "\n".join(f"- `{field.key}` as `{field.name}`, {field.type}" for field in chosen)
    form = Approval.with_initial_data(
        description=f"Promote these metadata fields? A promoted field is never removed or retyped.\n\n{told}",
        fields=[field.key for field in chosen],
    )
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=round(hours * 3600), poll_interval=5)
    except FlowPauseTimeout:
        # Not a quiet end: the server fails a run whose pause is over, mostly before this one comes to know.
        msg = f"nobody approved within {hours:g} hours; nothing is promoted, the next run asks again"
        raise FlowPauseTimeout(msg) from None
    if not answer.approve:
        get_run_logger().info("not approved; nothing is promoted")
        return []
    return [field for field in chosen if field.key in answer.fields]


def _show(found: Proposal) -> None:
    rows = [_for_people(item) for item in found.evidence[:_MOST_SHOWN]]
    if (more := len(found.evidence) - len(rows)) > 0:
        rows.append({"field": f"and {more} more"})
    show_table("metadata-fields", rows)
    show_picture("metadata-field-presence", presence_png(found), "Presence of metadata fields by day")


def _for_people(item: Evidence) -> dict[str, str]:
    presence = item.presence.values()
    share = f"{min(presence):.1%} / {sum(presence) / len(presence):.1%}" if presence else "none"
    return {
        "field": item.key,
        "verdict": item.verdict,
        "why": item.reason,
        "as": item.name,
        "type": item.type or "none stable",
        "first seen": str(item.first_seen),
        "presence min / mean": share,
        "event types": ", ".join(item.event_types),
    }


def _tell(settings: Settings, done: Promotion) -> None:
    """Of fields that got their columns."""
    if not done.fields:
        return
    _publish(settings)
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
