"""Each vendor's dead letters go through the code that made them: arrays, rows of REST, and what is asked for again."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.normalise import normaliser
from streaming.errors import BadEventError
from streaming.reprocess.selection import Left
from streaming.vendors import known_vendors
from streaming.vendors.genesys.details import conversation_messages
from tests.conftest import Platform
from tests.schemas.messages import cxone, ended, genesys
from tests.streaming.reprocess.letters import Letters, json_of, outcomes

STATE = {"agentId": 7, "agentStateName": "Available", "startDate": "2026-11-23T09:00:00Z"}


@pytest.fixture
def south(platform: Platform) -> Letters:
    return Letters(platform, "cxone")


@pytest.fixture
def north(platform: Platform) -> Letters:
    return Letters(platform, "genesys")


def test_an_array_of_which_one_is_bad_is_published_but_for_that_one(south: Letters) -> None:
    body = [cxone("CALL_STARTED", contactId="c-1"), {"eventType": "CALL_STARTED"}, ended(contactId="c-2")]
    south.put(body)
    assert outcomes(south.run()) == {"failed_again": 1}
    assert {event["payload"]["conversation_id"] for event in south.events()} == {"c-1", "c-2"}
    said, value = south.dead()[-1]
    assert (said.path, said.attempt, json_of(value)) == ("[].timestamp", 2, body)


def test_fix_ups_are_tried_on_each_element_of_an_array(south: Letters) -> None:
    body = [cxone("CALL_STARTED", contactId=..., contactID=f"c-{number}") for number in range(3)]
    south.put([*body, cxone("CALL_STARTED", contactId="c-3")])
    assert outcomes(south.run({"op": "rename", "path": "contactID", "to": "contactId"})) == {"replayed": 1}
    assert {event["payload"]["conversation_id"] for event in south.events()} == {"c-0", "c-1", "c-2", "c-3"}


@pytest.mark.parametrize(("body", "reason"), [([], "empty"), ([1] * 10_001, "too_large"), ([[]], "unparsable")])
def test_arrays_that_are_none_of_events(south: Letters, body: Any, reason: str) -> None:
    south.put(body)
    assert outcomes(south.run()) == {"failed_again": 1}
    assert south.dead()[-1][0].reason == reason


def test_a_row_of_agent_states_is_replayed_as_it_was_polled(south: Letters) -> None:
    south.put(STATE | {"startDate": "2026-11-23T09:00:00"}, STATE | {"agentStateName": None}, transport="rest")
    fix = {"op": "set", "path": "startDate", "value": "2026-11-23T09:00:00Z"}
    assert outcomes(south.run(fix)) == {"replayed": 1, "failed_again": 1}
    (event,) = south.events()
    assert (event["event_type"], event["payload"]) == (
        "agent.status_changed",
        {"agent_id": "7", "agent_status": "IDLE"},
    )
    wanted = normaliser("cxone").normalise_document({**STATE, "eventType": "AGENT_STATE"}, south.tenant.tenant_id)
    assert event["event_id"] == wanted[0]["event_id"]
    assert b"agentStateName" in (south.dead()[-1][1] or b""), "the row as it came, without what the poller adds"
    assert json_of(south.dead()[-1][1]).get("eventType") is None


def test_a_row_of_contacts_is_left_to_reconciliation(south: Letters) -> None:
    south.put({"contactId": "c-1"}, stage="reconcile", transport="rest")
    assert south.run().left == {Left.ASKED_AGAIN: 1}
    assert south.events() == []


def conversation(**session: Any) -> dict[str, Any]:
    """A conversation of REST details: the customer's call, from a queue."""
    at = "2026-11-23T09:00:{:02}.000Z".format
    customer = {"segmentStart": at(0), "segmentEnd": at(30), "segmentType": "interact", "disconnectType": "peer"}
    queue = {"segmentStart": at(1), "segmentEnd": at(9), "segmentType": "interact", "queueId": "PS"}
    metrics = [{"name": "tAbandon", "value": 8000}]
    media = {"mediaType": "voice", "direction": "inbound", **session}
    return {
        "conversationId": "c-1", "conversationEnd": at(30), "originatingDirection": "inbound",
        "participants": [
            {"purpose": "customer", "sessions": [{**media, "segments": [customer]}]},
            {"purpose": "acd", "sessions": [{**media, "segments": [queue], "metrics": metrics}]},
        ],
    }  # fmt: skip


def test_a_row_of_details_becomes_what_the_stream_would_have_brought(north: Letters) -> None:
    row = conversation()
    north.put(row, stage="details", transport="rest")
    assert outcomes(north.run()) == {"replayed": 1}
    vendor, tenant_id = normaliser("genesys"), north.tenant.tenant_id
    wanted = [e for m in conversation_messages(row) for e in vendor.normalise_document(m, tenant_id)]
    assert len(wanted) == 4
    assert {event["event_id"] for event in north.events()} == {event["event_id"] for event in wanted}


def test_a_row_of_details_that_is_none_fails_again_as_a_row(north: Letters) -> None:
    user = {"userId": "u-1", "routingStatus": [{"routingStatus": "IDLE", "startTime": "2026-11-23T09:00:00Z"}]}
    north.put([], 7, {"conversationId": "c", "participants": 3}, user, stage="details", transport="rest")
    assert outcomes(north.run()) == {"replayed": 1, "failed_again": 3}
    assert [said.stage for said, _ in north.dead()[-3:]] == ["details"] * 3
    (event,) = north.events()
    assert event["payload"] == {"agent_id": "u-1", "agent_status": "IDLE"}


def test_only_the_streams_that_the_tenant_takes(platform: Platform) -> None:
    letters = Letters(platform, "genesys", "queues")
    connection = letters.tenant.connection | {"streams": ["routing"]}
    letters.tenant = letters.tenant.model_copy(update={"connection": connection})
    letters.put(conversation(), stage="details", transport="rest")
    letters.run()
    kinds = {event["event_type"] for event in letters.events()}
    assert kinds == {"conversation.queued", "conversation.abandoned"}


def test_a_frame_of_the_stream(north: Letters) -> None:
    north.put(genesys("customer.start"), [genesys("customer.start")], transport="sse",
              error=BadEventError("x", reason="wrong_type", path="eventBody.eventTime"))  # fmt: skip
    assert outcomes(north.run()) == {"replayed": 1, "failed_again": 1}, "an array is no frame"


def test_every_vendor_says_how_its_dead_letters_are_replayed() -> None:
    for vendor in known_vendors():
        assert callable(__import__(f"streaming.vendors.{vendor}", fromlist=["REPLAY"]).REPLAY)
