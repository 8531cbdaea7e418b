"""Alerts: the automation that tells people, and how what services noticed becomes an event that triggers it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event, RelatedResource, Resource
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows._alert_key import ALERT_KEY
from streaming.announce import Announcement, shown_tenants
from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.instants import from_ms

NAME = "CCaaS alerts"

EVENTS = frozenset(
    {
        "ccaas.drift.*",
        "ccaas.dead-letters.parked",
        "ccaas.webhooks.deferred",
        "ccaas.reconcile.*",
        "ccaas.genesys.missing-above-threshold",
        "ccaas.stream.restart-budget-exhausted",
        "ccaas.schema.promoted",
        "ccaas.quality.failed",
        "ccaas.freshness.*",
    }
)
"""What people are told of."""

# Within it one alert a key. Shorter than the hour for which services keep silent of the same thing, so that their next
# message always gets through.
_QUIET = timedelta(minutes=55)

_SUBJECT = "CCaaS: {{ event.payload.title or event.event }} ({{ event.resource.name or event.resource.id }})"
_BODY = """{{ event.payload.summary or event.event }}

{% for key, value in event.payload.items() if key not in ("title", "summary", "remedy") -%}
{{ key }}: {{ value }}
{% endfor %}
{{ event.payload.remedy or "Look at the latest run of the deployment that found it, and at docs/alerts.md." }}

Event {{ event.event }} of {{ event.occurred }}. Of the same there is no further alert within the hour.
"""

_TITLES = {
    "failure": "events fail",
    "unmapped_field": "new fields",
    "more": "more kinds of failure or new fields",
}
_SUMMARIES = {
    "failure": "Events of {vendor} fail and are kept as dead letters: {what}.",
    "unmapped_field": "{vendor} sends what it never sent before: {what}. Nothing is lost, it is in metadata.",
    "more": "So much changed at {vendor} that it is not told one by one for the rest of the hour.",
}
_REMEDIES = {
    "failure": (
        "Nothing is lost. See what broke: SELECT * FROM failed_event_status WHERE replay_status = 'open' "
        "ORDER BY last_seen DESC. Mend the field map or declare a fix-up, then run dlq-reprocess with dry_run: "
        "docs/dead-letters.md."
    ),
    "unmapped_field": (
        "Nothing needs to be done. A field that stays becomes a typed column after 30 days; "
        "if it should go to the payload, add it to the field map: docs/events.md."
    ),
    "more": "See the table failed_events, and metadata_field_usage for fields: docs/dead-letters.md.",
}


def tell_prefect(announcement: Announcement) -> None:
    """Send what services noticed to the Prefect server as an event; returns once the server took it.

    Raises:
        httpx.HTTPError: it did not.
    """
    event = drift_event(announcement)
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])


def drift_event(announcement: Announcement) -> Event:
    """The event of an announcement; told again it has the same id."""
    vendor, kind, what = announcement.vendor, announcement.kind, announcement.what
    name = f"ccaas.drift.{kind.replace('_', '-')}"
    payload: dict[str, Any] = {
        "title": _TITLES[kind],
        "summary": _SUMMARIES[kind].format(vendor=vendor, what=what),
        "what": what,
        "tenants": ", ".join(shown_tenants(announcement)),
        "first seen": f"{from_ms(announcement.noticed_ms):%Y-%m-%d %H:%M:%SZ}",
        **announcement.sample,
        "remedy": _REMEDIES[kind],
    }
    related = [
        RelatedResource({"prefect.resource.id": f"ccaas.tenant.{vendor}.{tenant}", "prefect.resource.role": "tenant"})
        for tenant in announcement.tenants[:20]
    ]
    resource = Resource(
        {
            "prefect.resource.id": f"ccaas.vendor.{vendor}",
            "prefect.resource.name": vendor,
            ALERT_KEY: f"{name}/{vendor}/{what}",
        }
    )
    return Event(id=announcement.id, event=name, resource=resource, related=related, payload=payload)


def install_alerts(blocks: Sequence[str]) -> Literal["created", "updated"]:
    """Create or update the automation that sends :data:`EVENTS` to notification blocks. Repeatable.

    Args:
        blocks: As type/name, e.g. ``slack-webhook/on-call``.

    Raises:
        ConfigurationError: no block is named, one does not exist, or no server is set.
        ServiceUnavailableError: the server does not answer.
    """
    if not blocks:
        msg = "alerts.blocks: empty; name the notification blocks, e.g. blocks = ['slack-webhook/on-call']"
        raise ConfigurationError(msg)
    if get_current_settings().api.url is None:
        msg = (
            "PREFECT_API_URL is not set: name the server on which the automation shall be, e.g. http://prefect:4200/api"
        )
        raise ConfigurationError(msg)
    try:
        with get_client(sync_client=True) as client:
            return _install(client, automation([_block_id(client, block) for block in blocks]))
    except httpx.TransportError as error:
        msg = f"the Prefect server at {get_current_settings().api.url} does not answer: {type(error).__name__}"
        raise ServiceUnavailableError(msg) from None


def automation(block_ids: Sequence[UUID]) -> AutomationCore:
    """The automation, whose actions are one notification for each block."""
    return AutomationCore(
        name=NAME,
        description="Tells people what vendors changed and what failed. Made by `ccaas alerts install`.",
        enabled=True,
        tags=["ccaas"],
        trigger=EventTrigger(
            expect=set(EVENTS), for_each={ALERT_KEY}, posture=Posture.Reactive, threshold=1, within=_QUIET
        ),
        actions=[SendNotification(block_document_id=block_id, subject=_SUBJECT, body=_BODY) for block_id in block_ids],
    )


def _install(client: SyncPrefectClient, wanted: AutomationCore) -> Literal["created", "updated"]:
    found = client.read_automations_by_name(NAME)
    if not found:
        client.create_automation(wanted)
        return "created"
    client.update_automation(found[0].id, wanted)
    return "updated"


def _block_id(client: SyncPrefectClient, block: str) -> UUID:
    kind, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, block_type_slug=kind)
    except ObjectNotFound:
        msg = (
            f"alerts.blocks: the Prefect server has no block {block!r}; create it in its UI under Blocks, or by code: "
            "docs/alerts.md"
        )
        raise ConfigurationError(msg) from None
    if "notify" not in (document.block_schema.capabilities if document.block_schema else ()):
        msg = f"alerts.blocks: {block!r} is no notification block; choose one that can notify, e.g. of slack-webhook"
        raise ConfigurationError(msg)
    return document.id
