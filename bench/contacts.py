"""A day of contacts as CXone's REST and its webhooks tell of it, and REST as a process of its own.

``python -m bench.contacts PORT CONTACTS`` serves tokens and both lists. Everything is a function of a contact's
number, so nothing is kept: the day may be of any size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Response

from bench.messages import cxone

DAY = datetime(2026, 11, 23, tzinfo=UTC)
MISSING_ONE_IN = 100
LASTS_S = 137
_LIST = "/inContactAPI/services/v30.0/contacts"
_STATES = (("PreQueue", 0), ("InQueue", 0), ("Active", 17), ("EndContact", LASTS_S))


def started(number: int, contacts: int) -> datetime:
    """When a contact begins; all begin and end within the day, evenly."""
    return DAY + timedelta(milliseconds=(86_400_000 - LASTS_S * 1000) * number // contacts)


def webhooks(number: int, contacts: int) -> list[dict[str, Any]]:
    """What the contact's webhooks told, 1 % of the calls without the one that enters the queue, begins or ends."""
    call, at = f"call-{number}", started(number, contacts)
    skill, agent = {"skillId": f"S{number % 6}"}, {"agentId": f"AGENT{number % 40}"}
    summary = {
        "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 120, "holdSeconds": 0, "acwSeconds": 0,
        "totalDurationSeconds": LASTS_S, "endReason": "Contact Ended",
    }  # fmt: skip
    told = [
        cxone("CALL_STARTED", call, at),
        cxone("QUEUE_ENTERED", call, at, **skill),
        cxone("AGENT_ASSIGNED", call, at + timedelta(seconds=17), **skill, **agent),
        cxone("CALL_ENDED", call, at + timedelta(seconds=LASTS_S), **skill, **agent, **summary),
    ]
    # One webhook in a hundred: each contact sends four.
    if number % (MISSING_ONE_IN // 4) == 0:
        del told[number // (MISSING_ONE_IN // 4) % 4]
    return told


def _completed(number: int, contacts: int) -> dict[str, Any]:
    call = f"call-{number}"
    return {
        "contactId": call, "masterContactId": call, "contactStartDate": _second(started(number, contacts)),
        "skillId": f"S{number % 6}", "agentId": f"AGENT{number % 40}", "inQueueSeconds": 17, "agentSeconds": 120,
        "holdSeconds": 0, "acwSeconds": 0, "totalDurationSeconds": LASTS_S, "abandoned": False,
        "mediaTypeName": "Call", "isOutbound": False, "fromAddress": "+15550100", "toAddress": "+15550199",
        "endReason": "Contact Ended",
    }  # fmt: skip


def _state(number: int, contacts: int) -> dict[str, Any]:
    number, place = divmod(number, len(_STATES))
    name, after = _STATES[place]
    at = started(number, contacts) + timedelta(seconds=after)
    row = {"contactId": f"call-{number}", "contactStateName": name, "stateStartDate": _second(at)}
    return row | ({"skillId": f"S{number % 6}", "agentId": f"AGENT{number % 40}"} if place else {})


def _second(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def app(contacts: int) -> FastAPI:
    """The vendor's REST of the day."""
    vendor = FastAPI()

    def page(name: str, rows: int, row: Callable[[int, int], dict[str, Any]], skip: int, top: int) -> Response:
        found = [row(number, contacts) for number in range(skip, min(skip + top, rows))]
        body = {"lastPollTime": _second(DAY + timedelta(days=1)), "totalRecords": rows, name: found}
        return Response(orjson.dumps(body)) if found else Response(status_code=204)

    @vendor.get("/")
    def alive() -> Response:
        return Response()

    @vendor.post("/token")
    def token() -> dict[str, Any]:
        return {"access_token": "t", "expires_in": 3600}

    @vendor.get(f"{_LIST}/completed")
    def completed(skip: int, top: int) -> Response:
        return page("completedContacts", contacts, _completed, skip, top)

    @vendor.get(f"{_LIST}/state-history")
    def state_history(skip: int, top: int) -> Response:
        return page("contactStates", contacts * len(_STATES), _state, skip, top)

    return vendor


if __name__ == "__main__":
    uvicorn.run(app(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
