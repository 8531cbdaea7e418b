"""analytics-sink as a real process: what lands where, and what happens when it is killed or can't write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.settings import Settings, Tenant
from streaming.sink.landing import footer
from streaming.sink.store import Store, open_store
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import HTTP, ServiceProcess, service, until
from tests.s3 import S3Server
from tests.streaming.sink.files import land, row
from warehouse.landing import list_files

CONNECTION = {
    "token_url": "http://127.0.0.1:1/t", "api_url": "http://127.0.0.1:1", "stream_url": "http://127.0.0.1:1/s",
    "client_id": "i", "client_secret": "s",
}  # fmt: skip


class Landing:
    """Tenants' topics on a real broker, and the landing zone behind the sink."""

    def __init__(self, platform: Platform, tenants: int, partitions: int) -> None:
        self.platform = platform
        for number in range(tenants):
            platform.add_tenant("genesys", f"t{number}", partitions=partitions, **CONNECTION)
        self.settings: Settings = platform.settings()
        ensure_topics(self.settings.kafka, self.settings.tenants)
        registry = Registry(self.settings.registry)
        self.encoder: Encoder = registry.encoder()
        registry.close()
        self._producer = Producer({"bootstrap.servers": platform.stack.bootstrap_servers, "linger.ms": 5})
        self.sent: list[str] = []

    @property
    def store(self) -> Store:
        return open_store(self.settings.landing)

    def send(self, count: int, note: str = "") -> None:
        """So many events to each tenant."""
        for tenant in self.settings.tenants:
            for _ in range(count):
                event_id = f"{tenant.tenant_id}-{len(self.sent)}"
                value = self.encoder.encode(
                    {
                        "event_id": event_id, "vendor": "genesys", "tenant_id": tenant.tenant_id, "timestamp": 1,
                        "event_type": "conversation.started", "payload": {"conversation_id": event_id},
                        "metadata": {"genesys.note": note},
                    }
                )  # fmt: skip
                self.put(tenant, event_id.encode(), value)
                self.sent.append(event_id)
        self.flush()

    def put(self, tenant: Tenant, key: bytes | None, value: bytes | None) -> None:
        self._producer.produce(tenant.events_topic, value, key)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(60) == 0

    def landed(self) -> Counter[str]:
        """How often each event is in the landing zone."""
        return Counter(
            event_id
            for name in list_files(self.store, set())
            for event_id in pq.read_table(pa.BufferReader(self.store.read(name)))["event_id"].to_pylist()
        )

    def all_landed_once(self) -> bool:
        return self.landed() == Counter(self.sent)

    def committed(self) -> int:
        """Records whose offsets are committed."""
        consumer = Consumer(
            {"bootstrap.servers": self.platform.stack.bootstrap_servers, "group.id": self.settings.sink.group}
        )
        try:
            partitions = [
                TopicPartition(tenant.events_topic, number)
                for tenant in self.settings.tenants
                for number in range(tenant.partitions)
            ]
            return sum(max(0, p.offset) for p in consumer.committed(partitions, timeout=20))
        finally:
            consumer.close()

    def cluster_id(self) -> str:
        return str(self._producer.list_topics(timeout=20).cluster_id)

    def commit(self, offset: int) -> None:
        """As a member that is slow to learn of what happened to the first topic."""
        config = {"bootstrap.servers": self.platform.stack.bootstrap_servers, "group.id": self.settings.sink.group}
        consumer = Consumer(config)
        try:
            position = TopicPartition(self.settings.tenants[0].events_topic, 0, offset)
            consumer.commit(offsets=[position], asynchronous=False)
        finally:
            consumer.close()

    def make_anew(self) -> None:
        """Delete the first tenant's topic and make it again."""
        admin = AdminClient({"bootstrap.servers": self.platform.stack.bootstrap_servers})
        topic = self.settings.tenants[0].events_topic
        admin.delete_topics([topic])[topic].result(20)
        until(lambda: topic not in admin.list_topics(timeout=10).topics, 30, "deleted")
        ensure_topics(self.settings.kafka, self.settings.tenants)
        # One that has not sent anything to the old topic.
        self._producer = Producer({"bootstrap.servers": self.platform.stack.bootstrap_servers, "linger.ms": 5})

    def metric(self, name: str) -> float:
        text = HTTP.get(f"http://127.0.0.1:{self.platform.ports['analytics_sink']}/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def sink(self) -> Any:
        return service("analytics-sink", self.platform.config, self.platform.ports["analytics_sink"])


@pytest.fixture
def landing(platform: Platform) -> Landing:
    return Landing(platform, tenants=2, partitions=2)


_DIES = """
import os, signal, sys, threading
from streaming.consumer.member import Member
from streaming.settings import load_settings
from streaming.sink.sink import run_sink

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "before the file":
    from streaming.sink.landing import LandingZone
    LandingZone.write = die
elif sys.argv[1] == "before the rename":
    from pathlib import Path
    Path.rename = die
else:
    Member.commit = die
run_sink(load_settings(), threading.Event())
"""


@pytest.mark.parametrize("when", ["before the file", "before the rename", "before the commit"])
def test_killed_between_two_steps_every_event_lands_once(landing: Landing, when: str) -> None:
    landing.send(50)
    done = subprocess.run(
        [sys.executable, "-c", _DIES, when], env=landing.platform.environment(), timeout=120, check=False
    )
    assert done.returncode == -9
    assert bool(landing.landed()) == (when == "before the commit")
    assert landing.committed() == 0
    temporary = list(landing.platform.folder.glob("landing/raw/*/.tmp-*"))
    assert bool(temporary) == (when == "before the rename")
    with landing.sink():
        until(lambda: landing.committed() == len(landing.sent), 60, "committed, though nothing more comes")
        landing.send(5)
        until(landing.all_landed_once, 60, "every event, once")
        until(lambda: landing.committed() == len(landing.sent), 30, "committed")
        assert not any(file.exists() for file in temporary)


_REFUSED = """
import threading
from streaming.consumer.member import Member
from streaming.settings import load_settings
from streaming.sink.sink import run_sink
commit, refused = Member.commit, []

def refuse(member, offsets):
    if len(refused) < 2:
        refused.append(offsets)
        return False
    return commit(member, offsets)

Member.commit = refuse
run_sink(load_settings(), threading.Event())
"""


def test_offsets_that_kafka_refuses_in_a_rebalance_are_committed_later(landing: Landing) -> None:
    landing.send(50)
    sink = subprocess.Popen([sys.executable, "-c", _REFUSED], env=landing.platform.environment())
    try:
        until(lambda: landing.committed() == len(landing.sent), 60, "committed, though nothing more comes")
        assert landing.all_landed_once()
    finally:
        sink.kill()
        sink.wait()


def test_a_topic_made_anew_lands_from_its_beginning(platform: Platform) -> None:
    """While the sink is away, and the new topic has more records than have landed; then while it reads, and fewer."""
    landing = Landing(platform, tenants=1, partitions=1)
    landing.send(50)
    with landing.sink():
        until(landing.all_landed_once, 60, "the first")
    landing.make_anew()
    landing.send(80)
    with landing.sink():
        until(landing.all_landed_once, 60, "the second")
        landing.make_anew()
        landing.send(20)
        until(landing.all_landed_once, 90, "the third")
    landing.send(5)
    with landing.sink():
        until(landing.all_landed_once, 60, "more of the third")
    lives = {life for entry in landing.store.entries("raw") for life in footer(landing.store, entry.name).lasts}
    assert len(lives) == 3


def test_an_offset_committed_on_leaving_a_topic_s_former_life_is_not_believed(platform: Platform) -> None:
    landing = Landing(platform, tenants=1, partitions=1)
    topic = landing.settings.tenants[0].events_topic
    former = row(49, _topic=topic)
    land(landing.store, [former], cluster=landing.cluster_id(), incarnations={topic: f"{topic}@former"})
    landing.commit(50)
    landing.sent.append(former["event_id"])
    landing.send(80)
    with landing.sink():
        until(landing.all_landed_once, 60, "the second life, from its beginning")
        until(lambda: landing.committed() == 80, 30, "committed")


def test_a_landing_zone_that_takes_no_file_is_waited_for(landing: Landing) -> None:
    """The folder's name is taken by a file: nothing can be written, as on a full disk, until it is gone."""
    (landing.platform.folder / "landing").mkdir()
    blocker = landing.platform.folder / "landing/raw"
    blocker.touch()
    with landing.sink() as sink:
        sink.wait_ready(60)
        process = psutil.Process(sink.process.pid)
        landing.send(100)
        until(lambda: landing.metric("ccaas_sink_files_refused_total") >= 3, 60, "tried again")
        landing.send(100)
        refused = landing.metric("ccaas_sink_files_refused_total")
        until(lambda: landing.metric("ccaas_sink_files_refused_total") > refused, 60, "and again")
        assert landing.committed() == 0
        assert landing.metric("ccaas_sink_rows_buffered") <= 200, "nothing more is read"
        blocker.unlink()
        until(landing.all_landed_once, 60, "every event, once")
        until(lambda: landing.committed() == len(landing.sent), 30, "committed")
        landing.send(10)
        until(landing.all_landed_once, 30, "reads on")
        assert process.is_running()
        assert sink.log.read_text().count("partitions assigned") == 1, "it stayed in its group"


def test_an_object_store_that_goes_away_and_comes_back(platform: Platform, s3: S3Server) -> None:
    landing = Landing(platform, tenants=1, partitions=2)
    url = s3.new_folder()
    landing.settings = landing.settings.model_copy(
        update={"sink": landing.settings.sink.model_copy(update={"landing": url})}
    )
    log = platform.folder / "sink.log"
    health = f"http://127.0.0.1:{platform.ports['analytics_sink']}"
    own = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    sink = ServiceProcess("analytics-sink", platform.config, log, health, {**own, "CCAAS_SINK__LANDING": url})
    try:
        sink.wait_ready(60)
        landing.send(50)
        until(landing.all_landed_once, 60, "landed")
        s3.stop()
        landing.send(50)
        until(lambda: landing.metric("ccaas_sink_files_refused_total") >= 1, 90, "refused")
        s3.start()
        until(landing.all_landed_once, 90, "landed once it is back")
        sink.kill()
        landing.send(50)
        sink.start()
        until(landing.all_landed_once, 90, "landed by the next one")
    finally:
        sink.stop()
    assert not (platform.folder / "landing").exists()


def test_bad_records_among_good_ones_are_dead_letters(landing: Landing) -> None:
    tenant = landing.settings.tenants[0]
    landing.put(tenant, b"tombstone", None)
    landing.send(20)
    landing.put(tenant, b"cut", landing.encoder.encode(_event(tenant))[:-4])
    landing.put(tenant, b"foreign", b"{}")
    landing.put(tenant, b"unknown id", b"\0\x7f\xff\xff\xff....")
    landing.send(20)
    with landing.sink():
        until(landing.all_landed_once, 60, "the good ones")
        until(lambda: len(read_all(landing.platform, tenant.dlq_topic)) == 4, 30, "the bad ones")
        until(lambda: landing.committed() == len(landing.sent) + 4, 30, "committed")
    assert {letter.key() for letter in read_all(landing.platform, tenant.dlq_topic)} == {
        b"tombstone", b"cut", b"foreign", b"unknown id",
    }  # fmt: skip


def _event(tenant: Tenant) -> Any:
    return {
        "event_id": "x", "vendor": "genesys", "tenant_id": tenant.tenant_id, "timestamp": 1, "event_type": "t",
        "payload": {}, "metadata": {"a": "b"},
    }  # fmt: skip


def test_many_tenants_share_files(platform: Platform) -> None:
    """One file a flush, not one a tenant."""
    landing = Landing(platform, tenants=60, partitions=1)
    for _ in range(4):
        landing.send(3)
    with landing.sink():
        until(landing.all_landed_once, 90, "landed")
        until(lambda: landing.committed() == len(landing.sent), 30, "committed")
        files = landing.metric("ccaas_sink_files_landed_total")
    assert len(list_files(landing.store, set())) == files < 60
