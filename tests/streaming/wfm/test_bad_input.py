"""What no member may stumble over: records that are no events, and times that can't be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.canonical import EventType
from streaming.instants import to_ms
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import until
from tests.streaming.wfm.members import Bus, Members, live
from tests.warehouse.events import event, status

DAY_1970 = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
DAY_2099 = datetime(2099, 12, 31, 23, 59, tzinfo=UTC)


def test_garbage_goes_to_the_dead_letters_and_the_rest_goes_on(platform: Platform) -> None:
    bus = Bus(platform, partitions=1)
    bad = [None, b"", b"garbage", b"\x00\x00\x00\x00\x01", b"\x00\x7f\xff\xff\xffrubbish", b"\x01\x00\x00\x00\x01{}"]
    with Members(platform, 1).running():
        for number, value in enumerate(bad):
            bus.raw(0, value)
            bus.publish([event(EventType.QUEUED, f"09:00:0{number}", f"c{number}", queue="sales", media="VOICE")])

        def waiting() -> object:
            return live(platform, bus.tenant).get(("queue", "sales", "VOICE"), {}).get("waiting")

        until(lambda: waiting() == len(bad), what="all good ones wait")
        letters = read_all(platform, bus.tenant.dlq_topic)
        assert [letter.value() for letter in letters] == bad
        headers = [dict(letter.headers() or []) for letter in letters]
        assert {found["__connect.errors.stage"] for found in headers} == {b"wfm-realtime"}
        assert [found["__connect.errors.offset"] for found in headers] == [b"0", b"2", b"4", b"6", b"8", b"10"]


def test_times_that_can_not_be(platform: Platform) -> None:
    bus = Bus(platform)
    now = datetime.now(UTC).replace(microsecond=0)
    with Members(platform, 1).running():
        bus.publish([event(EventType.QUEUED, DAY_1970, "old", queue="sales", media="VOICE")])
        until(lambda: ("queue", "sales", "VOICE") in live(platform, bus.tenant), what="1970 alone is a time like any")
        bus.publish(
            [
                event(EventType.QUEUED, DAY_2099, "new", queue="sales", media="VOICE"),
                status(now - timedelta(minutes=2), "anna", "IDLE"),
                status(DAY_2099, "anna", "INTERACTING"),
                status(DAY_1970, "anna", "OFF_QUEUE"),
            ]
        )
        bus.everywhere(event(EventType.STARTED, now, "c0"))
        bus.publish(
            [
                event(EventType.QUEUED, now, "c1", queue="sales", media="VOICE"),
                event(EventType.QUEUED, DAY_1970 + timedelta(days=1), "older", queue="sales", media="VOICE"),
            ]
        )

        def queue() -> dict[str, object]:
            return live(platform, bus.tenant).get(("queue", "sales", "VOICE"), {})

        until(lambda: queue().get("waiting_since_ms") == to_ms(now), what="those of 1970 and 2099 do not wait")
        assert queue()["waiting"] == 1
        records = live(platform, bus.tenant)
        assert records["tenant",]["clock_ms"] == to_ms(now)
        assert records["agent", "anna"]["status"] == "IDLE"
        assert not [key for key in records if "2099" in key[-1]]


def test_events_that_expired_while_nobody_read_them_are_told(platform: Platform) -> None:
    bus = Bus(platform, partitions=1)
    calls = [
        event(EventType.QUEUED, f"09:00:0{number}", f"c{number}", queue="sales", media="VOICE") for number in range(9)
    ]
    admin = AdminClient(bus.settings.kafka.client_config())

    def waiting() -> object:
        return live(platform, bus.tenant).get(("queue", "sales", "VOICE"), {}).get("waiting")

    with Members(platform, 1).running() as (member,):
        bus.publish(calls[:3])
        until(lambda: waiting() == 3, what="three wait")
        member.kill()
        bus.publish(calls[3:])
        for done in admin.delete_records([TopicPartition(bus.tenant.events_topic, 0, 7)]).values():
            done.result(20)
        member.start()
        until(lambda: waiting() == 5, what="two more wait")
    log = member.log.read_text()
    assert "facts are missing" in log
    assert "first=3" in log
    assert "next=7" in log


def test_a_topic_that_was_made_anew_is_told(platform: Platform) -> None:
    bus = Bus(platform, partitions=1)
    admin = AdminClient(bus.settings.kafka.client_config())
    topic = bus.tenant.events_topic
    calls = [
        event(EventType.QUEUED, f"09:00:0{number}", f"c{number}", queue="sales", media="VOICE") for number in range(3)
    ]
    with Members(platform, 1).running() as (member,):
        bus.publish(calls)
        until(lambda: ("queue", "sales", "VOICE") in live(platform, bus.tenant), what="they wait")
        member.kill()
        admin.delete_topics([topic])[topic].result(20)
        until(lambda: topic not in admin.list_topics(timeout=10).topics, what="the topic is gone")
        ensure_topics(bus.settings.kafka, [bus.tenant])
        bus.publish(calls[:1])
        member.start()
        until(lambda: "a partition goes back" in member.log.read_text(), what="it is told")
