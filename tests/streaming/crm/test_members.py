"""Killed members, several members, and two that hold one slot."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, closing

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not declared so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from streaming.errors import ServiceUnavailableError
from streaming.topics import ensure
from tests.conftest import Platform
from tests.processes import until
from tests.streaming.crm.support import Crm, CrmPath


def test_members_killed_at_random_leave_everything_once(path: CrmPath) -> None:
    """Two members; either is killed in the middle of a batch, again and again, while the CRM fails and refuses."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    events = path.lives(500)
    refused = {event["event_id"] for event in chance.sample(events, 30)}
    path.crm.misbehave(seed=seed, fail_before=0.05, fail_after=0.05, latency_ms=4, refuse=sorted(refused))
    path.send(*events)
    kills = 0
    with ExitStack() as ended:
        members = [ended.enter_context(path.process(number)) for number in range(2)]
        while path.lag() and kills < 8:
            mark = path.crm.status()["calls"] + chance.randrange(50, 400)
            until(lambda mark=mark: path.crm.status()["calls"] > mark or not path.lag(), 90, f"calls; seed {seed}")  # type: ignore[misc]
            time.sleep(chance.random() * 0.1)
            victim = chance.choice(members)
            victim.kill()
            kills += 1
            victim.start()
        path.wait_until_read(120)
    assert kills >= 4, f"seed {seed}"
    path.assert_exactly_once(refused)


def test_a_member_comes_goes_and_comes_again(path: CrmPath) -> None:
    """Partitions move in the middle of batches; an orderly end keeps what the CRM acknowledged."""
    path.crm.misbehave(latency_ms=5, fail_before=0.05)
    path.send(*path.lives(150))
    with path.process(0):
        until(lambda: len(path.crm.keys()) > 100, 60, "the first works")
        with path.process(1) as second:
            second.wait_ready(60)
            path.send(*path.lives(150, first=150))
            until(lambda: len(path.crm.keys()) > 1200, 60, "both work")
            second.stop()
            second.start()
            path.wait_until_read(90)
    path.assert_exactly_once()


def test_a_member_that_slept_through_its_lease_does_no_harm(platform: Platform, crm: Crm) -> None:
    """One slot: while its holder stands still another member takes over, and what the first wakes up with is void."""
    path = CrmPath(platform, crm, slots=1)
    path.crm.misbehave(latency_ms=20)
    path.send(*path.lives(150))
    with closing(path), path.process(0) as first:
        until(lambda: len(path.crm.keys()) > 50, 60, "the first is in the middle of a batch")
        first.process.send_signal(signal.SIGSTOP)
        with path.process(1):
            until(lambda: len(path.crm.keys()) == 900, 90, "the second goes on")
            first.process.send_signal(signal.SIGCONT)
            until(lambda: first.process.poll() is not None, 60, "the first ends")
            path.wait_until_read()
    path.assert_exactly_once()


def test_a_fenced_producer_commits_nothing_more(path: CrmPath) -> None:
    path.crm.misbehave(stall=True)
    path.send(*path.lives(20))
    with path.member(ends_with=ServiceUnavailableError):
        path.until(lambda: path.crm.status()["stalled"] > 0, 60, "calls are under way")
        other = Producer({**path.settings.kafka.client_config(), "transactional.id": f"{path.group}-0"})
        other.init_transactions(30)
        path.crm.misbehave(stall=False)
        until(path.failed, 60, "the member ends")
        assert "could not" in str(path.failed())
    assert path.changes() == []
    with path.member():
        path.wait_until_read()
    path.assert_exactly_once()


def test_offsets_of_a_member_that_another_replaced_are_refused(path: CrmPath) -> None:
    """A second static member with the slot's name came to the group: the transaction is given up, the member ends."""
    path.crm.misbehave(stall=True)
    path.send(*path.lives(20))
    consumer = Consumer(
        {**path.settings.kafka.client_config(), "group.id": path.group, "group.instance.id": f"{path.group}-0",
         "partition.assignment.strategy": "cooperative-sticky"}
    )  # fmt: skip
    with path.member(ends_with=ServiceUnavailableError) as logs:
        path.until(lambda: path.crm.status()["stalled"] > 0, 60, "calls are under way")
        consumer.subscribe([path.tenant.events_topic])
        until(lambda: (consumer.poll(0.1), consumer.assignment())[1], 60, "the second is in the group")
        path.crm.misbehave(stall=False)
        until(path.failed, 60, "the member ends")
    consumer.close()
    assert path.changes() == []
    assert "transaction given up; its records are read again" in {line["event"] for line in logs}
    with path.member():
        path.wait_until_read()
    path.assert_exactly_once()


def test_a_transaction_that_kafka_refuses_is_given_up_and_tried_again(path: CrmPath) -> None:
    name = path.tenant.topic("crm.state")
    ensure(path.settings.kafka, [NewTopic(name, num_partitions=3, config={"max.message.bytes": "150"})])
    path.send(*path.lives(20))
    with path.member() as logs:
        path.until(
            lambda: "transaction given up; its records are read again" in {line["event"] for line in logs}, 60, "told"
        )
        assert path.lag() == 120
        assert path.changes() == []
        entry = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
        wider = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        admin = AdminClient(path.settings.kafka.client_config())
        for future in admin.incremental_alter_configs([wider]).values():
            future.result(30)
        path.wait_until_read()
    path.assert_exactly_once()
    assert set(path.crm.asked().values()) == {1}, "what the CRM had acknowledged was not told again"


def test_a_broker_that_stands_still_is_waited_for(path: CrmPath) -> None:
    """Longer than one transaction's patience on a busy machine: then the member is built anew."""
    broker = path.platform.stack.kafka
    assert broker is not None
    path.crm.misbehave(latency_ms=5)
    path.send(*path.lives(100))
    with path.member(anew=True):
        path.until(lambda: len(path.crm.keys()) > 50, 60, "in the middle of a batch")
        os.kill(broker.child.pid, signal.SIGSTOP)
        try:
            # Long enough for the calls to end and the commit to meet the silence.
            path.until(lambda: len(path.crm.keys()) >= 100, 30, "a batch is told")
            time.sleep(3)
        finally:
            os.kill(broker.child.pid, signal.SIGCONT)
        path.wait_until_read(150)
    path.assert_exactly_once()


def test_an_open_transaction_of_a_killed_member_is_ended_by_its_successor(path: CrmPath) -> None:
    slot = {"transactional.id": f"{path.group}-0", "transaction.timeout.ms": 600_000}
    dead = Producer({**path.settings.kafka.client_config(), **slot})
    dead.init_transactions(30)
    ensure(path.settings.kafka, [NewTopic(path.tenant.topic("crm.state"), num_partitions=3)])
    dead.begin_transaction()
    for partition in range(3):
        dead.produce(path.tenant.topic("crm.state"), b"never committed", partition=partition)
    assert dead.flush(30) == 0
    path.send(*path.lives(10))
    with path.member():
        path.wait_until_read()
    # A reader of committed records is not held up by the ten minutes of its timeout.
    path.assert_exactly_once()
