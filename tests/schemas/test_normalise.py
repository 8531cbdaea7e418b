from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import EventType
from schemas.normalise import normaliser
from streaming.errors import BadEventError
from tests.schemas.messages import AT_MS, cxone, ended, genesys, raw

GENESYS = normaliser("genesys")
CXONE = normaliser("cxone")


def types(events: list[Any]) -> list[str]:
    return [event["event_type"] for event in events]


@pytest.mark.parametrize(
    ("message", "canonical"),
    [
        (genesys("customer.start"), EventType.STARTED),
        (genesys("acd.start", queueId="PS"), EventType.QUEUED),
        (genesys("acd.end", queueId="PS", acdOutcome="ANSWERED", answeredUserId="A"), EventType.ASSIGNED),
        (genesys("acd.end", queueId="PS", acdOutcome="ABANDON"), EventType.ABANDONED),
        (genesys("acd.end", queueId="PS", acdOutcome="FLOW_OUT"), EventType.FLOWED_OUT),
        (genesys("acd.end", queueId="PS", acdOutcome="UNKNOWN"), EventType.FLOWED_OUT),
        (genesys("user.start", userId="A", queueId="PS"), EventType.CONNECTED),
        (genesys("user.end", userId="A", queueId="PS", interactingDurationMs=5, heldDurationMs=1), EventType.HANDLED),
        (genesys("acw", userId="A", queueId="PS", wrapupCode="w", wrapupDurationMs=9), EventType.WRAPUP),
        (genesys("customer.end"), EventType.ENDED),
    ],
)
def test_every_genesys_topic_becomes_its_canonical_event(message: dict[str, Any], canonical: EventType) -> None:
    (event,) = GENESYS.normalise(raw(message), "bank-north")
    assert event["event_type"] == canonical
    assert event["timestamp"] == AT_MS
    assert event["payload"]["conversation_id"] == "c-1"
    assert event["tenant_id"] == "bank-north"


def test_values_are_text_and_unmapped_fields_keep_their_path() -> None:
    message = genesys("acd.end", queueId="PS", acdOutcome="ANSWERED", answeredUserId="A", connectedDurationMs=17_000)
    message["eventBody"]["newField"] = {"deep": [1, None], "flag": True}
    (event,) = GENESYS.normalise(raw(message), "t")
    assert event["payload"] == {
        "conversation_id": "c-1", "media_type": "VOICE", "direction": "INBOUND", "ani": "tel:+1", "dnis": "tel:+2",
        "queue_id": "PS", "outcome": "ANSWERED", "wait_ms": "17000", "agent_id": "A",
    }  # fmt: skip
    assert event["metadata"] == {
        "ccaas.native_type": "v2.detail.events.conversation.{id}.acd.end", "genesys.version": "2",
        "genesys.metadata.CorrelationId": "x", "genesys.participantId": "p-1", "genesys.sessionId": "s-1",
        "genesys.provider": "Edge", "genesys.newField.deep": "[1,null]", "genesys.newField.flag": "true",
    }  # fmt: skip


def test_agent_status_of_both_vendors_uses_one_vocabulary() -> None:
    (north,) = GENESYS.normalise(
        raw(
            {
                "topicName": "v2.users.MICHAL.routingStatus",
                "eventBody": {"id": "MICHAL", "routingStatus": {"status": "IDLE", "startTime": "2026-11-23T09:00:00Z"}},
            }
        ),
        "t",
    )
    (south,) = CXONE.normalise(
        raw(
            {
                "eventType": "AGENT_STATE",
                "agentId": 7,
                "agentStateName": "Available",
                "startDate": "2026-11-23T09:00:00Z",
            }
        ),
        "t",
    )
    assert north["payload"] == {"agent_id": "MICHAL", "agent_status": "IDLE"}
    assert south["payload"] == {"agent_id": "7", "agent_status": "IDLE"}
    assert north["timestamp"] == south["timestamp"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ended(), ["conversation.handled", "conversation.ended"]),
        (ended(acwSeconds=5), ["conversation.handled", "conversation.wrapup", "conversation.ended"]),
        (ended(abandoned=True, agentId=...), ["conversation.abandoned", "conversation.ended"]),
        (ended(abandoned=True, agentId=..., inQueueSeconds=0, skillId=...), ["conversation.ended"]),
    ],
)
def test_a_cxone_call_end_becomes_what_it_says(message: dict[str, Any], expected: list[str]) -> None:
    assert types(CXONE.normalise(raw(message), "t")) == expected


