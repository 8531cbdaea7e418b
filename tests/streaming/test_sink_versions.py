"""The sink and versions of the schema: typed columns in landing files, a registry that is down, an unknown id."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, CanonicalEvent, latest_schema
from schemas.codec import Encoder
from schemas.promoted import PromotedField, with_promoted
from schemas.registry import Registry
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.kafka import read_all
from tests.processes import ServiceProcess, service, until

SCORE = PromotedField("genesys_score", "genesys.score", "long")
V1 = latest_schema()
V2 = with_promoted(V1, [SCORE])


class SinkPath:
    """One tenant's topic and the sink that reads it."""

    def __init__(self, platform: Platform, registry: Registry, sink: ServiceProcess, tenant: str) -> None:
        self.registry = registry
        self.sink = sink
        self.platform = platform
        self._tenant = tenant
        self.dlq_topic = f"ccaaus.dlq.genesys.{tenant}"
        self._producer = Producer({"bootstrap.servers": platform.stack.bootstrap_servers})

    def produce(self, value: bytes) -> None:
        self._producer.produce(f"ccaaus.events.genesys.{self._tenant}", value)
        assert self._producer.flush(20) == 0

    def event(self, number: int) -> CanonicalEvent:
        return {
            "event_id": f"e-{number}", "vendor": "genesys", "tenant_id": self._tenant, "timestamp": 1,
            "event_type": "conversation.started", "payload": {}, "metadata": {"genesys.score": str(number)},
        }  # fmt: skip

    def landed(self) -> list[Any]:
        """Event id and score by id; of files without the column it is NULL."""
        files = [str(file) for file in self.platform.folder.glob("landing/raw/*/*.parquet") if file.name[0] != "."]
        if not files:
            return []
        query = "SELECT event_id, genesys_score FROM read_parquet($1, union_by_name => true) ORDER BY event_id"
        return duckdb.execute(query, [files]).fetchall()


@pytest.fixture
def path(platform: Platform, own_registry: LocalStack) -> Iterator[SinkPath]:
    folder = platform.folder / "avro"
    shutil.copytree(AVRO_DIR, folder)
    platform.registry = {"url": own_registry.registry_url, "refresh_seconds": 0.2, "schema_dir": str(folder)}
    tenant = platform.add_tenant(
        "genesys", "north", partitions=1, token_url="http://127.0.0.1:1/t", api_url="http://127.0.0.1:1",
        stream_url="http://127.0.0.1:1/s", client_id="i", client_secret="s",
    )  # fmt: skip
    settings = platform.settings()
    ensure_topics(settings.kafka, settings.tenants)
    registry = Registry(settings.registry)
    with service("analytics-sink", platform.config, platform.ports["analytics_sink"]) as sink:
        sink.wait_ready(60)
        yield SinkPath(platform, registry, sink, tenant)
    registry.close()


def test_a_newer_version_lands_typed_and_an_outage_of_the_registry_makes_no_dead_letter(
    path: SinkPath, own_registry: LocalStack
) -> None:
    first, second = path.registry.register(V1), path.registry.register(V2)
    server = own_registry.registry
    assert server is not None
    # The sink has seen no schema yet: it can decode nothing while the registry is down, and nothing is bad.
    server.kill()
    path.produce(Encoder(V2, second).encode(path.event(1)))
    until(lambda: "records wait for the schema registry" in path.sink.log.read_text(), 30, "the sink waits")
    server.start()
    until(lambda: path.landed() == [("e-1", 1)], 30, "landed")
    path.produce(Encoder(V1, first).encode(path.event(2)))
    path.produce(b"\0\x00\x0f\xff\xffwhatever")
    path.produce(Encoder(V2, second).encode({**path.event(3), "metadata": {"genesys.score": "many"}}))
    until(lambda: path.landed() == [("e-1", 1), ("e-2", None), ("e-3", None)], 30, "all versions landed")
    until(lambda: len(read_all(path.platform, path.dlq_topic)) == 1, 30, "the unknown id is a dead letter")
    (letter,) = read_all(path.platform, path.dlq_topic)
    assert dict(letter.headers() or [])["ccaas.error.reason"] == b"unknown_schema"
    file = next(path.platform.folder.glob("landing/raw/*/*.parquet"))
    column = pq.read_schema(file).field("genesys_score")
    assert (str(column.type), column.metadata) == ("int64", {b"ccaas.metadata_key": b"genesys.score"})


def test_a_version_that_comes_within_a_file_gives_it_a_column(path: SinkPath) -> None:
    encoders = Encoder(V1, path.registry.register(V1)), Encoder(V2, path.registry.register(V2))
    path.sink.stop()
    for number in range(6):
        path.produce(encoders[number % 3 != 0].encode(path.event(number)))
    path.sink.start()
    expected = [(f"e-{number}", None if number % 3 == 0 else number) for number in range(6)]
    until(lambda: path.landed() == expected, 60, "landed")
