"""What a demo leaves on a cluster that others use: nothing of its own, everything of theirs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devstack.removal import remove_from_cluster
from devstack.stack import LocalStack
from streaming.settings import KafkaSettings


@contextmanager
def member(servers: str, topic: str, group: str) -> Iterator[None]:
    """A consumer that is in a group, with an offset committed."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        while not consumer.assignment():
            consumer.poll(0.1)
        consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        yield
    finally:
        consumer.close()


def groups(admin: AdminClient) -> set[str]:
    return {group.group_id for group in admin.list_consumer_groups().result(10).valid}


def test_only_what_is_named_is_deleted(stack: LocalStack) -> None:
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    run = uuid.uuid4().hex[:8]
    mine, theirs = f"a.mine-{run}", f"a.mine-{run}-but-not"
    for removal in admin.create_topics([NewTopic(name, 1, 1) for name in (mine, theirs)]).values():
        removal.result(20)
    for name in (mine, theirs):
        with member(stack.bootstrap_servers, name, name):
            pass
    kafka = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    assert remove_from_cluster(kafka, [f".mine-{run}", f"never-made-{run}"], [mine]) == []
    topics = set(admin.list_topics(timeout=10).topics)
    assert (mine in topics, theirs in topics) == (False, True)
    assert (mine in groups(admin), theirs in groups(admin)) == (False, True)
    assert remove_from_cluster(kafka, [f".mine-{run}"], [mine]) == []


def test_a_cluster_that_does_not_answer_is_said() -> None:
    kafka = KafkaSettings.model_validate({"bootstrap_servers": "127.0.0.1:1", "client": {"log_level": "0"}})
    said = remove_from_cluster(kafka, [".genesys.x"], ["g"], request_s=1)
    assert ".genesys.x" in said[0]
    assert "groups g" in said[0]
