"""Members of wfm-realtime as real processes, a tenant's topic to feed them, and what they say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from zlib import crc32

import orjson
from confluent_kafka import Producer

from schemas.registry import Registry
from streaming.settings import Settings, Tenant
from streaming.topics import ensure_topics
from streaming.wfm.facts import Segment, fact_of, write_block
from streaming.wfm.topics import ensure_wfm_topics, facts_topic, live_topic
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import ServiceProcess, free_port
from tests.streaming.wfm.day import canonical
from tests.warehouse.events import Event

Live = dict[tuple[str, ...], dict[str, Any]]


class Bus:
    """A tenant's topic of events.

    Args:
        platform: The test's.
        partitions: Of the topic.
    """

    def __init__(self, platform: Platform, partitions: int = 4) -> None:
        self.platform = platform
        self.partitions = partitions
        platform.add_tenant("genesys", "wfm", partitions=partitions)
        self.settings: Settings = platform.settings()
        (self.tenant,) = self.settings.tenants
        ensure_topics(self.settings.kafka, [self.tenant])
        ensure_wfm_topics(self.settings.kafka, [self.tenant])
        registry = Registry(self.settings.registry)
        self._encoder = registry.encoder()
        registry.close()
        self._producer = Producer({**self.settings.kafka.client_config(), "linger.ms": 1})

    def publish(self, items: Iterable[Event]) -> None:
        """Each event on a partition that only its id decides; all are there afterwards."""
        for item in items:
            event = canonical(item, self.tenant.tenant_id)
            self.raw(crc32(item.event_id.encode()) % self.partitions, self._encoder.encode(event))
        self.flush()

    def publish_to(self, partition: int, items: Iterable[Event]) -> None:
        for item in items:
            self.raw(partition, self._encoder.encode(canonical(item, self.tenant.tenant_id)))
        self.flush()

    def pass_on(self, partition: int, items: list[Event]) -> None:
        """As a member does that has read these, the first records of a partition."""
        facts = [fact for number, item in enumerate(items) if (fact := fact_of(canonical(item), number))]
        segment = Segment(partition, 0, len(items), max(fact[2] for fact in facts), facts)
        self._producer.produce(facts_topic(self.tenant), write_block([segment]))
        self.flush()

    def everywhere(self, item: Event) -> None:
        """An event on every partition: then event time has passed it everywhere."""
        for number in range(self.partitions):
            self.publish_to(number, [item])

    def raw(self, partition: int, value: bytes | None) -> None:
        self._producer.produce(self.tenant.events_topic, value, partition=partition)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def live(platform: Platform, tenant: Tenant) -> Live:
    """What the compacted live topic holds."""
    records: Live = {}
    for message in read_all(platform, live_topic(tenant)):
        key = tuple(orjson.loads(message.key() or b""))
        value = message.value()
        if value is None:
            records.pop(key, None)
        else:
            records[key] = orjson.loads(value)
    return records


class Members:
    """Processes of one group.

    Args:
        platform: The test's.
        count: How many.
        settings: Further settings, as environment variables.
    """

    def __init__(self, platform: Platform, count: int, **settings: str) -> None:
        self._platform = platform
        self._count = count
        self._settings = settings
        self.port = free_port()
        self.processes: list[ServiceProcess] = []

    def start(self, number: int) -> ServiceProcess:
        platform, health = self._platform, free_port()
        environment = {
            "CCAAS_WFM__GROUP": f"wfm-{platform.suffix}",
            "CCAAS_WFM__TOPICS": rf"^ccaaus\.events\..*-{platform.suffix}$",
            # As many as members: one that is killed comes back under its own slot.
            "CCAAS_WFM__SLOTS": str(self._count),
            "CCAAS_WFM__PORT": str(self.port),
            "CCAAS_HEALTH__WFM_REALTIME": str(health),
            **self._settings,
        }
        log = platform.folder / f"wfm-{number}.log"
        return ServiceProcess("wfm-realtime", platform.config, log, f"http://127.0.0.1:{health}", environment)

    @contextlib.contextmanager
    def running(self) -> Iterator[list[ServiceProcess]]:
        with ExitStack() as stack:
            for number in range(self._count):
                self.processes.append(self.start(number))
                stack.callback(self.processes[-1].stop)
            for process in self.processes:
                process.wait_ready(60)
            yield self.processes

    def logs(self) -> str:
        return "".join(process.log.read_text()[-6000:] for process in self.processes)