def test_cxone_seconds_become_ms_and_talk_leaves_hold_out() -> None:
    handled, _ = CXONE.normalise(raw(ended()), "t")
    assert (handled["payload"]["talk_ms"], handled["payload"]["hold_ms"]) == ("90000", "10000")
    assert handled["payload"]["media_type"] == "VOICE"
    assert handled["payload"]["direction"] == "INBOUND"


@pytest.mark.parametrize(
    ("vendor", "message", "reason", "path"),
    [
        (GENESYS, genesys("acd.start"), "missing_field", "eventBody.queueId"),
        (GENESYS, genesys("customer.start", eventTime=...), "missing_field", "eventBody.eventTime"),
        (GENESYS, genesys("customer.start", eventTime="1795430000123"), "wrong_type", "eventBody.eventTime"),
        (GENESYS, genesys("customer.start", eventTime=True), "wrong_type", "eventBody.eventTime"),
        (GENESYS, genesys("customer.start", eventTime=-1), "out_of_range", "eventBody.eventTime"),
        (GENESYS, genesys("acd.end", queueId="PS", acdOutcome="NEW"), "no_rule", "topicName"),
        (GENESYS, genesys("acd.end", queueId="PS"), "missing_field", "eventBody.acdOutcome"),
        (GENESYS, genesys("never.seen"), "unknown_type", "topicName"),
        (GENESYS, {"version": "2"}, "missing_field", "topicName"),
        (CXONE, ended(abandoned="false"), "wrong_type", "abandoned"),
        (CXONE, ended(abandoned=True, inQueueSeconds="17"), "wrong_type", "inQueueSeconds"),
        (CXONE, cxone("QUEUE_ENTERED", timestamp="2026-11-23T09:00:00"), "wrong_type", "timestamp"),
        (CXONE, cxone("QUEUE_ENTERED", timestamp="yesterday"), "wrong_type", "timestamp"),
        (CXONE, cxone("QUEUE_ENTERED", contactId=None), "missing_field", "contactId"),
        (CXONE, cxone("QUEUE_ENTERED", contactId={"a": 1}), "wrong_type", "contactId"),
        (CXONE, [1], "unparsable", ""),
    ],
)
def test_a_bad_event_names_the_field_and_never_its_value(vendor: Any, message: Any, reason: str, path: str) -> None:
    with pytest.raises(BadEventError) as caught:
        vendor.normalise(raw(message), "t")
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert "yesterday" not in str(caught.value)


def test_an_optional_field_of_another_type_is_kept_as_metadata() -> None:
    (event,) = GENESYS.normalise(raw(genesys("customer.start", ani={"number": 1})), "t")
    assert "ani" not in event["payload"]
    assert event["metadata"]["genesys.ani"] == '{"number":1}'


def test_a_text_that_no_index_could_hold_is_no_key() -> None:
    (event,) = CXONE.normalise(raw(cxone("CALL_STARTED", contactId="c" * 256, mediaType="m" * 257)), "t")
    assert event["payload"]["conversation_id"] == "c" * 256
    assert "media_type" not in event["payload"]
    assert event["metadata"]["cxone.mediaType"] == "m" * 257
    with pytest.raises(BadEventError, match="at most 256 characters") as caught:
        CXONE.normalise(raw(cxone("CALL_STARTED", contactId="c" * 257)), "t")
    assert (caught.value.reason, caught.value.path) == ("wrong_type", "contactId")


def test_an_ignored_frame_becomes_nothing() -> None:
    assert (
        GENESYS.normalise(raw({"topicName": "channel.metadata", "eventBody": {"message": "WebSocket Heartbeat"}}), "t")
        == []
    )


def test_the_id_is_a_uuid5_of_the_occurrence_not_of_the_arrival() -> None:
    one = genesys("acd.start", queueId="PS")
    same_second = genesys("acd.start", queueId="PS", eventTime=AT_MS + 500, ani="other", participantId="p-2")
    next_second = genesys("acd.start", queueId="PS", eventTime=AT_MS + 1_000)
    other_queue = genesys("acd.start", queueId="NE")
    first, second, third, fourth = (
        GENESYS.normalise(raw(message), "t")[0]["event_id"] for message in (one, same_second, next_second, other_queue)
    )
    assert first == second
    assert len({first, third, fourth}) == 3
    assert uuid.UUID(first).version == 5
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert GENESYS.normalise(raw(one), "another")[0]["event_id"] != first


