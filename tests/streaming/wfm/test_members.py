"""Members on a real Kafka: several together, killed and restarted, give what the warehouse gives."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
from confluent_kafka import Consumer, TopicPartition

from schemas.canonical import EventType
from streaming.wfm.topics import state_topic
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import until
from tests.streaming.wfm.day import END, Tables, by_records, by_warehouse, half_day
from tests.streaming.wfm.members import Bus, Members, live
from tests.warehouse.events import Event, event


def tomorrow() -> Event:
    """Adds to no interval; that it has come says that the day is over."""
    return event(EventType.STARTED, END + timedelta(minutes=30), "tomorrow")


def shuffled(items: list[Event], seed: int) -> list[Event]:
    """Some late, some twice."""
    rng = random.Random(seed)
    late = {item.event_id: timedelta(seconds=rng.choice((0, 0, 0, 30, 1800))) for item in items}
    twice = [*items, *rng.sample(items, 50)]
    return sorted(twice, key=lambda item: item.time + late[item.event_id])


def wait_equal(platform: Platform, bus: Bus, oracle: Tables, members: Members) -> None:
    try:
        until(lambda: by_records(live(platform, bus.tenant), oracle) == oracle, 60)
    except AssertionError:
        print(members.logs())
        found = by_records(live(platform, bus.tenant), oracle)
        for name, rows in oracle.items():
            print(name, "missing:", [row for row in rows if row not in found[name]][:4])
            print(name, "wrong:", [row for row in found[name] if row not in rows][:4])
        assert by_records(live(platform, bus.tenant), oracle) == oracle


def test_three_members_killed_in_turn(platform: Platform, tmp_path: Path) -> None:
    bus = Bus(platform)
    items = half_day(7, 300)
    oracle = by_warehouse(tmp_path, items)
    sent = shuffled(items, 7)
    members = Members(platform, 3)
    with members.running() as processes:
        step = len(sent) // 4 + 1
        for number, first in enumerate(range(0, len(sent), step)):
            bus.publish(sent[first : first + step])
            victim = processes[number % 3]
            victim.kill()
            victim.start()
            victim.wait_ready(60)
        bus.everywhere(tomorrow())
        wait_equal(platform, bus, oracle, members)


def test_one_member_is_rebuilt_from_snapshot_and_open_interval(platform: Platform, tmp_path: Path) -> None:
    bus = Bus(platform)
    items = half_day(8, 200)
    oracle = by_warehouse(tmp_path, items)
    half = len(items) // 2
    members = Members(platform, 1)
    with members.running() as (member,):
        bus.publish(items[:half])
        until(lambda: snapshot(platform, bus), 30, "a snapshot at an interval's end")
        bus.publish(items[half:-200])
        member.kill()
        committed = offsets(platform, bus)
        kept = snapshot(platform, bus)
        assert kept == committed
        assert any(committed.values())
        bus.publish(items[-200:])
        member.start()
        bus.everywhere(tomorrow())
        wait_equal(platform, bus, oracle, members)
    log = member.log.read_text()
    assert "snapshot=True" in log


def snapshot(platform: Platform, bus: Bus) -> dict[int, int]:
    """Offsets of the newest snapshot."""
    heads = [message for message in read_all(platform, state_topic(bus.tenant)) if message.key() == b"head"]
    return dict(orjson.loads(heads[-1].value() or b"")["fold"]["covered"]) if heads else {}


def offsets(platform: Platform, bus: Bus) -> dict[int, int]:
    """The group's committed offsets."""
    consumer = Consumer({**bus.settings.kafka.client_config(), "group.id": f"wfm-{platform.suffix}"})
    try:
        asked = [TopicPartition(bus.tenant.events_topic, number) for number in range(bus.partitions)]
        return {found.partition: found.offset for found in consumer.committed(asked, timeout=20) if found.offset >= 0}
    finally:
        consumer.close()


def test_the_live_queue_follows_its_calls(platform: Platform) -> None:
    bus = Bus(platform)
    with Members(platform, 2).running():
        calls = [event(EventType.QUEUED, "09:00:00", f"c{number}", queue="sales", media="VOICE") for number in range(9)]
        bus.publish([replace(item, time=item.time + timedelta(seconds=number)) for number, item in enumerate(calls)])

        def queue() -> dict[str, object]:
            return live(platform, bus.tenant).get(("queue", "sales", "VOICE"), {})

        until(lambda: queue().get("waiting") == 9, what="nine wait")
        answers = [
            event(EventType.ASSIGNED, "09:01:00", f"c{number}", queue="sales", agent=f"a{number}")
            for number in range(3)
        ]
        bus.publish([*answers, event(EventType.ABANDONED, "09:01:30", "c3", queue="sales", media="VOICE")])
        until(lambda: queue().get("waiting") == 5, what="five wait")
        assert queue()["in_progress"] == 3
        assert (queue()["offered"], queue()["answered"], queue()["abandoned"]) == (9, 3, 1)
        assert queue()["service_level"] == 0.0


def test_what_an_earlier_merger_published_and_later_facts_take_back_is_gone(platform: Platform) -> None:
    """The facts came while nobody merged, from another member."""
    bus = Bus(platform, partitions=2)
    leg = event(EventType.HANDLED, "09:05:00", "c1", queue="sales", agent="anna", media="VOICE", talk_ms=1000)
    wrapup = event(EventType.WRAPUP, "09:20:00", "c1", queue="sales", agent="anna", media="VOICE", acw_ms=2000)
    first, second = (("queue_interval", "sales", "VOICE", f"1999-01-04T09:{minute}:00Z") for minute in ("00", "15"))
    with Members(platform, 1).running() as (member,):
        bus.publish_to(0, [leg])
        until(lambda: live(platform, bus.tenant).get(first, {}).get("handled") == 1, what="the leg is counted")
        member.kill()
        bus.publish_to(1, [wrapup])
        bus.pass_on(1, [wrapup])
        member.start()
        until(lambda: live(platform, bus.tenant).get(second, {}).get("acw_ms") == 2000, what="its wrap-up is counted")
        assert first not in live(platform, bus.tenant)
