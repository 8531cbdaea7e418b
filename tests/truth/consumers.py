"""The three consumer groups as processes of a test, and what they leave behind: at the CRM, on Kafka, on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import pandas as pd
from confluent_kafka import Consumer, Producer, TopicPartition

from devstack.replay import Vendor
from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.settings import Settings
from tests.conftest import Platform
from tests.kafka import read_all, read_events
from tests.processes import HTTP, ServiceProcess, free_port, until
from tests.replaying import Replaying
from tests.truth.from_trace import AGENT_COLUMNS, QUEUE_COLUMNS
from tests.truth.simulated_crm import Crm

# Section of the settings, and of [health], by service.
SECTIONS = {"crm-sync": "crm", "analytics-sink": "sink", "wfm-realtime": "wfm"}
_START_SECONDS = 120.0
_CATCH_UP_SECONDS = 120.0
# A killed member's slot is free again after so long.
_LEASE_SECONDS = "2"


class Consumers:
    """Members of the three groups, in a data folder and under groups of their own beside the replay's services.

    Args:
        running: The replay; its own analytics-sink, which nobody disturbs, lands the same events elsewhere.
        folder: For data and logs.
        crm: The CRM.
        exits: Ends the processes.
    """

    def __init__(self, running: Replaying, folder: Path, crm: Crm, exits: ExitStack) -> None:
        self.running = running
        self.folder = folder
        self.crm = crm
        self.members: dict[str, list[ServiceProcess]] = {name: [] for name in SECTIONS}
        self.kills: Counter[str] = Counter()
        self._slots = 0
        self._exits = exits
        settings = running.replay.settings()
        self._groups = {name: f"{section}{_suffix(settings)}" for name, section in SECTIONS.items()}
        self._topics = settings.sink.topics
        self.vendors = running.replay.vendors
        self._reader = Platform(running.replay.stack, folder)

    # Processes

    def add(self) -> None:
        """One more member of each group."""
        self._slots += 1
        for name, members in self.members.items():
            port = free_port()
            log = self.folder / f"{name}-{len(members)}.log"
            config, health = self.running.replay.config, f"http://127.0.0.1:{port}"
            member = ServiceProcess(name, config, log, health, self._environment(name, port))
            self._exits.callback(member.stop)
            members.append(member)

    def wait_ready(self) -> None:
        """Until every group has a member with partitions."""
        for name in self.members:
            self._ready(name)

    def kill(self, name: str, random: Random) -> None:
        """kill -9 of a random member that is at work, and another process in its place at once."""
        self._look_after()
        victim = random.choice(self._ready(name))
        victim.kill()
        self.kills[name] += 1
        self._restart(victim)

    def leave(self) -> None:
        """The last member of each group ends in peace and stays away; its partitions move once its session is over."""
        self._slots -= 1
        for members in self.members.values():
            members.pop().stop()

    def _restart(self, member: ServiceProcess) -> None:
        port = int(member.health.rpartition(":")[2])
        member.environment = self._environment(member.name, port)
        member.start()

    def _look_after(self) -> None:
        """Start those again that ended by themselves, as their deployment would, unless by a fault unforeseen."""
        for members in self.members.values():
            for member in members:
                if member.process.poll() is not None:
                    text = member.log.read_text()
                    assert "Traceback (most recent call last)" not in text, text[-3000:]
                    self._restart(member)

    def _ready(self, name: str) -> list[ServiceProcess]:
        """The group's members that have partitions; waits until there is one."""
        found: list[ServiceProcess] = []

        def any_ready() -> bool:
            self._look_after()
            found[:] = [member for member in self.members[name] if _is_ready(member)]
            return bool(found)

        until(any_ready, _START_SECONDS, f"a member of {name} is ready; its log: {self.folder}")
        return found

    def _environment(self, name: str, port: int) -> dict[str, str]:
        section = SECTIONS[name].upper()
        return {
            "CCAAS_DATA_DIR": str(self.folder),
            "CCAAS_STATE__LEASE_TTL_SECONDS": _LEASE_SECONDS,
            f"CCAAS_{section}__GROUP": self._groups[name],
            f"CCAAS_{section}__TOPICS": self._topics,
            # As many slots as members: whoever comes after a killed one takes its slot, and with it its partitions.
            f"CCAAS_{section}__SLOTS": str(self._slots),
            f"CCAAS_HEALTH__{name.upper().replace('-', '_')}": str(port),
            "CCAAS_CRM__URL": self.crm.url,
            "CCAAS_SINK__FLUSH_SECONDS": "0.5",
            "CCAAS_WFM__PORT": str(free_port()),
        }

    # What they leave

    def settings(self) -> Settings:
        """Settings of the loads from what these members have landed."""
        return self.running.replay.settings().model_copy(update={"data_dir": self.folder})

    def send(self, event: CanonicalEvent) -> None:
        """Put one event on its tenant's topic."""
        settings = self.running.replay.settings()
        registry = Registry(settings.registry)
        schema, schema_id = registry.current()
        registry.close()
        topic = f"ccaaus.events.{event['vendor']}.{event['tenant_id']}"
        producer = Producer({**settings.kafka.client_config(), "acks": "all"})
        producer.produce(topic, Encoder(schema, schema_id).encode(event), event["event_id"].encode())
        assert producer.flush(30) == 0

    def wait_caught_up(self) -> None:
        """Until the CRM and the landing zone have all that is on the bus, by the groups' committed offsets."""
        for name in ("crm-sync", "analytics-sink"):
            self._until(lambda name=name: self._behind(name) == 0, f"{name} has caught up")  # type: ignore[misc]

    def wait_live(self, condition: Callable[[], bool]) -> None:
        """Until the live topics say so; the deadline's error is the caller's to raise."""
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while not condition() and time.monotonic() < deadline:
            self._look_after()
            time.sleep(0.5)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def looked_after() -> bool:
            self._look_after()
            return condition()

        until(looked_after, _CATCH_UP_SECONDS, what)

    def _behind(self, name: str) -> int:
        config = {"bootstrap.servers": self.running.replay.stack.bootstrap_servers, "group.id": self._groups[name]}
        consumer = Consumer(config)
        try:
            left = 0
            for vendor in self.vendors:
                topic = vendor.events_topic
                numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
                for partition in consumer.committed([TopicPartition(topic, n) for n in numbers], timeout=10):
                    _, high = consumer.get_watermark_offsets(partition, timeout=10)
                    left += high - max(0, partition.offset)
            return left
        finally:
            consumer.close()

    def events(self) -> list[dict[str, Any]]:
        """Every record on the bus, repetitions included."""
        return [event for vendor in self.vendors for event in read_events(self._reader, vendor.events_topic)]

    def changes(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Key and content of every committed state change."""
        return [
            (message.key() or b"", orjson.loads(message.value() or b""))
            for vendor in self.vendors
            for message in read_all(self._reader, f"ccaaus.crm.state.{vendor.name}.{vendor.tenant_id}")
        ]

    def dead_letters(self) -> int:
        return sum(len(read_all(self._reader, vendor.dlq_topic)) for vendor in self.vendors)

    def live_tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Closed intervals of queues and agents, as the live topics have them."""
        queues: list[dict[str, Any]] = []
        agents: list[dict[str, Any]] = []
        for vendor in self.vendors:
            live = self._live(vendor)
            queues += [value for key, value in live.items() if key[0] == "queue_interval" and value["closed"]]
            agents += [value for key, value in live.items() if key[0] == "agent_interval"]
        return _table(queues, QUEUE_COLUMNS), _table(agents, AGENT_COLUMNS)

    def _live(self, vendor: Vendor) -> dict[tuple[str, ...], dict[str, Any]]:
        """A compacted topic's content: the newest value of each key, without what is no more."""
        found: dict[tuple[str, ...], Any] = {}
        for message in read_all(self._reader, f"ccaaus.wfm.live.{vendor.name}.{vendor.tenant_id}"):
            value = message.value()
            found[tuple(orjson.loads(message.key() or b""))] = None if value is None else orjson.loads(value)
        return {key: value for key, value in found.items() if value is not None}


@contextmanager
def consuming(running: Replaying, folder: Path, *, members: int) -> Iterator[Consumers]:
    """A CRM, and so many members of each group, at work."""
    folder.mkdir()
    with ExitStack() as exits:
        crm = Crm(folder)
        exits.callback(crm.close)
        consumers = Consumers(running, folder, crm, exits)
        for _ in range(members):
            consumers.add()
        consumers.wait_ready()
        yield consumers


def _is_ready(member: ServiceProcess) -> bool:
    try:
        return HTTP.get(f"{member.health}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:  # not up yet, or killed a moment ago
        return False


def _suffix(settings: Settings) -> str:
    """The replay's, with its hyphen."""
    tenant_id = settings.tenants[0].tenant_id
    return tenant_id[tenant_id.rindex("-") :]


def _table(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows as a table of the warehouse's columns, tenants without the run's suffix."""
    table = pd.DataFrame(rows, columns=columns)
    table["tenant_id"] = table["tenant_id"].str.rpartition("-")[0]
    table["interval_start"] = pd.to_datetime(table["interval_start"], utc=True)
    return table
