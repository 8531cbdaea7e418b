"""Reconciliation: what never came by webhook is found through REST and published with the ids it would have had.

In this order, so that an event on its way is always seen somewhere: 1. REST: contacts that ended in the window, and
their states, 2. the events that they should have become, 3. spools and what was lately set aside, 4. dead letters and
the bus up to the watermarks of now, 5. what is nowhere is published. Until 5 nothing is written anywhere.

Two runs at once, or one that was interrupted and is repeated, do no harm: the same rows give the same ids. A webhook
that comes after its reconciled twin differs from it by a second at most, and the warehouse keeps one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import structlog

from schemas.canonical import REST_NEAR_MS, CanonicalEvent
from schemas.normalise import normaliser
from schemas.registry import Registry
from streaming.bus_window import BusWindow, DeadLetter
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError, ConfigurationError, ServiceUnavailableError
from streaming.instants import from_ms, to_ms
from streaming.publisher import Publisher
from streaming.settings import Settings, Tenant
from streaming.spool.peek import deferred_bodies, pending_bodies, warn_if_missing
from streaming.topics import ensure_topics
from streaming.vendors import connection_of
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.contacts import ContactsApi, contacts_api
from streaming.vendors.cxone.expected import contact_id, expected_events, lacks_head, started_ms, state_of
from streaming.vendors.cxone.matching import BadRow, Matching, Source, Tally
from streaming.vendors.cxone.messages import MAX_EVENTS, normalise_body
from streaming.vendors.cxone.report import ReconcileReport, TypeCount, age_class

log = structlog.get_logger()

Json = Any
Progress = Callable[[str, int], None]
"""Told of each step that ended, and of how many things it handled."""

STAGE = "reconcile"
TRANSPORT = "rest"
UNTRUSTED = "untrusted"
"""Reason of a dead letter that nobody vouches for: it stands for no event."""

DEFERRED_COUNTS = timedelta(hours=1)
"""For so long after its arrival a webhook that is set aside counts as there."""

_REST_TIMEOUT_S = 60
_SILENT_S = 60.0


def reconcile(
    settings: Settings,
    tenant: Tenant,
    window_start: datetime,
    window_end: datetime,
    *,
    publish: bool = True,
    now: datetime | None = None,
    progress: Progress = lambda _step, _count: None,
) -> ReconcileReport:
    """Publish what is missing of the contacts that ended in [window_start, window_end).

    Args:
        settings: The platform's.
        tenant: A CXone tenant.
        window_start: Aware, inclusive.
        window_end: Aware, exclusive. Leave webhooks some minutes to come: what is under way counts as missing.
        publish: False for a dry run: nothing is written, and no topic is made.
        now: Against which ages are measured, of missing events and of what is set aside; default the clock.
        progress: Told of the steps.

    Raises:
        ConfigurationError: the window has no time zone or is empty, credentials are wrong, or a scope is missing.
        VendorRefusedError: the vendor finds fault with the request.
        ServiceUnavailableError: REST, Kafka, the registry or a spool does not answer. Nothing was written, or, if Kafka
            ceased to acknowledge, a part; repeating is harmless.
    """
    start, end = _window(window_start, window_end)
    connection = connection_of(tenant, CxoneConnection)
    now = now or datetime.now(UTC)
    warn_if_missing(settings.spool_dir)
    with closing(Matching(REST_NEAR_MS)) as matching:
        steady, states_since_ms = asyncio.run(_fetch(connection, matching, start, end))
        progress("contacts", matching.contact_count())
        if publish:
            ensure_topics(settings.kafka, [tenant])
        with closing(Registry(settings.registry)) as registry, BusWindow(settings, tenant, registry.decoder()) as bus:
            reach_ms = to_ms(start - timedelta(hours=connection.longest_contact_hours))
            if (complete_since := bus.complete_since()) is not None:
                reach_ms = max(reach_ms, to_ms(complete_since))
            not_judged = _expect(matching, tenant.tenant_id, states_since_ms, reach_ms, to_ms(end) + REST_NEAR_MS)
            progress("too old to be looked for", not_judged)
            _look(settings, tenant, matching, bus, start, now)
            progress("records on the bus that are no events", bus.undecodable)
            tally = matching.settle()
            missing = sum(tally.missing.values())
            progress("missing", missing)
            bad_rows = sum(1 for _ in matching.new_bad())
            ages: Counter[str] = Counter()
            published = 0
            found = _missing_events(matching, tenant.tenant_id, states_since_ms, ages, to_ms(now))
            if publish and (missing or bad_rows):
                published = _publish(
                    Publisher(settings, registry.encoder(), "cxone-reconcile"), tenant, matching, found
                )
            else:
                for _ in found:  # counts the ages
                    pass
            progress("published", published)
            report = ReconcileReport(
                tenant_id=tenant.tenant_id,
                window_start=start,
                window_end=end,
                contacts=matching.contact_count(),
                by_type=_by_type(tally),
                published=published,
                ages=dict(ages),
                bad_rows=bad_rows,
                not_judged=not_judged,
                undecodable=bus.undecodable,
                steady=steady,
            )
    log.info(
        "reconciled", tenant_id=tenant.tenant_id, expected=report.expected, missing=missing, published=published,
        bad_rows=bad_rows, not_judged=not_judged,
    )  # fmt: skip
    return report


def _window(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    for name, instant in (("window_start", start), ("window_end", end)):
        if instant.tzinfo is None or instant.utcoffset() is None:
            msg = f"{name} is {instant.isoformat()} without a time zone: append Z or an offset"
            raise ConfigurationError(msg)
    if start >= end:
        msg = (
            f"window_start {start.isoformat()} is not before window_end {end.isoformat()}: "
            "exchange them, or give a later window_end"
        )
        raise ConfigurationError(msg)
    return start.astimezone(UTC), end.astimezone(UTC)


async def _fetch(
    connection: CxoneConnection, matching: Matching, start: datetime, end: datetime
) -> tuple[bool, int | None]:
    """Step 1. Gives whether the lists stood still, and from when states were asked for, epoch ms."""
    async with httpx.AsyncClient(timeout=_REST_TIMEOUT_S) as http:
        api = contacts_api(http, connection)
        earliest = await _fetch_contacts(api, matching, start, end)
        since: datetime | None = None
        if earliest is not None:
            longest = timedelta(hours=connection.longest_contact_hours)
            # No further back than the first contact began; a minute, since states may be told as earlier than it.
            since = max(start - longest, from_ms(earliest) - timedelta(minutes=1))
            await _fetch_states(api, matching, since, end)
        return api.steady, None if since is None else to_ms(since)


async def _fetch_contacts(api: ContactsApi, matching: Matching, start: datetime, end: datetime) -> int | None:
    """Gives when the first of them began, epoch ms."""
    earliest: int | None = None
    async for rows in api.completed(start, end):
        good: list[tuple[str, Json]] = []
        bad: list[BadRow] = []
        for row in rows:
            try:
                contact, began = contact_id(row), started_ms(row)
            except BadEventError as error:
                bad.append(_bad(row, error))
            else:
                good.append((contact, row))
                earliest = began if earliest is None else min(earliest, began)
        matching.add_contacts(good)
        matching.add_bad(bad)
    return earliest


async def _fetch_states(api: ContactsApi, matching: Matching, since: datetime, end: datetime) -> None:
    async for rows in api.states(min(since, end), end):
        good = []
        bad: list[BadRow] = []
        for row in rows:
            try:
                good.append((contact_id(row), state_of(row)))
            except BadEventError as error:
                bad.append(_bad(row, error))
        matching.add_states(good)
        matching.add_bad(bad)


def _bad(row: Json, error: BadEventError) -> BadRow:
    return BadRow(orjson.dumps(row), str(error), error.reason, error.path)


def _expect(matching: Matching, tenant_id: str, states_since_ms: int | None, reach_ms: int, end_ms: int) -> int:
    """Step 2. Gives how many events lie before ``reach_ms``, or can't be told, and so are not looked for."""
    earlier = 0
    bad: list[BadRow] = []
    for number, row, states in matching.contacts():
        try:
            natives = expected_events(row, states, tenant_id, states_since_ms)
        except BadEventError as error:
            bad.append(_bad(row, error))
            continue
        # A vendor that ignores `until` tells of contacts whose webhooks may be under way.
        if natives[-1].events[0]["timestamp"] < end_ms:
            earlier += matching.expect(number, natives, reach_ms)
            if lacks_head(row, states, states_since_ms):
                earlier += 1  # its first leg
    matching.add_bad(bad)
    return earlier


