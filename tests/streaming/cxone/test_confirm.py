"""What REST confirms, over real HTTP, and above all what it does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
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


async def asked(vendor: VendorRest, *documents: Any, came: Sequence[Any] = (), tolerance: float = 5) -> list[bool]:
    """Whether each body is confirmed, all asked about together, in their order; ``came`` is on the bus already."""
    question = Question()
    bodies = [claims(document) for document in documents]
    for events in bodies:
        question.add(events, ARRIVED_US)
    async with httpx.AsyncClient() as http:
        tokens = TokenSource(http, token_url=f"{vendor.url}/token", client_id="i", client_secret="s")
        contacts = ContactsApi(RestClient(http, tokens), vendor.url)
        truth: Truth = await ask(
            contacts, question, tenant_id="south", tolerance=timedelta(seconds=tolerance), longest=timedelta(hours=24)
        )
        known = [event for document in came for event in claims(document)]
    truth.use(known)
    return [truth.confirms(events) for events in bodies]


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


async def test_what_happened_once_confirms_one_id(vendor: VendorRest) -> None:
    entries = [webhook("QUEUE_ENTERED", f"00:{second:02d}.250") for second in (1, 2, 3, 4, 5)]
    assert await asked(vendor, *entries, entries[0]) == [True, False, False, False, False, True]
    both = [entries[0], entries[1]]
    assert await asked(vendor, both, entries[1], entries[0]) == [False, True, False], "a refused body uses nothing up"


async def test_what_the_bus_has_is_used(vendor: VendorRest) -> None:
    genuine, shifted = (webhook("QUEUE_ENTERED", f"00:0{second}.250") for second in (1, 3))
    assert await asked(vendor, shifted, genuine, came=[genuine]) == [False, True]
    vendor.states.append(state(1, "InQueue", 3, skillId="PS"))
    assert await asked(vendor, shifted, genuine, came=[genuine]) == [True, True], "it entered twice"


def told(truth: Truth, second: int) -> None:
    truth.add(claims(webhook("QUEUE_ENTERED", f"00:{second:02d}"))[0])


def test_a_pushed_event_and_its_reconciled_twin_are_one() -> None:
    truth = Truth(5000)
    told(truth, 10)
    told(truth, 13)
    (pushed,), (reconciled,) = (claims(webhook("QUEUE_ENTERED", at)) for at in ("00:10.900", "00:11"))
    reconciled["metadata"][RECOVERED_KEY] = "reconciled"
    truth.use([reconciled, pushed])
    assert truth.confirms(claims(webhook("QUEUE_ENTERED", "00:13.500")))
    assert not truth.confirms(claims(webhook("QUEUE_ENTERED", "00:12.500")))


async def test_a_return_from_hold_is_no_assignment_whether_the_contact_is_over_or_not(vendor: VendorRest) -> None:
    for number in (1, 3):
        vendor.states += [
            state(number, "Hold", 40, skillId="PS", agentId="ANNA"),
            state(number, "Active", 60, skillId="PS", agentId="ANNA"),
        ]
    answers = [webhook("AGENT_ASSIGNED", "00:18.900"), webhook("AGENT_ASSIGNED", "00:20.100", 3)]
    returns = [webhook("AGENT_ASSIGNED", "01:01.900"), webhook("AGENT_ASSIGNED", "01:03.100", 3)]
    assert await asked(vendor, *answers, *returns) == [True, True, False, False]


async def test_a_contact_is_read_from_its_start(vendor: VendorRest) -> None:
    """It began at 09:55, returned from hold at 10:01, and all that is claimed lies in the hour after."""
    place = {"skillId": "PS", "agentId": "ANNA"}
    rows = [("PreQueue", -300, {}), ("InQueue", -300, {"skillId": "PS"}), ("Active", -280, place)]
    rows += [("Active", 60, place), ("InQueue", 90, {"skillId": "PS"}), ("Active", 100, place)]
    ten = datetime(2026, 11, 23, 10, tzinfo=UTC)
    for contact_id in ("c-1", "c-2"):
        vendor.states += [
            {"contactId": contact_id, "contactStateName": name, **more,
             "stateStartDate": (ten + timedelta(seconds=after)).isoformat()}
            for name, after, more in rows
        ]  # fmt: skip
    vendor.states = [row for row in vendor.states if row["stateStartDate"] > "2026-11-23T09:50"]
    vendor.completed = [contact(2, contactStartDate="2026-11-23T09:55:00Z", _ends="2026-11-23T10:05:00+00:00")]
    documents = [
        webhook("AGENT_ASSIGNED", "x", number, timestamp=f"2026-11-23T10:01:{second}.100Z")
        for number in (1, 2)
        for second in ("00", "40")
    ]
    assert await asked(vendor, *documents) == [False, True, False, True]


async def test_what_a_lost_head_may_have_told_is_not_confirmed(vendor: VendorRest) -> None:
    vendor.states = states(1)[2:]
    vendor.completed = [contact(1, contactStartDate="2026-11-20T09:00:00Z")]
    assert await asked(vendor, webhook("AGENT_ASSIGNED", "00:18.900")) == [False]


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
