"""What the consumers' benchmarks share: topics full of events, how far a group has come, a service's metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import httpx
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from bench.lab import Lab
from bench.messages import genesys_call
from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from schemas.normalise import normaliser
from schemas.registry import Registry
from streaming.settings import RegistrySettings, Settings, Tenant
from streaming.topics import ensure_topics

EVENTS_PER_CALL = 7
_KAFKA_S = 30.0
_FLUSH_S = 120.0
_TOPICS_TOGETHER = 50
_CONNECTION = {
    "token_url": "http://127.0.0.1:9/token",
    "api_url": "http://127.0.0.1:9",
    "stream_url": "http://127.0.0.1:9/stream",
    "client_id": "i",
    "client_secret": "s",
}


def genesys_tenant(tenant_id: str, partitions: int = 4) -> Tenant:
    """A tenant whom no service ingests."""
    return Tenant(tenant_id=tenant_id, vendor="genesys", partitions=partitions, connection=_CONNECTION)


def tenant_toml(tenant: Tenant) -> str:
    """The tenant as a service's settings file names it."""
    connection = "".join(f'{key} = "{value}"\n' for key, value in _CONNECTION.items())
    return (
        f'[[tenants]]\ntenant_id = "{tenant.tenant_id}"\nvendor = "{tenant.vendor}"\n'
        f"partitions = {tenant.partitions}\n[tenants.connection]\n{connection}"
    )


def events_of_calls(tenant: Tenant, calls: Iterable[int]) -> Iterator[CanonicalEvent]:
    """Canonical events of answered calls, one a second, by the number of the call; seven a call."""
    normalise = normaliser("genesys").normalise
    for number in calls:
        for message in genesys_call(number):
            yield from normalise(orjson.dumps(message), tenant.tenant_id)


class Bus:
    """The lab's Kafka and registry, as a producer of events.

    Args:
        lab: Where they run.
    """

    def __init__(self, lab: Lab) -> None:
        self._settings = Settings(
            kafka={"bootstrap_servers": lab.stack.bootstrap_servers},
            registry={"url": lab.stack.registry_url},
            data_dir=lab.folder,
        )
        registry = Registry(RegistrySettings(url=lab.stack.registry_url))
        self.schema, schema_id = registry.current()
        registry.close()
        self._encoder = Encoder(self.schema, schema_id)
        self._producer = Producer(
            {
                **self._settings.kafka.client_config(),
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 5,
                "queue.buffering.max.messages": 100_000,
            }
        )

    def make_topics(self, tenants: Sequence[Tenant]) -> None:
        """In portions: a broker that gets thousands at once has no leader for the last ones for long."""
        for first in range(0, len(tenants), _TOPICS_TOGETHER):
            ensure_topics(self._settings.kafka, tenants[first : first + _TOPICS_TOGETHER])

    def send(self, tenant: Tenant, event: CanonicalEvent) -> None:
        """Queue one event, as the platform's publisher would key it."""
        key, value = event["event_id"].encode(), self._encoder.encode(event)
        while True:
            try:
                self._producer.produce(tenant.events_topic, value, key, headers=[("ccaas.transport", b"sse")])
            except BufferError:
                self._producer.poll(0.05)
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        """Wait until Kafka has all.

        Raises:
            TimeoutError: it has not.
        """
        if left := self._producer.flush(_FLUSH_S):
            msg = f"Kafka has not taken {left} records in {_FLUSH_S:.0f} s"
            raise TimeoutError(msg)

    def fill(self, tenant: Tenant, calls: int) -> int:
        """The tenant's topic, made and filled with so many calls; gives the number of events."""
        self.make_topics([tenant])
        count = 0
        for event in events_of_calls(tenant, range(calls)):
            self.send(tenant, event)
            count += 1
        self.flush()
        return count


class Group:
    """How far a consumer group has come.

    Args:
        bootstrap_servers: Kafka's address.
        group: Its name.
        tenants: Whose events it reads.
    """

    def __init__(self, bootstrap_servers: str, group: str, tenants: Iterable[Tenant]) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group})
        self._partitions = [
            TopicPartition(tenant.events_topic, number) for tenant in tenants for number in range(tenant.partitions)
        ]

    def committed(self) -> int:
        """Sum of the committed offsets: the number of records, on topics without transactions that begin at 0."""
        found = self._consumer.committed(self._partitions, timeout=_KAFKA_S)
        return sum(max(0, partition.offset) for partition in found)

    def close(self) -> None:
        self._consumer.close()


def rate_of(done: Callable[[], int], enough: int, seconds: float, every_s: float = 0.02) -> float:
    """Events a second, from when the first are done until enough are: what a process needs to start does not count.

    Args:
        done: How many are done; it may go up in steps.
        enough: To stop at.
        seconds: Deadline.
        every_s: How often to look.

    Raises:
        TimeoutError: too few are done in time.
        RuntimeError: the first look that sees any sees enough.
    """
    first, began = 0, 0.0
    deadline = time.monotonic() + seconds
    while (count := done()) < enough:
        now = time.monotonic()
        if now > deadline:
            msg = f"{count} of {enough} events done in {seconds:.0f} s"
            raise TimeoutError(msg)
        if not first and count:
            first, began = count, now
        time.sleep(every_s)
    if not first:
        msg = f"{count} events were done at once: too few for a rate"
        raise RuntimeError(msg)
    return (count - first) / (time.monotonic() - began)


def metric(port: int, name: str) -> float:
    """Sum of a metric's samples, as a service on that port tells it; 0 if it has none, or is not up yet."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False).text
    except httpx.TransportError:
        return 0.0
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )
