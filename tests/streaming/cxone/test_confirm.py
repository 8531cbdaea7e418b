"""What REST confirms, over real HTTP, and above all what it does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from schemas.canonical import CanonicalEvent
from schemas.normalise import MAX_TIMESTAMP_MS, normaliser
from streaming.oauth import TokenSource
from streaming.rest import RestClient
from streaming.vendors.cxone.confirm import MAX_WINDOWS, Question, Truth, ask
from streaming.vendors.cxone.contacts import ContactsApi
from streaming.vendors.cxone.messages import normalise_body
from tests.schemas.messages import cxone, ended, raw
from tests.streaming.cxone.vendor_rest import VendorRest, contact, state, states

ARRIVED_US = int(datetime(2026, 11, 23, 9, 3, tzinfo=UTC).timestamp() * 1e6)


@pytest.fixture
def vendor() -> Iterator[VendorRest]:
    made = VendorRest()
    made.completed = [contact(1), contact(2, abandoned=True, agentId=...)]
    # Contact 3 is not over.
    made.states = [*states(1), *states(2)[:2], state(2, "EndContact", 17, skillId="PS"), *states(3)[:3]]
    yield made
    made.close()


def webhook(kind: str, at: str, number: int = 1, **more: Any) -> dict[str, Any]:
    """As the vendor sends it, to the millisecond."""
    place = {"CALL_STARTED": {"skillId": ..., "agentId": ...}, "QUEUE_ENTERED": {"agentId": ...}}.get(kind, {})
    fields = {
        "timestamp": f"2026-11-23T09:{at}Z", "contactId": f"c-{number}", "masterContactId": f"m-{number}",
        "skillId": "PS", "agentId": "ANNA",
    }  # fmt: skip
    return cxone(kind, **fields | place | more)


def end(number: int = 1, **more: Any) -> dict[str, Any]:
    numbers = {
        "inQueueSeconds": 17, "agentSeconds": 120, "holdSeconds": 10, "totalDurationSeconds": 137,
        "endReason": "Contact Ended",
    }  # fmt: skip
    return ended(**webhook("CALL_ENDED", "02:18.700", number) | numbers | more)


def claims(document: Any) -> list[CanonicalEvent]:
    events, failure = normalise_body(normaliser("cxone"), raw(document), "south")
    assert failure is None
    return events


async def asked(vendor: VendorRest, *documents: Any, tolerance: float = 5) -> list[bool]:
    """Whether each body is confirmed, all asked about together."""
    question = Question()
    bodies = [claims(document) for document in documents]
    for events in bodies:
        question.add(events, ARRIVED_US)
    async with httpx.AsyncClient() as http:
        tokens = TokenSource(http, token_url=f"{vendor.url}/token", client_id="i", client_secret="s", scope="")
        contacts = ContactsApi(RestClient(http, tokens), vendor.url)
        truth: Truth = await ask(contacts, question, tenant_id="south", tolerance=timedelta(seconds=tolerance))
    return [all(truth.confirms(event) for event in events) for events in bodies]


async def test_what_happened_is_confirmed(vendor: VendorRest) -> None:
    true = [
        webhook("CALL_STARTED", "00:01.999"),
        webhook("QUEUE_ENTERED", "00:01.250"),
        webhook("AGENT_ASSIGNED", "00:18.900"),
        end(),
        end(agentSeconds=119, inQueueSeconds=18, acwSeconds=...),  # differs as REST may
        [webhook("QUEUE_ENTERED", "00:01.250"), end()],
        webhook("CALL_STARTED", "00:02.999", 2),
        end(2, timestamp="2026-11-23T09:00:19.500Z", abandoned=True, agentId=..., agentSeconds=0, holdSeconds=0),
        webhook("AGENT_ASSIGNED", "00:20.100", 3),  # of a contact that is not over
        webhook("CALL_STARTED", "00:01.999", masterContactId=...),
    ]
    assert await asked(vendor, *true) == [True] * len(true)
    assert [path for path, _ in vendor.requests] == ["completed", "state-history"], "asked once for all"


FORGED: dict[str, Any] = {
    "contact unknown": webhook("CALL_STARTED", "00:01.999", 77),
    "never assigned": webhook("AGENT_ASSIGNED", "00:18.900", 2),
    "not over": end(3),
    "too early": webhook("CALL_STARTED", "00:07.500"),
    "another day": webhook("CALL_STARTED", "00:01.999", timestamp="2026-11-22T09:00:01Z"),
    "another queue": webhook("QUEUE_ENTERED", "00:01.250", skillId="XX"),
    "another agent": webhook("AGENT_ASSIGNED", "00:18.900", agentId="EVE"),
    "ended with another agent": end(agentId="EVE"),
    "ended without the agent": end(agentId=..., abandoned=True),
    "talked longer": end(agentSeconds=1200),
    "held longer": end(holdSeconds=60),
    "waited longer": end(inQueueSeconds=60),
    "lasted longer": end(totalDurationSeconds=900),
    "with wrap-up": end(acwSeconds=60),
    "abandoned": end(2, timestamp="2026-11-23T09:00:19.500Z", abandoned=True, agentId="ANNA"),
    "another reason": end(endReason="Somebody else"),
    "another caller": webhook("CALL_STARTED", "00:01.999", fromAddr="666"),
    "another line": webhook("CALL_STARTED", "00:01.999", toAddr="666"),
    "outbound": webhook("CALL_STARTED", "00:01.999", isOutbound=True),
    "a chat": webhook("CALL_STARTED", "00:01.999", mediaType="Chat"),
    "another parent": webhook("CALL_STARTED", "00:01.999", masterContactId="m-9"),
    "one of two": [webhook("CALL_STARTED", "00:01.999"), webhook("CALL_STARTED", "00:01.999", 77)],
    "an agent's state": {
        "eventType": "AGENT_STATE", "contactId": "c-1", "agentId": "ANNA", "agentStateName": "Available",
        "startDate": "2026-11-23T09:00:01Z",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
async def test_what_rest_does_not_say_is_not_confirmed(vendor: VendorRest, name: str) -> None:
    true = webhook("CALL_STARTED", "00:01.999")
    assert await asked(vendor, FORGED[name], true) == [False, True]


async def test_malformed_rows_hide_no_others(vendor: VendorRest) -> None:
    vendor.states.insert(0, {"contactStateName": "PreQueue", "stateStartDate": "2026-11-23T09:00:00Z"})
    vendor.states.insert(0, state(1, "PreQueue", 0, contactId={"no": "id"}))
    vendor.states.insert(0, state(3, "PreQueue", 0, skillId=["no", "text"]))
    vendor.completed.insert(0, contact(9, contactId=None))
    vendor.completed.insert(0, contact(2, totalDurationSeconds="x", agentSeconds=[]))
    assert await asked(vendor, webhook("CALL_STARTED", "00:01.999"), end()) == [True, True]


async def test_nothing_to_ask_asks_nothing(vendor: VendorRest) -> None:
    assert await asked(vendor) == []
    assert await asked(vendor, FORGED["an agent's state"]) == [False]
    assert vendor.requests == []


def event(at_ms: int) -> CanonicalEvent:
    (made,) = claims(cxone("CALL_STARTED", timestamp=at_ms))
    return made


def test_hours_are_asked_for_together_and_forged_ones_are_bounded() -> None:
    question, hour_ms = Question(), 3_600_000
    arrived_ms = ARRIVED_US // 1000
    for at_ms in (0, MAX_TIMESTAMP_MS, arrived_ms + 25 * hour_ms):
        question.add([event(at_ms)], ARRIVED_US)
    for hours in range(5_000):  # a flood, each of its events in an hour of its own, alternately
        question.add([event(arrived_ms - 2 * hours * hour_ms - 100 * hour_ms)], ARRIVED_US)
    for hours in range(14):
        question.add([event(arrived_ms - hours * hour_ms)], ARRIVED_US)
    windows = question.windows()
    assert len(windows) == MAX_WINDOWS
    assert all(end_ms - start_ms <= 6 * hour_ms for start_ms, end_ms in windows)
    assert all(end_ms <= start_ms for (_, end_ms), (start_ms, _) in itertools.pairwise(windows))
    for hours in range(14):
        at_ms = arrived_ms - hours * hour_ms
        assert any(start_ms <= at_ms < end_ms for start_ms, end_ms in windows), "what is near its arrival is asked for"
    assert max(end_ms for _, end_ms in windows) <= arrived_ms + hour_ms


def test_the_clock_of_the_arrival_does_not_matter_in_a_replay() -> None:
    question = Question()
    question.add([event(int(datetime(1999, 1, 5, 10, tzinfo=UTC).timestamp() * 1000))], ARRIVED_US)
    ((start_ms, end_ms),) = question.windows()
    assert (datetime.fromtimestamp(start_ms / 1000, UTC).year, end_ms - start_ms) == (1999, 3_600_000)