def _look(  # noqa: PLR0917 (one step of the run, with all that it needs)
    settings: Settings, tenant: Tenant, matching: Matching, bus: BusWindow, start: datetime, now: datetime
) -> None:
    """Steps 3 and 4, in this order: what leaves a spool meanwhile is on the bus before its watermark is asked."""
    since = start if matching.earliest_ms is None else from_ms(matching.earliest_ms - REST_NEAR_MS)
    # What happened since then was not received before, but for clocks that differ.
    since_us = max(to_ms(since - timedelta(minutes=5)), 0) * 1000
    for body in pending_bodies(settings.spool_dir, tenant.tenant_id, since_us):
        _see_body(matching, body, tenant.tenant_id, Source.SPOOL)
    # Anybody may have written them. They get an hour to prove themselves; then REST's word is enough, and a webhook
    # that is proven still later is the published event's twin.
    young_us = to_ms(now - DEFERRED_COUNTS) * 1000
    for body in deferred_bodies(settings.spool_dir, tenant.tenant_id, max(since_us, young_us)):
        _see_body(matching, body, tenant.tenant_id, Source.DEFERRED)
    for letters in bus.dead_letters(min(start, since)):
        for letter in letters:
            _see_dead_letter(matching, letter, tenant.tenant_id)
    if matching.latest_ms is None:
        return
    until = from_ms(matching.latest_ms + REST_NEAR_MS + 1)
    for events in bus.events(since, until):
        matching.see(events, Source.PUSHED)