def test_what_occurs_once_a_contact_has_no_time_in_its_id() -> None:
    early, late = (
        GENESYS.normalise(raw(genesys("customer.start", eventTime=at)), "t")[0]["event_id"]
        for at in (AT_MS, AT_MS + 9_000)
    )
    assert early == late


def test_deep_nesting_and_many_keys_are_kept() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"d": deep}
    message = cxone("CALL_STARTED", deep=deep, **{f"k{number}": number for number in range(10_000)})
    (event,) = CXONE.normalise(raw(message), "t")
    assert sum(key.startswith("cxone.k") for key in event["metadata"]) == 10_000
    assert event["metadata"]["cxone." + ".".join(["deep", *["d"] * 7])].startswith('{"d":{"d":')


@pytest.mark.parametrize("depth", [100, 250, 260, 400, 1000])
def test_whatever_can_be_read_is_kept_however_deep(depth: int) -> None:
    below = b'[{"b":"' + "ü".encode() + b'","c":null},[],{},1.5,true]'
    body = b'{"a":' * depth + below + b"}" * depth
    (event,) = CXONE.normalise(raw(cxone("CALL_STARTED"))[:-1] + b',"deep":' + body + b"}", "t")
    (text,) = (text for key, text in event["metadata"].items() if key.startswith("cxone.deep"))
    assert text.encode() == body[len(b'{"a":') * 7 : -7]


def test_what_is_too_deep_to_be_read_is_a_typed_failure() -> None:
    with pytest.raises(BadEventError) as caught:
        CXONE.normalise(raw(cxone("CALL_STARTED"))[:-1] + b',"deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "t")
    assert caught.value.reason == "unparsable"


@pytest.mark.parametrize("value", [1e308, -1e308, 2**62])
def test_huge_numbers_are_a_typed_failure_or_text(value: float) -> None:
    try:
        events = CXONE.normalise(raw(ended(agentSeconds=value)), "t")
    except BadEventError as error:
        assert (error.reason, error.path) == ("wrong_type", "agentSeconds")
    else:
        assert events[0]["payload"]["talk_ms"].isdigit()


def test_a_body_that_would_explode_is_refused() -> None:
    message = cxone("CALL_STARTED", **{"k" * 2_000: {f"{number:05}": 1 for number in range(60_000)}})
    with pytest.raises(BadEventError) as caught:
        CXONE.normalise(raw(message), "t")
    assert caught.value.reason == "too_large"


def test_no_event_of_a_message_loses_a_field() -> None:
    message = ended(abandoned=True, inQueueSeconds=0, agentId=...)
    (event,) = CXONE.normalise(raw(message), "t")
    assert event["metadata"]["cxone.abandoned"] == "true"
    assert event["metadata"]["cxone.skillId"] == "PS"
    assert event["payload"]["wait_ms"] == "0"
    inner = genesys("customer.start")
    inner["eventBody"]["version"] = "inner"
    (event,) = GENESYS.normalise(raw(inner), "t")
    assert {event["metadata"]["genesys.version"], event["metadata"]["genesys.eventBody.version"]} == {"2", "inner"}


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_a_typed_failure(data: bytes) -> None:
    for vendor in (GENESYS, CXONE):
        try:
            vendor.normalise(data, "t")
        except BadEventError as error:
            assert error.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from([ended(), genesys("acd.end", queueId="q", acdOutcome="ANSWERED", answeredUserId="a")]), st.data()
)
def test_any_value_in_any_field_is_an_event_or_a_typed_failure(message: dict[str, Any], data: st.DataObject) -> None:
    body = dict(message.get("eventBody", message))
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    broken = {**message, "eventBody": body} if "eventBody" in message else body
    vendor = GENESYS if "eventBody" in message else CXONE
    try:
        events = vendor.normalise(raw(broken), "t")
    except BadEventError as error:
        assert error.reason
    else:
        for event in events:
            assert all(isinstance(value, str) for value in (event["payload"] | event["metadata"]).values())
