"""Replays on a real broker: what is selected, what becomes of it, and what is written about it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from streaming.deadletter import FOREIGN, Headers, Origin
from streaming.errors import BadEventError, ConfigurationError
from streaming.instants import from_ms
from streaming.reprocess.replays import TOPIC, Outcome
from streaming.reprocess.run import Order
from streaming.reprocess.selection import Left, Selection
from streaming.settings import Settings
from tests.conftest import Platform
from tests.schemas.messages import AT_MS, cxone, ended, genesys
from tests.streaming.reprocess.letters import MISSING, Letters, json_of, outcomes

HOUR_MS = 3_600_000


@pytest.fixture
def south(platform: Platform) -> Letters:
    return Letters(platform, "cxone")


def renamed(number: int = 1) -> dict[str, Any]:
    """A webhook whose core field the vendor renamed."""
    return cxone("CALL_STARTED", contactId=..., contactID=f"c-{number}")


RENAME = {"op": "rename", "path": "contactID", "to": "contactId"}


def test_what_passes_now_is_published_with_the_id_that_it_would_have_had(south: Letters) -> None:
    south.put(cxone("CALL_STARTED"), failed_ms=AT_MS)
    report = south.run()
    assert outcomes(report) == {"replayed": 1}
    assert (report.read, report.events, report.left.total()) == (1, 1, 0)
    (event,) = south.events()
    (record,) = south.event_records()
    assert event["event_id"].encode() == record.key()
    assert event["metadata"]["ccaas.recovered"] == "replayed"
    assert dict(record.headers() or []) == {
        "ccaas.received_at": str(AT_MS * 1000).encode(),
        "ccaas.transport": b"webhook",
    }
    south.put(cxone("CALL_STARTED"))
    south.run()
    assert set(south.event_ids().values()) == {2}, "another letter of the same occurrence has the same id"


def test_a_rename_is_mended_and_what_it_does_not_help_goes_back_as_it_was(south: Letters) -> None:
    broken = renamed(3) | {"timestamp": "yesterday"}
    south.put(renamed(1), renamed(2), broken, original=[("trace", b"\xff")], key=b"k")
    report = south.run(RENAME)
    assert outcomes(report) == {"replayed": 2, "failed_again": 1}
    assert report.applied == [3]
    assert {event["payload"]["conversation_id"] for event in south.events()} == {"c-1", "c-2"}
    said, value = south.dead()[-1]
    assert (said.stage, said.reason, said.path, said.attempt) == ("normalise", "wrong_type", "timestamp", 2)
    assert said.failed_ms >= south.before_ms
    assert json_of(value) == broken, "the original's bytes, not the mended ones"
    record = south.records(south.tenant.dlq_topic)[-1]
    keys = [header[0] for header in record.headers() or []]
    assert record.key() == b"k"
    assert len(keys) == len(set(keys)), "stale headers are replaced"
    assert ("trace", b"\xff") in (record.headers() or [])


def test_the_audit_says_which_what_and_how(south: Letters) -> None:
    other_hour = AT_MS + 2 * HOUR_MS
    south.put(renamed(1), renamed(2), failed_ms=AT_MS)
    south.put(renamed(3), failed_ms=other_hour)
    south.put({"eventType": "CALL_STARTED"}, failed_ms=AT_MS)
    south.run(RENAME)
    (replay,) = south.replays()
    assert (replay.run_id, replay.vendor, replay.tenant_id) == ("test", "cxone", south.tenant.tenant_id)
    assert replay.topic == south.tenant.dlq_topic
    assert (replay.done, replay.parked) == ({"0": ((0, 3),)}, {})
    assert replay.fixups == (RENAME,)
    assert replay.at_ms >= south.before_ms
    counts = {(group.hour_ms, group.outcome): group.events for group in replay.groups}
    hour = AT_MS - AT_MS % HOUR_MS
    assert counts == {
        (hour, Outcome.REPLAYED): 2,
        (hour + 2 * HOUR_MS, Outcome.REPLAYED): 1,
        (hour, Outcome.FAILED_AGAIN): 1,
    }
    group = replay.groups[0]
    assert (group.transport, group.stage, group.reason, group.path, group.event_type) == (
        "webhook", "normalise", "missing_field", "contactId", "CALL_STARTED",
    )  # fmt: skip
    assert not group.was_parked


def test_a_second_run_finds_nothing_to_do(south: Letters) -> None:
    south.put(*map(renamed, range(20)))
    assert outcomes(south.run(RENAME)) == {"replayed": 20}
    again = south.run(RENAME)
    assert (outcomes(again), again.read, len(south.replays())) == ({}, 0, 1)
    south.put(renamed(77))
    assert outcomes(south.run(RENAME)) == {"replayed": 1}
    assert south.done() == [*range(20), 20]
    assert len(south.events()) == 21


def test_what_lies_between_what_is_done_is_found(south: Letters) -> None:
    other = BadEventError("x", reason="other")
    for number in range(6):
        south.put(renamed(number), error=other if number % 2 else MISSING)
    assert outcomes(south.run(RENAME, reason="other")) == {"replayed": 3}
    assert south.replays()[0].done == {"0": ((1, 1), (3, 3), (5, 5))}
    rest = south.run(RENAME)
    assert (outcomes(rest), rest.left) == ({"replayed": 3}, {Left.REPLAYED: 3})
    assert sorted(south.done()) == list(range(6))


def test_a_topic_of_several_partitions(south: Letters) -> None:
    south.put(*map(renamed, range(4)))
    assert outcomes(south.run(RENAME)) == {"replayed": 4}
    admin = AdminClient(south.settings.kafka.client_config())
    for future in admin.create_partitions([NewPartitions(south.tenant.dlq_topic, 3)]).values():
        future.result(20)
    admin.poll(0)
    with_more = Letters(south.platform, "cxone")
    for number in range(4, 40):
        with_more.put(renamed(number), key=str(number).encode())
    assert {record.partition() for record in south.records(south.tenant.dlq_topic)} == {0, 1, 2}
    assert outcomes(south.run(RENAME)) == {"replayed": 36}
    assert outcomes(south.run(RENAME)) == {}
    assert set(south.event_ids().values()) == {1}


def test_attempts_are_counted_until_it_is_parked(south: Letters) -> None:
    south.put({"eventType": "CALL_STARTED"})
    for attempt in (2, 3, 4):
        assert outcomes(south.run()) == {"failed_again": 1}
        assert south.dead()[-1][0].attempt == attempt
    assert outcomes(south.run()) == {"parked": 1}
    assert len(south.dead()) == 4, "no new copy: it stays where it is"
    *_, last = south.replays()
    assert last.done == {}
    assert len(last.parked["0"]) == 1
    assert outcomes(south.run()) == {}
    assert outcomes(south.run(include_parked=True)) == {"parked": 1}
    assert south.replays()[-1].groups[0].was_parked


def test_what_is_parked_is_replayed_when_a_person_asks_for_it(south: Letters) -> None:
    south.put(renamed())
    assert outcomes(south.run(max_attempts=1)) == {"parked": 1}
    assert south.run().left == {}, "what is parked at the beginning is not even read"
    south.put(renamed(2))
    assert outcomes(south.run(RENAME, include_parked=True)) == {"replayed": 2}
    was_parked = {group.was_parked: group.events for group in south.replays()[-1].groups}
    assert was_parked == {True: 1, False: 1}
    assert outcomes(south.run(RENAME, include_parked=True)) == {}
    assert len(south.events()) == 2


def test_a_parked_one_behind_others_is_left_alone(south: Letters) -> None:
    south.put(renamed(), error=BadEventError("x", reason="other"))
    south.put(renamed(2))
    south.run(reason="missing_field", max_attempts=1)
    assert south.run(reason="nothing").left == {Left.NOT_SELECTED: 1, Left.PARKED: 1}


@pytest.mark.parametrize(
    ("selected", "numbers"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"stage": "normalise"}, {0, 1, 2, 3, 4}),
        ({"stage": "nowhere"}, set()),
        ({"reason": "wrong_type"}, {2}),
        ({"path": "timestamp"}, {2}),
        ({"path": "[].contactId"}, {1}),
        ({"path": "[7].contactId"}, {1}),
        ({"path": ""}, {0, 1, 2, 3, 4}),
        ({"event_type": "CALL_ENDED"}, {3}),
        ({"start": AT_MS + 4, "end": AT_MS + 5}, {4}),
        ({"start": AT_MS + 3}, {3, 4}),
        ({"end": AT_MS + 1}, {0}),
        ({"reason": "wrong_type", "event_type": "CALL_ENDED"}, set()),
    ],
)
def test_selection(south: Letters, selected: dict[str, Any], numbers: set[int]) -> None:
    errors = {
        1: BadEventError("x", reason="missing_field", path="[3].contactId"),
        2: BadEventError("x", reason="wrong_type", path="timestamp"),
    }
    missing = BadEventError("x", reason="missing_field", path="contactId")
    for number in range(5):
        message = ended(contactId="c-3") if number == 3 else cxone("CALL_STARTED", contactId=f"c-{number}")
        south.put(message, error=errors.get(number, missing), failed_ms=AT_MS + number)
    window = {name: from_ms(value) if name in {"start", "end"} else value for name, value in selected.items()}
    dry = south.run(dry_run=True, **window)
    report = south.run(**window)
    assert dry.rows == report.rows
    assert {int(event["payload"]["conversation_id"][2:]) for event in south.events()} == numbers
    assert report.left.total() + len(numbers) == report.read


def test_genesys_types_are_selected_with_or_without_their_id(platform: Platform) -> None:
    north = Letters(platform, "genesys", "north")
    north.put(genesys("customer.start"), genesys("customer.end"), transport="sse")
    assert north.run(dry_run=True, event_type="v2.detail.events.conversation.{id}.customer.end").count(
        Outcome.REPLAYED
    ) == 1  # fmt: skip
    assert outcomes(north.run(event_type="v2.detail.events.conversation.c-9.customer.end")) == {"replayed": 1}
    (event,) = north.events()
    assert event["event_type"] == "conversation.ended"


def test_due_only_waits_longer_after_each_attempt(south: Letters) -> None:
    now_ms = time.time_ns() // 1_000_000
    for attempt, hours in ((1, 1), (2, 4), (3, 16), (4, 64)):
        message = cxone("CALL_STARTED", contactId=f"due-{attempt}")
        south.put(message, attempt=attempt, failed_ms=now_ms - hours * HOUR_MS - 1000)
        message = cxone("CALL_STARTED", contactId=f"early-{attempt}")
        south.put(message, attempt=attempt, failed_ms=now_ms - hours * HOUR_MS + 60_000)
    report = south.run(due_only=True)
    assert (outcomes(report), report.left) == ({"replayed": 4}, {Left.NOT_DUE: 4})
    assert {event["payload"]["conversation_id"] for event in south.events()} == {f"due-{n}" for n in (1, 2, 3, 4)}
    assert outcomes(south.run()) == {"replayed": 4}


def test_what_was_never_proven_needs_a_person_who_vouches(south: Letters) -> None:
    doubt = BadEventError("nobody vouched", reason="untrusted")
    south.put(cxone("CALL_STARTED"), error=doubt, stage="signature")
    south.put({"eventType": "CALL_STARTED"}, error=doubt, stage="signature")
    assert south.run().left == {Left.UNTRUSTED: 2}
    assert south.run(stage="signature", reason="untrusted").left == {Left.UNTRUSTED: 2}
    assert outcomes(south.run(include_untrusted=True)) == {"replayed": 1, "failed_again": 1}
    assert len(south.events()) == 1
    again = south.run()
    assert again.left == {Left.UNTRUSTED: 1}, "one that failed is as little proven as before"


def test_a_dry_run_shows_it_and_touches_nothing(south: Letters) -> None:
    south.put(renamed(1), renamed(2) | {"timestamp": "yesterday"}, cxone("CALL_STARTED", contactId=...))
    south.put(renamed(4) | {"timestamp": None}, attempt=4)
    before = (south.dead(), south.replays(), south.event_records())
    report = south.run(RENAME, dry_run=True)
    assert report.is_dry_run
    assert outcomes(report) == {"replayed": 1, "failed_again": 2, "parked": 1}
    shown = {(row.reason, row.path, row.outcome, row.reason_now, row.path_now) for row in report.rows}
    assert shown == {
        ("missing_field", "contactId", Outcome.REPLAYED, "", ""),
        ("missing_field", "contactId", Outcome.FAILED_AGAIN, "wrong_type", "timestamp"),
        ("missing_field", "contactId", Outcome.FAILED_AGAIN, "missing_field", "contactId"),
        ("missing_field", "contactId", Outcome.PARKED, "missing_field", "timestamp"),
    }
    assert (south.dead(), south.replays(), south.event_records()) == before
    assert south.run(RENAME).rows == report.rows, "what was shown is what happens"


def test_a_dry_run_makes_no_topic(platform: Platform) -> None:
    letters = Letters(platform, "cxone", "dry")
    letters.put(cxone("CALL_STARTED"))
    admin = AdminClient(letters.settings.kafka.client_config())
    for future in admin.delete_topics([letters.tenant.events_topic]).values():
        future.result(20)
    assert outcomes(letters.run(dry_run=True)) == {"replayed": 1}
    assert letters.tenant.events_topic not in admin.list_topics(timeout=10).topics
    assert outcomes(letters.run()) == {"replayed": 1}, "a real run makes it"


def test_a_tenant_without_dead_letters(platform: Platform) -> None:
    letters = Letters(platform, "cxone", "none")
    assert (letters.run(), letters.run(dry_run=True).read) == (letters.run(), 0)
    admin = AdminClient(letters.settings.kafka.client_config())
    for future in admin.delete_topics([letters.tenant.dlq_topic]).values():
        future.result(20)
    assert letters.run().read == 0


def test_a_fix_up_with_a_wrong_path_is_told_before_anything_is_touched(south: Letters) -> None:
    south.put(renamed(1), renamed(2))
    before = (south.dead(), south.replays())
    wrong = {"op": "cast", "path": "contactIdentifier", "type": "string"}
    with pytest.raises(ConfigurationError, match=r"fix-up 2 \(cast contactIdentifier\): none of the 2 .*'skillId'"):
        south.run(RENAME, wrong)
    with pytest.raises(ConfigurationError, match=r"fix-up 1 .*In the message there are: .*'contactID'"):
        south.run(wrong, dry_run=True)
    inner = {"op": "set", "path": "routing.skill", "value": 1}
    with pytest.raises(ConfigurationError, match=r"fix-up 1 \(set routing.skill\)"):
        south.run(inner)
    assert (south.dead(), south.replays(), south.events()) == (*before, [])
    second = {"op": "cast", "path": "contactId", "type": "string"}
    assert outcomes(south.run(RENAME, second)) == {"replayed": 2}, "one sees what the one before it made"


def test_a_wrong_path_inside_an_object_lists_the_keys_there(platform: Platform) -> None:
    north = Letters(platform, "genesys", "north")
    north.put(genesys("customer.start", conversationId=..., convId="c-1"), transport="sse")
    with pytest.raises(ConfigurationError, match=r"In eventBody there are: .*'convId'"):
        north.run({"op": "rename", "path": "eventBody.conv", "to": "eventBody.conversationId"})
    assert outcomes(north.run({"op": "rename", "path": "eventBody.convId", "to": "eventBody.conversationId"})) == {
        "replayed": 1
    }


def test_a_set_field_need_not_be_there(south: Letters) -> None:
    south.put(cxone("QUEUE_ENTERED", skillId=...), error=BadEventError("x", reason="missing_field", path="skillId"))
    report = south.run({"op": "set", "path": "skillId", "value": "PS", "when": {"path": "skillId", "exists": False}})
    assert outcomes(report) == {"replayed": 1}
    assert south.events()[0]["payload"]["queue_id"] == "PS"


def test_a_record_on_which_a_fix_up_can_t_be_done_is_left_as_it_is(south: Letters) -> None:
    both = renamed(1) | {"contactId": ""}
    south.put(both, renamed(2))
    report = south.run(RENAME)
    assert (outcomes(report), report.left) == ({"replayed": 1}, {Left.REFUSED: 1})
    (why,) = report.refused
    assert why.startswith("fix-up 1: rename contactID: a field of the new name is there already")
    assert south.done() == [1]
    drop = {"op": "drop", "path": "contactId", "when": {"path": "contactId", "equals": ""}}
    assert outcomes(south.run(drop, RENAME)) == {"replayed": 1}


def test_what_somebody_else_wrote_is_counted_and_left_alone(south: Letters) -> None:
    south.put_raw(b"{}", [])
    south.put_raw(None, [("__connect.errors.stage", b"normalise")])
    south.put_raw(b"\xff", [("ccaas.error.reason", b"\xff\xfe"), ("ccaas.error.attempt", b"\xff")])
    south.settle()
    assert south.run(include_parked=True, include_untrusted=True).left == {Left.FOREIGN: 3}
    assert south.run(stage=FOREIGN, reason=FOREIGN).left == {Left.FOREIGN: 3}
    assert (south.replays(), len(south.dead())) == ([], 3)


def test_what_the_sink_could_not_read_goes_to_the_bus_again_byte_for_byte(south: Letters) -> None:
    south.put(cxone("CALL_STARTED"))
    south.run()
    (event,) = south.events()
    value = south.encoded(event)
    gone = BadEventError("schema id 9 is unknown", reason="unknown_schema")
    origin = Origin(south.tenant.events_topic, 1, 7)
    own: Headers = [("ccaas.received_at", b"1"), ("ccaas.transport", b"webhook")]
    sink: Any = {"stage": "sink", "transport": "kafka", "origin": origin, "error": gone, "key": b"the-key"}
    south.put(value, original=own, **sink)
    south.put(b"\x00\x00\x00\x00\x63" + value[5:], b"{}", original=own, **sink)
    report = south.run()
    assert outcomes(report) == {"replayed": 1, "failed_again": 2}
    record = south.event_records()[-1]
    assert (record.value(), record.key(), record.headers()) == (value, b"the-key", own)
    headers = dict(south.records(south.tenant.dlq_topic)[-1].headers() or [])
    assert headers["__connect.errors.topic"] == origin.topic.encode()
    assert (headers["__connect.errors.partition"], headers["__connect.errors.offset"]) == (b"1", b"7")
    assert headers["ccaas.transport"] == b"webhook"
    assert headers["ccaas.error.attempt"] == b"2"


def test_the_key_is_the_conversation_where_the_tenant_has_it_so(platform: Platform) -> None:
    letters = Letters(platform, "cxone", "keyed")
    letters.tenant = letters.tenant.model_copy(update={"partition_key": "conversation_id"})
    letters.put(ended())
    letters.run()
    assert {record.key() for record in letters.event_records()} == {b"c-1"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"vendor": "avaya"}, "vendor: .*'avaya'.*cxone"),
        ({"tenant": "nobody"}, "tenant: .*'nobody'"),
        ({"vendor": "cxone", "tenant": "nobody"}, "tenant: .*of vendor 'cxone'"),
        ({"start": from_ms(2), "end": from_ms(2)}, "start .* is not before end"),
        ({"start": from_ms(2).replace(tzinfo=None)}, "start .* without a time zone"),
        ({"end": "soon"}, "end: "),
        ({"tenants": "x"}, "tenants"),
    ],
)
def test_parameters_that_make_no_sense(south: Letters, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Selection.of(**parameters).tenants(south.settings)


def test_tenants_of_a_selection(south: Letters) -> None:
    settings: Settings = south.settings
    for selection in (Selection(), Selection(vendor="cxone"), Selection(vendor="", tenant=south.tenant.tenant_id)):
        assert selection.tenants(settings) == (south.tenant,)


def test_attempts_are_at_least_one() -> None:
    with pytest.raises(ConfigurationError, match="max_attempts is 0"):
        Order(max_attempts=0)


def test_the_topic_of_replays_forgets_later_than_dead_letters_go(south: Letters) -> None:
    south.put(cxone("CALL_STARTED"))
    south.run()
    topics = AdminClient(south.settings.kafka.client_config()).list_topics(TOPIC, timeout=10).topics
    assert len(topics[TOPIC].partitions) == 1