def _see_body(matching: Matching, body: bytes, tenant_id: str, source: Source) -> None:
    events, failure = normalise_body(normaliser(VENDOR), body, tenant_id)
    matching.see(events, source)
    if failure is not None and source == Source.SPOOL:  # a dead letter to be
        _see_unfit(matching, body, tenant_id)


def _see_dead_letter(matching: Matching, letter: DeadLetter, tenant_id: str) -> None:
    if letter.value is None or letter.headers.get("ccaas.error.reason") == UNTRUSTED.encode():
        return
    if letter.headers.get("__connect.errors.stage") == STAGE.encode():
        matching.know_bad(letter.value)
    else:
        _see_unfit(matching, letter.value, tenant_id)


def _see_unfit(matching: Matching, body: bytes, tenant_id: str) -> None:
    """Note the events of a webhook's body that is a dead letter, by what can still be read of them.

    Of an array only those that can't become canonical: the others were published.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    elements = document if isinstance(document, list) else [document]
    for element in elements[:MAX_EVENTS]:
        if element is not document and _is_fit(element, tenant_id):
            continue
        try:
            contact, kind = contact_id(element), element.get("eventType")
        except BadEventError:
            continue
        if isinstance(kind, str):
            matching.see_dead(contact, kind, orjson.dumps(element))


def _is_fit(element: Json, tenant_id: str) -> bool:
    vendor = normaliser(VENDOR)
    try:
        vendor.normalise_document(vendor.require_object(element), tenant_id)
    except BadEventError:
        return False
    return True


def _missing_events(
    matching: Matching, tenant_id: str, states_since_ms: int | None, ages: Counter[str], now_ms: int
) -> Iterator[CanonicalEvent]:
    """The missing events, made again; counts their ages."""
    for row, states, places in matching.missing():
        natives = expected_events(row, states, tenant_id, states_since_ms)
        for native, event in sorted(places):
            found = natives[native].events[event]
            ages[age_class((now_ms - found["timestamp"]) / 1000)] += 1
            yield found


def _publish(publisher: Publisher, tenant: Tenant, matching: Matching, events: Iterator[CanonicalEvent]) -> int:
    """Step 5. Gives how many events are acknowledged: all."""
    waiting = 0
    published = 0
    received_us = time.time_ns() // 1000

    def acknowledged() -> None:
        nonlocal waiting
        waiting -= 1

    try:
        for event in events:
            try:
                value = publisher.encode(event)
            except BadEventError as error:
                matching.add_bad([_bad(event, error)])
                continue
            _wait(publisher, tenant, publisher.has_room)
            waiting += 1
            published += 1
            publisher.publish(
                tenant, event, value, received_us=received_us, transport=TRANSPORT, acknowledged=acknowledged
            )
        for row in matching.new_bad():
            fault = BadEventError(row.message, reason=row.reason, path=row.path)
            _wait(publisher, tenant, publisher.has_room)
            waiting += 1
            headers = dead_letter_headers(fault, stage=STAGE, transport=TRANSPORT)
            publisher.dead_letter(tenant, key=None, value=row.body, headers=headers, acknowledged=acknowledged)
        _wait(publisher, tenant, lambda: waiting == 0)
    finally:
        publisher.close()
    return published


def _wait(publisher: Publisher, tenant: Tenant, done: Callable[[], bool]) -> None:
    """Wait for Kafka's acknowledgements.

    Raises:
        ServiceUnavailableError: Kafka refused a record, or acknowledged nothing for long.
    """
    queued, heard = publisher.queued, time.monotonic()
    while not done():
        publisher.poll(0.05)
        if (refusal := publisher.take_refusal(tenant)) is not None:
            msg = f"Kafka refuses records of tenant {tenant.tenant_id} ({refusal.str()}); mend it and run again"
            raise ServiceUnavailableError(msg)
        if publisher.queued != queued:
            queued, heard = publisher.queued, time.monotonic()
        elif time.monotonic() - heard > _SILENT_S:
            msg = f"Kafka acknowledged nothing for {_SILENT_S:.0f} s, {queued} records wait; run again"
            raise ServiceUnavailableError(msg)


def _by_type(tally: Tally) -> dict[str, TypeCount]:
    found = tally.found
    return {
        kind: TypeCount(
            expected=expected,
            pushed=found[Source.PUSHED][kind],
            recovered=found[Source.RECONCILED][kind],
            in_spool=found[Source.SPOOL][kind],
            deferred=found[Source.DEFERRED][kind],
            dead_letters=tally.dead[kind],
            missing=tally.missing[kind],
        )
        for kind, expected in sorted(tally.expected.items())
        if expected
    }
