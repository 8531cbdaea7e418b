"""The canonical events that a trace becomes, without a bus: the vendors' messages, normalised as the services do it.

So every way of loading begins with the events, and the ids, that the platform itself would have landed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson
import pyarrow as pa

from devstack.simulators import cxone_events, genesys_events, state_history
from devstack.simulators.agents import Status, StatusChange
from devstack.simulators.instants import iso
from devstack.simulators.schedule import Occurrence, build_schedule
from devstack.simulators.trace import read_trace
from schemas.canonical import CanonicalEvent
from schemas.normalise import normaliser
from streaming.sink.landing import SCHEMA, LandingZone
from streaming.sink.store import Store

TENANTS = {"genesys": "bank-north", "cxone": "bank-south"}

_IVR = {"genesys": "AA01", "cxone": "AA02"}
_STATE_NAMES = {Status.OFF_QUEUE: "Unavailable", Status.IDLE: "Available", Status.INTERACTING: "InboundContact"}


def canonical_events(
    trace: Path, *, tenants: Mapping[str, str] = TENANTS, shift_days: int = 0, first_dates: int | None = None
) -> list[CanonicalEvent]:
    """All events of both vendors by time.

    Args:
        trace: the trace.
        tenants: tenant of each vendor.
        shift_days: whole days by which every date is moved.
        first_dates: take only so many of the earliest dates.
    """
    events = [
        event
        for vendor, tenant_id in tenants.items()
        for event in _of_vendor(trace, vendor, tenant_id, shift_days, first_dates)
    ]
    return sorted(events, key=lambda event: event["timestamp"])


def _of_vendor(
    trace: Path, vendor: str, tenant_id: str, shift_days: int, first_dates: int | None
) -> Iterator[CanonicalEvent]:
    calls = read_trace(trace, ivr=_IVR[vendor], shift_days=shift_days, first_dates=first_dates)
    module, status = (genesys_events, genesys_events) if vendor == "genesys" else (cxone_events, state_history)
    for occurrence in build_schedule(calls, module.of_call, status.of_status):
        yield from normaliser(vendor).normalise(_message(vendor, occurrence), tenant_id)


def _message(vendor: str, occurrence: Occurrence) -> bytes:
    if vendor == "genesys":
        return orjson.dumps(genesys_events.message(occurrence))
    if not isinstance(occurrence.subject, StatusChange):
        return orjson.dumps(cxone_events.message(occurrence))
    change = occurrence.subject
    state = {"agentId": change.agent_id, "agentStateName": _STATE_NAMES[change.status], "startDate": iso(change.at_ms)}
    return orjson.dumps({**state, "eventType": cxone_events.AGENT_STATE})  # the type is the poller's


def land_events(store: Store, events: Sequence[CanonicalEvent], first_offset: int = 0) -> None:
    """One landing file, by the sink's own writer, with offsets in the order given."""
    if not events:
        return
    columns = {name: [event[name] for event in events] for name in ("event_id", "vendor", "tenant_id", "timestamp")}
    offsets = range(first_offset, first_offset + len(events))
    arrays = {
        **columns,
        "event_type": [event["event_type"] for event in events],
        "payload": [list(event["payload"].items()) for event in events],
        "metadata": [list(event["metadata"].items()) for event in events],
        "_topic": [f"ccaaus.events.{event['vendor']}.{event['tenant_id']}" for event in events],
        "_partition": [0] * len(events),
        "_offset": list(offsets),
        "_published_at": [event["timestamp"] for event in events],
    }
    rows = pa.table([pa.array(arrays[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
    LandingZone(store, "test").write(SCHEMA, [rows], {"topic": {0: (offsets[0], offsets[-1])}}, "0")
