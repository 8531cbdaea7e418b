"""The ``conversations`` table that a trace must become, in plain Python straight from the raw file.

A yardstick as :mod:`tests.truth.from_trace`: it knows the file's columns, the meaning of a row (design, section 8) and
what each vendor tells of a call, and shares no code and no SQL with the platform.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.truth.trace_rows import Row

TENANTS = {"genesys": "bank-north", "cxone": "bank-south"}

_VENDORS = {"AA01": "genesys", "AA02": "cxone"}
# Events of a call that never queued, that gave up in the queue, and that an agent took: Genesys tells also that the
# agent's leg begins.
_EVENTS = {"genesys": (2, 4, 6), "cxone": (2, 4, 5)}


@dataclass(frozen=True)
class Call:
    """One call as it went, instants in UTC; ``None`` where it did not get there."""

    vendor: str
    conversation_id: str
    line: str
    queue_id: str
    caller: str | None
    agent_id: str | None
    started: datetime
    queued: datetime | None
    left_queue: datetime | None
    ended: datetime
    wait_ms: int
    talk_ms: int


def calls_of(path: Path, *, shift_days: int = 0, first_dates: int | None = None) -> list[Call]:
    """The calls of a trace (phantoms are none) in the file's order.

    Args:
        path: tab-separated trace, plain or gzip-compressed.
        shift_days: whole days by which every date is moved.
        first_dates: take only the calls of this many earliest dates.
    """
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
    dates = set(sorted({row["date"] for row in rows})[:first_dates])
    return [_call(row, shift_days) for row in rows if row["date"] in dates and row["outcome"] != "PHANTOM"]


def expected_conversations(calls: list[Call], tenants: Mapping[str, str] = TENANTS) -> list[dict[str, Any]]:
    """Rows of ``conversations``, all columns, in the file's order."""
    return [_conversation(call, tenants[call.vendor]) for call in calls]


def _call(row: Row, shift_days: int) -> Call:
    date = datetime.strptime(row["date"], "%y%m%d").replace(tzinfo=UTC) + timedelta(days=shift_days)
    clocks = _clocks(date, row)
    wait, talk = int(row["q_time"]), int(row["ser_time"])
    started, left_ivr = next(clocks), next(clocks)
    served = row["outcome"] == "AGENT"
    queued = next(clocks) if wait else left_ivr if served else None
    left_queue = queued + timedelta(seconds=wait) if queued else None
    ended = (left_queue or left_ivr) + timedelta(seconds=talk if served else 0)
    customer = row["customer_id"]
    return Call(
        vendor=_VENDORS[row["vru+line"][:4]],
        conversation_id=f"{row['vru+line']}-{date:%Y%m%d}-{row['call_id']}",
        line=row["vru+line"],
        queue_id=row["type"],
        caller=customer if customer.isdigit() and customer.strip("0") else None,
        agent_id=row["server"] if served else None,
        started=started,
        queued=queued,
        left_queue=left_queue,
        ended=ended,
        wait_ms=wait * 1000,
        talk_ms=talk * 1000 if served else 0,
    )


def _clocks(date: datetime, row: Row) -> Iterator[datetime]:
    """Entry to the IVR, exit, entry to the queue; a reading before its predecessor is of the next day."""
    # A negative vru_time is a fault of the recording: such a call began at vru_exit.
    names = ["vru_exit" if int(row["vru_time"]) < 0 else "vru_entry", "vru_exit", "q_start"]
    before = date
    for name in names:
        hours, minutes, seconds = map(int, row[name].split(":"))
        instant = before.replace(hour=hours, minute=minutes, second=seconds)
        before = instant if instant >= before else instant + timedelta(days=1)
        yield before


def _conversation(call: Call, tenant_id: str) -> dict[str, Any]:
    genesys = call.vendor == "genesys"
    served, queued = call.agent_id is not None, call.queued is not None
    hung_up = ("CLIENT", "PEER") if genesys else ("Contact Hung Up", "Contact Ended")
    scheme = "tel:" if genesys else ""
    return {
        "vendor": call.vendor,
        "tenant_id": tenant_id,
        "conversation_id": call.conversation_id,
        # CXone's master contact of a contact that was never transferred is itself.
        "parent_conversation_id": None if genesys else call.conversation_id,
        "media_type": "VOICE",
        "direction": "INBOUND",
        "ani": f"{scheme}{call.caller}" if call.caller else "anonymous",
        "dnis": f"{scheme}{call.line}",
        "started_at": call.started,
        "ended_at": call.ended,
        "first_event_at": call.started,
        "last_event_at": call.ended,
        "duration_ms": (call.ended - call.started) // timedelta(milliseconds=1),
        "first_queue_id": call.queue_id if queued else None,
        "last_queue_id": call.queue_id if queued else None,
        "last_agent_id": call.agent_id,
        "outcome": "ANSWERED" if served else "ABANDON" if queued else None,
        "end_reason": hung_up[served],
        "wrapup_code": None,
        "offered": int(queued),
        "answered": int(served),
        "abandoned": int(queued and not served),
        "flowed_out": 0,
        "legs": int(served),
        "wait_ms": call.wait_ms,
        "talk_ms": call.talk_ms,
        "hold_ms": 0,
        "acw_ms": 0,
        "events": _EVENTS[call.vendor][queued + served],
    }
