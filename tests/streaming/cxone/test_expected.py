"""REST rows become the very events that the webhooks would have become."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.canonical import RECOVERED_KEY
from schemas.normalise import normaliser
from streaming.errors import BadEventError
from streaming.vendors.cxone.expected import State, contact_id, expected_events, lacks_head, state_of
from tests.streaming.cxone.vendor_rest import contact, state, states

HEAD = {
    "contactId": "c-0", "masterContactId": "m-0", "mediaType": "Call", "isOutbound": False, "fromAddr": "1",
    "toAddr": "2",
}  # fmt: skip
PLACE = {"skillId": "PS", "agentId": "ANNA"}
SUMMARY = {
    "abandoned": False, "inQueueSeconds": 17, "agentSeconds": 120, "holdSeconds": 10, "acwSeconds": 0,
    "totalDurationSeconds": 137, "endReason": "Contact Ended",
}  # fmt: skip


def webhook(kind: str, clock: str, **body: Any) -> list[Any]:
    document = {"eventType": kind, "timestamp": f"2026-11-23T{clock}.000Z", "eventId": "e", **HEAD, **body}
    return normaliser("cxone").normalise_document(document, "south")


def made(row: dict[str, Any], *rows: dict[str, Any]) -> list[Any]:
    natives = expected_events(row, sorted(map(state_of, rows)), "south")
    return [event for native in natives for event in native.events]


def bare(events: list[Any]) -> list[Any]:
    """Without what tells the way by which an event came."""
    return [{key: value for key, value in event.items() if key != "metadata"} for event in events]


ANSWERED = [
    *webhook("CALL_STARTED", "09:00:00"),
    *webhook("QUEUE_ENTERED", "09:00:00", skillId="PS"),
    *webhook("AGENT_ASSIGNED", "09:00:17", **PLACE),
    *webhook("CALL_ENDED", "09:02:17", **PLACE, **SUMMARY),
]


def test_an_answered_contact_equals_its_webhooks() -> None:
    found = made(contact(0), *states(0))
    assert bare(found) == bare(ANSWERED)
    assert {event["metadata"][RECOVERED_KEY] for event in found} == {"reconciled"}


@pytest.mark.parametrize("lost", ["PreQueue", "InQueue", "Active", "EndContact"])
def test_a_state_that_is_missing_is_derived(lost: str) -> None:
    rows = [row for row in states(0) if row["contactStateName"] != lost]
    assert bare(made(contact(0), *rows)) == bare(ANSWERED)


def test_without_any_state_all_is_derived() -> None:
    assert bare(made(contact(0))) == bare(ANSWERED)
    at_once = bare(made(contact(0, inQueueSeconds=0, totalDurationSeconds=120)))
    assert [event["event_type"] for event in at_once] == [
        "conversation.started", "conversation.queued", "conversation.assigned", "conversation.handled",
        "conversation.ended",
    ]  # fmt: skip


def test_a_caller_who_gives_up() -> None:
    gone = {"abandoned": True, "inQueueSeconds": 30, "agentSeconds": 0, "holdSeconds": 0, "totalDurationSeconds": 30}
    in_queue = made(
        contact(0, agentId=..., **gone),
        state(0, "PreQueue", 0),
        state(0, "InQueue", 0, skillId="PS"),
        state(0, "EndContact", 30, skillId="PS"),
    )
    assert bare(in_queue) == bare(
        [
            *webhook("CALL_STARTED", "09:00:00"),
            *webhook("QUEUE_ENTERED", "09:00:00", skillId="PS"),
            *webhook("CALL_ENDED", "09:00:30", skillId="PS", **SUMMARY | gone),
        ]
    )
    assert [event["event_type"] for event in in_queue][2:] == ["conversation.abandoned", "conversation.ended"]

    before = made(
        contact(0, agentId=..., skillId=..., **gone | {"inQueueSeconds": 0}),
        state(0, "PreQueue", 0),
        state(0, "EndContact", 30),
    )
    assert [event["event_type"] for event in before] == ["conversation.started", "conversation.ended"]


def test_a_wait_rounded_to_nothing_is_taken_from_the_states() -> None:
    found = made(
        contact(0, agentId=..., abandoned=True, inQueueSeconds=0),
        state(0, "InQueue", 10, skillId="PS"),
        state(0, "EndContact", 11, skillId="PS"),
    )
    assert [event["payload"].get("wait_ms") for event in found] == [None, None, "1000", "1000"]


def test_a_transfer_enters_two_queues_and_a_hold_is_no_second_answer() -> None:
    found = made(
        contact(0, agentId="BERT", skillId="NW"),
        state(0, "PreQueue", 0),
        state(0, "InQueue", 1, skillId="PS"),
        state(0, "Active", 5, skillId="PS", agentId="ANNA"),
        state(0, "Hold", 20, skillId="PS", agentId="ANNA"),
        state(0, "Active", 30, skillId="PS", agentId="ANNA"),
        state(0, "InQueue", 40, skillId="NW"),
        state(0, "Active", 50, skillId="NW", agentId="BERT"),
        state(0, "EndContact", 137),
    )
    turns = [
        (event["event_type"].rpartition(".")[2], event["payload"]["queue_id"], event["payload"].get("agent_id"))
        for event in found
        if "queue_id" in event["payload"]
    ]
    assert turns == [
        ("queued", "PS", None), ("queued", "NW", None), ("assigned", "PS", "ANNA"), ("assigned", "NW", "BERT"),
        ("handled", "NW", "BERT"),
    ]  # fmt: skip


NINE_MS = 1_795_424_400_000


def kinds_of(row: dict[str, Any], *rows: dict[str, Any], since_ms: int) -> list[str]:
    natives = expected_events(row, [state_of(item) for item in rows], "south", since_ms)
    return [native.kind for native in natives]


@pytest.mark.parametrize("later", [[], [state(0, "Hold", 50, skillId="PS", agentId="ANNA")]])
def test_a_history_without_its_head_tells_of_no_first_leg(later: list[dict[str, Any]]) -> None:
    """The contact was answered at 09:00:17 and resumed at 09:01:30; states were asked for from 09:00:40 on."""
    rows = [
        *later, state(0, "Active", 90, skillId="PS", agentId="ANNA"),
        state(0, "EndContact", 137, skillId="PS", agentId="ANNA"),
    ]  # fmt: skip
    assert lacks_head(contact(0), [state_of(row) for row in rows], NINE_MS + 40_000)
    assert kinds_of(contact(0), *rows, since_ms=NINE_MS + 40_000) == ["CALL_STARTED", "CALL_ENDED"]
    (*_, ended) = expected_events(contact(0), [state_of(row) for row in rows], "south", NINE_MS + 40_000)
    assert [event["event_type"] for event in ended.events] == ["conversation.handled", "conversation.ended"]
    assert kinds_of(contact(0), since_ms=NINE_MS + 40_000) == ["CALL_STARTED", "CALL_ENDED"], "nothing is derived"


def test_what_came_after_the_lost_head_is_certain() -> None:
    rows = [
        state(0, "Active", 50, skillId="PS", agentId="ANNA"),
        state(0, "Active", 60, skillId="PS", agentId="BERT"),
        state(0, "InQueue", 70, skillId="NW"),
        state(0, "Active", 80, skillId="NW", agentId="BERT"),
        state(0, "EndContact", 137),
    ]
    found = kinds_of(contact(0), *rows, since_ms=NINE_MS + 40_000)
    assert found == ["CALL_STARTED", "QUEUE_ENTERED", "AGENT_ASSIGNED", "AGENT_ASSIGNED", "CALL_ENDED"]


def test_a_history_that_could_hold_all_is_complete() -> None:
    row, rows = contact(0), states(0)
    assert not lacks_head(row, [], NINE_MS)
    assert not lacks_head(row, [state_of(item) for item in rows], NINE_MS + 40_000), "it begins with PreQueue"
    assert kinds_of(row, rows[2], rows[3], since_ms=NINE_MS) == [
        "CALL_STARTED", "QUEUE_ENTERED", "AGENT_ASSIGNED", "CALL_ENDED",
    ]  # fmt: skip


def test_an_answer_in_the_second_of_the_queue_entry() -> None:
    found = made(
        contact(0, inQueueSeconds=0),
        state(0, "Active", 5, skillId="PS", agentId="ANNA"),
        state(0, "Active", 40, skillId="PS", agentId="ANNA"),
        state(0, "InQueue", 40, skillId="PS"),
        state(0, "EndContact", 137),
    )
    assert [event["event_type"] for event in found].count("conversation.assigned") == 2


def test_an_outbound_call_without_states_was_in_no_queue() -> None:
    kinds = [event["event_type"] for event in made(contact(0, isOutbound=True, inQueueSeconds=0))]
    assert "conversation.queued" not in kinds


def test_wrapup_under_either_spelling() -> None:
    for name in ("acwSeconds", "ACWSeconds"):
        row = contact(0, **{"acwSeconds": ..., name: 20})
        assert [event["payload"].get("acw_ms") for event in made(row, *states(0))][4] == "20000"


def test_numbers_are_ids_too() -> None:
    found = made(contact(0, contactId=7, skillId=8, agentId=9))
    assert found[0]["payload"]["conversation_id"] == "7"
    assert (found[2]["payload"]["queue_id"], found[2]["payload"]["agent_id"]) == ("8", "9")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"contactId": ...}, "contactId"),
        ({"contactId": True}, "contactId"),
        ({"contactStartDate": ...}, "contactStartDate"),
        ({"contactStartDate": "yesterday"}, "contactStartDate"),
        ({"contactStartDate": "2026-11-23T09:00:00"}, "contactStartDate"),
        ({"contactStartDate": "1969-12-31T23:59:59Z"}, "contactStartDate"),
        ({"contactStartDate": 7}, "contactStartDate"),
        ({"inQueueSeconds": "17"}, "inQueueSeconds"),
        ({"inQueueSeconds": -1}, "inQueueSeconds"),
        ({"abandoned": "no"}, "abandoned"),
        ({"abandoned": ...}, "abandoned"),
        ({"totalDurationSeconds": ...}, "totalDurationSeconds"),
        ({"skillId": []}, "skillId"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_field(change: dict[str, Any], path: str) -> None:
    with pytest.raises(BadEventError) as error:
        expected_events(contact(0, **change), [], "south")
    assert error.value.path == path


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"contactStateName": "Active"}, "stateStartDate"),
        ({"contactStateName": 7, "stateStartDate": "2026-11-23T09:00:00Z"}, "contactStateName"),
        ({"contactStateName": "Active", "stateStartDate": "2026-11-23T09:00:00Z", "agentId": {}}, "agentId"),
    ],
)
def test_a_state_that_cannot_be_used_names_its_field(row: dict[str, Any], path: str) -> None:
    with pytest.raises(BadEventError) as error:
        state_of(row)
    assert error.value.path == path


def test_what_is_no_object_has_no_contact() -> None:
    with pytest.raises(BadEventError, match="JSON object"):
        contact_id(["c-0"])


def test_states_of_one_instant_keep_their_place() -> None:
    assert state_of(state(0, "InQueue", 0, skillId="PS")) == State(1_795_424_400_000, "InQueue", "PS", None)
