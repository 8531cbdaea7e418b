"""REST details become the very events that the stream's messages become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from devstack.simulators.details import conversation
from devstack.simulators.genesys_events import message, of_call
from devstack.simulators.trace import read_trace
from schemas.canonical import CanonicalEvent
from schemas.normalise import normaliser
from streaming.errors import BadEventError
from streaming.vendors.genesys.details import conversation_messages, status_messages
from tests.truth.trace_rows import EXTRACTS, call, clock, write_trace

FAR_MS = 4_000_000_000_000


def events(messages: list[dict[str, Any]]) -> dict[str, CanonicalEvent]:
    normalise = normaliser("genesys").normalise
    return {event["event_id"]: event for native in messages for event in normalise(orjson.dumps(native), "bank-north")}


def known(event: CanonicalEvent) -> dict[str, Any]:
    """All of an event but what REST does not tell: vendor fields without a place in the payload."""
    return {key: value for key, value in event.items() if key != "metadata"}


def test_every_call_of_a_day_becomes_the_same_events() -> None:
    calls = read_trace(EXTRACTS[0], ivr="AA01")
    assert len(calls) > 500
    for one in calls:
        streamed = events([message(occurrence) for occurrence in of_call(one)])
        told = events(conversation_messages(conversation(one, FAR_MS)))
        assert told.keys() == streamed.keys()
        for identifier, event in told.items():
            assert known(event) == known(streamed[identifier])


def test_a_call_under_way_becomes_what_has_happened(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.tsv", [call(exit_at=clock(3600), wait=30, talk=60, server="AGENT1", ivr=5)])
    (one,) = read_trace(trace, ivr="AA01")
    assert one.answered_ms is not None
    streamed = [message(occurrence) for occurrence in of_call(one)]
    for now_ms in range(one.started_ms + 1, one.ended_ms + 2000, 1000):
        told = events(conversation_messages(conversation(one, now_ms)))
        happened = events([native for native in streamed if native["eventBody"]["eventTime"] < now_ms])
        assert told.keys() == happened.keys()


def test_how_a_queue_was_left_is_not_guessed_before_the_end() -> None:
    acd = {"segmentType": "interact", "queueId": "Q", "segmentStart": at(10), "segmentEnd": at(20)}
    session = {"mediaType": "voice", "direction": "inbound", "segments": [acd]}
    row = {"conversationId": "c", "participants": [{"purpose": "acd", "sessions": [session]}]}
    assert kinds(row) == ["acd.start"]
    assert kinds({**row, "conversationEnd": at(30)}) == ["acd.start", "acd.end"]
    assert outcome({**row, "conversationEnd": at(30)}) == "UNKNOWN"
    flowed = {**session, "metrics": [{"name": "tFlowOut", "value": 10_000}]}
    row["participants"] = [{"purpose": "acd", "sessions": [flowed]}]
    assert outcome(row) == "FLOW_OUT"


def test_hold_alert_and_wrap_up_have_durations_of_their_own() -> None:
    segments = [
        {"segmentType": "alert", "queueId": "Q", "segmentStart": at(0), "segmentEnd": at(3)},
        {"segmentType": "interact", "queueId": "Q", "segmentStart": at(3), "segmentEnd": at(13)},
        {"segmentType": "hold", "queueId": "Q", "segmentStart": at(13), "segmentEnd": at(18)},
        {"segmentType": "interact", "queueId": "Q", "segmentStart": at(18), "segmentEnd": at(20)},
        {"segmentType": "wrapup", "queueId": "Q", "segmentStart": at(20), "segmentEnd": at(27), "wrapUpCode": "sale"},
    ]  # fmt: skip
    session = {"mediaType": "voice", "direction": "inbound", "segments": segments}
    row = {"conversationId": "c", "participants": [{"purpose": "agent", "userId": "u", "sessions": [session]}]}
    by_type = {event["event_type"]: event for event in events(conversation_messages(row)).values()}
    assert by_type["conversation.handled"]["payload"]["talk_ms"] == "12000"
    assert by_type["conversation.handled"]["payload"]["hold_ms"] == "5000"
    assert (
        by_type["conversation.wrapup"]["payload"] | {"acw_ms": "7000", "wrapup_code": "sale"}
        == (by_type["conversation.wrapup"]["payload"])
    )
    assert by_type["conversation.connected"]["timestamp"] == by_type["conversation.handled"]["timestamp"] - 17_000


def test_nothing_ends_between_two_segments() -> None:
    first = {"segmentType": "interact", "queueId": "Q", "segmentStart": at(0), "segmentEnd": at(9)}
    session = {"mediaType": "voice", "direction": "inbound", "segments": [first]}
    participants = [{"purpose": "customer", "sessions": [session]}, agent(session)]
    assert kinds({"conversationId": "c", "participants": participants}) == ["customer.start", "user.start"]
    over = {"conversationId": "c", "conversationEnd": at(9), "participants": participants}
    assert kinds(over) == ["customer.start", "customer.end", "user.start", "user.end"]


def test_the_agents_leg_may_begin_a_moment_before_the_queues_segment_ends() -> None:
    acd = {"segmentType": "interact", "queueId": "Q", "segmentStart": at(0), "segmentEnd": at(9)}
    leg = {"segmentType": "interact", "queueId": "Q", "segmentStart": "2026-11-23T09:00:08.998Z"}
    participants = [
        {"purpose": "acd", "sessions": [{"mediaType": "voice", "segments": [acd]}]},
        agent({"mediaType": "voice", "segments": [leg]}),
    ]
    assert outcome({"conversationId": "c", "participants": participants}) == "ANSWERED"


def test_metrics_of_a_session_are_of_its_last_segment() -> None:
    segments = [
        {"segmentType": "interact", "queueId": "Q1", "segmentStart": at(0), "segmentEnd": at(5)},
        {"segmentType": "interact", "queueId": "Q2", "segmentStart": at(5), "segmentEnd": at(9)},
    ]
    session = {"mediaType": "voice", "segments": segments, "metrics": [{"name": "tAbandon", "value": 9_000}]}
    row = {"conversationId": "c", "participants": [{"purpose": "acd", "sessions": [session]}]}
    messages = [n["eventBody"] for n in conversation_messages(row) if "acd.end" in n["topicName"]]
    assert [(body["queueId"], body["acdOutcome"]) for body in messages] == [("Q2", "ABANDON")]


@pytest.mark.parametrize("session", [{"mediaType": "voice"}, {"mediaType": "voice", "segments": []}])
def test_a_session_in_which_nothing_happened_yet_is_nothing(session: dict[str, Any]) -> None:
    participants = [{"purpose": purpose, "sessions": [session]} for purpose in ("customer", "acd")] + [agent(session)]
    assert kinds({"conversationId": "c", "participants": participants}) == []


def test_an_agent_who_was_only_alerted_had_no_leg() -> None:
    segments = [{"segmentType": "alert", "queueId": "Q", "segmentStart": at(0), "segmentEnd": at(3)}]
    session = {"mediaType": "voice", "segments": segments}
    row = {"conversationId": "c", "participants": [{"purpose": "agent", "userId": "u", "sessions": [session]}]}
    assert kinds(row) == []


@pytest.mark.parametrize(
    "row",
    [
        None,
        "text",
        {},
        {"conversationId": "c", "participants": 7},
        {"conversationId": "c", "participants": [{"purpose": "acd", "sessions": [{"segments": [{}]}]}]},
        {
            "conversationId": "c",
            "participants": [
                {"purpose": "customer", "sessions": [{"mediaType": "voice", "segments": [{"segmentStart": "today"}]}]}
            ],
        },
    ],
)
def test_a_row_of_another_structure_is_a_bad_event(row: Any) -> None:
    with pytest.raises(BadEventError) as caught:
        conversation_messages(row)
    assert caught.value.reason in {"unparsable", "missing_field"}


def test_a_status_without_a_start_is_a_bad_event() -> None:
    with pytest.raises(BadEventError, match="startTime is missing"):
        status_messages({"userId": "u", "routingStatus": [{"routingStatus": "IDLE"}]})


def agent(session: dict[str, Any]) -> dict[str, Any]:
    return {"purpose": "agent", "userId": "u", "sessions": [session]}


def at(second: int) -> str:
    return f"2026-11-23T09:00:{second:02d}.000Z"


def kinds(row: dict[str, Any]) -> list[str]:
    return [native["topicName"].split(".", 5)[-1] for native in conversation_messages(row)]


def outcome(row: dict[str, Any]) -> str:
    (found,) = [n["eventBody"]["acdOutcome"] for n in conversation_messages(row) if "acd.end" in n["topicName"]]
    return str(found)
