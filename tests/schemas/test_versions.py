"""Versions of the schema, on a registry of the test's own."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import ValidationError

from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, CanonicalEvent, latest_schema, schema_versions, write_version
from schemas.live import LiveEncoder
from schemas.promoted import PromotedField, promoted_fields, with_promoted
from schemas.registry import IncompatibleSchemaError, Registry
from streaming.errors import BadEventError, ConfigurationError, ServiceUnavailableError
from streaming.settings import RegistrySettings
from tests.processes import until

V1 = latest_schema()
SCORE = PromotedField("genesys_score", "genesys.score", "long")
MOOD = PromotedField("genesys_mood", "genesys.mood", "string")
V2 = with_promoted(V1, [SCORE])
V3 = with_promoted(V2, [MOOD])
EVENT: CanonicalEvent = {
    "event_id": "e", "vendor": "genesys", "tenant_id": "t", "timestamp": 1, "event_type": "conversation.started",
    "payload": {}, "metadata": {"genesys.score": "7", "genesys.mood": "fine"},
}  # fmt: skip


@pytest.fixture
def settings(own_registry: LocalStack, tmp_path: Path) -> RegistrySettings:
    folder = tmp_path / "avro"
    shutil.copytree(AVRO_DIR, folder)
    return RegistrySettings(url=own_registry.registry_url, schema_dir=folder)


@pytest.fixture
def registry(settings: RegistrySettings) -> Iterator[Registry]:
    made = Registry(settings)
    yield made
    made.close()


def decoded(registry: Registry, value: bytes) -> dict[str, Any]:
    return dict(registry.decoder(as_written=True).decode(value))


def test_the_folder_is_registered_in_order_and_the_newest_is_used(registry: Registry) -> None:
    assert registry.versions() == {}
    write_version(registry.folder, 2, V2)
    write_version(registry.folder, 10, V3)
    text, schema_id = registry.current()
    assert json.loads(text) == json.loads(V3)
    assert [json.loads(item) for item in registry.versions().values()] == [json.loads(item) for item in (V1, V2, V3)]
    assert registry.current() == (text, schema_id)
    assert promoted_fields(text) == (SCORE, MOOD), "the registry keeps the attribute that names the key"


def test_a_version_that_another_installation_registered_is_used(registry: Registry) -> None:
    registry.register(V1)
    registry.register(V2)
    assert promoted_fields(registry.current()[0]) == (SCORE,)
    assert schema_versions(registry.folder).keys() == {1}


def test_a_version_without_a_promoted_field_is_passed_over(registry: Registry) -> None:
    registry.register(V1)
    registry.register(V2)
    # FULL lets it pass: a field with a default may go.
    registry.register(V1.replace("One vendor-neutral", "A vendor-neutral"))
    assert promoted_fields(registry.current()[0]) == (SCORE,)


def test_versions_that_were_registered_past_each_other_are_brought_together(registry: Registry) -> None:
    registry.register(V1)
    registry.register(V2)
    registry.register(with_promoted(V1, [MOOD]))
    text, schema_id = registry.current()
    assert set(promoted_fields(text)) == {SCORE, MOOD}
    assert registry.current() == (text, schema_id)
    assert len(registry.versions()) == 4


def test_check_names_the_version_and_the_problem(registry: Registry) -> None:
    registry.register(V1)
    registry.register(V2)
    registry.check(V3)
    # FULL against the newest alone would let a retyped field pass after it was dropped.
    registry.register(V1.replace("One vendor-neutral", "A vendor-neutral"))
    retyped = with_promoted(V1, [SCORE._replace(type="string")])
    with pytest.raises(IncompatibleSchemaError, match=r"version 2 registered: .*genesys_score"):
        registry.check(retyped)
    with pytest.raises(IncompatibleSchemaError, match="metadata is missing"):
        registry.check(V1.replace('"metadata"', '"meta"'))
    with pytest.raises(ConfigurationError, match="no Avro schema"):
        registry.check("{}")


def test_processes_that_register_first_at_once_all_get_the_id(settings: RegistrySettings) -> None:
    def register() -> int:
        registry = Registry(settings)
        try:
            start.wait()
            return registry.current()[1]
        finally:
            registry.close()

    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        ids = [run.result() for run in [pool.submit(register) for _ in range(8)]]
    assert len(set(ids)) == 1


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    file = write_version(tmp_path, 2, V2)
    assert write_version(tmp_path, 2, json.dumps(json.loads(V2))) == file
    assert file.read_text() == V2
    with pytest.raises(ConfigurationError, match="another schema"):
        write_version(tmp_path, 2, V3)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_of_two_writers_of_a_version_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    texts = [with_promoted(V1, [SCORE._replace(key=f"genesys.score{number}")]) for number in range(8)]

    def write(text: str) -> str | None:
        try:
            return write_version(tmp_path, 2, text).read_text()
        except ConfigurationError:
            return None

    with ThreadPoolExecutor(len(texts)) as pool:
        written = [text for text in pool.map(write, texts) if text is not None]
    assert written == [schema_versions(tmp_path)[2]]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_closed_encoder_asks_no_more(registry: Registry) -> None:
    encoder = LiveEncoder(registry)
    before = threading.active_count()
    encoder.follow(3600, threading.Event())
    assert threading.active_count() == before + 1
    encoder.close()
    until(lambda: threading.active_count() == before, 20, "its thread ends")


def test_the_encoder_follows_the_registry_also_over_an_outage(own_registry: LocalStack, registry: Registry) -> None:
    encoder = LiveEncoder(registry)
    assert "genesys_score" not in decoded(registry, encoder.encode(EVENT))
    stop = threading.Event()
    encoder.follow(0.1, stop)
    server = own_registry.registry
    assert server is not None
    server.kill()
    assert decoded(registry, encoder.encode(EVENT))["event_id"] == "e", "it needs no registry"
    server.start()
    registry.register(V2)
    until(lambda: decoded(registry, encoder.encode(EVENT)).get("genesys_score") == 7, 30, "the newer version")
    stop.set()


def test_a_value_that_does_not_fit_is_null_and_stays_in_the_metadata(registry: Registry) -> None:
    registry.register(V1)
    registry.register(V3)
    event: CanonicalEvent = {**EVENT, "metadata": {"genesys.score": "many"}}
    assert decoded(registry, registry.encoder().encode(event)) == {**event, "genesys_score": None, "genesys_mood": None}


def test_a_consumer_pinned_to_the_first_version_reads_every_later_one(
    own_registry: LocalStack, registry: Registry
) -> None:
    registry.register(V1)
    registry.register(V2)
    registry.register(V3)
    value = registry.encoder().encode(EVENT)
    assert decoded(registry, value)["genesys_score"] == 7
    with SchemaRegistryClient({"url": own_registry.registry_url}) as client:
        pinned = AvroDeserializer(client, V1)
        assert pinned(value, SerializationContext("t", MessageField.VALUE)) == EVENT
    assert registry.decoder().decode(value) == EVENT


def test_a_foreign_schema_makes_a_bad_event(own_registry: LocalStack, registry: Registry) -> None:
    registry.register(V1)
    foreign = {"type": "record", "name": "Other", "fields": [{"name": "a", "type": "string", "default": ""}]}
    with SchemaRegistryClient({"url": own_registry.registry_url}) as client:
        schema_id = client.register_schema("other", Schema(json.dumps(foreign), "AVRO"))
    with pytest.raises(BadEventError, match="no canonical event") as caught:
        decoded(registry, b"\0" + schema_id.to_bytes(4, "big") + b"\2x")
    assert caught.value.reason == "unknown_schema"


def test_a_registry_that_is_down_is_said_so() -> None:
    down = Registry(RegistrySettings(url="http://127.0.0.1:9/apis/ccompat/v7", schema_dir=AVRO_DIR))
    for ask in (down.current, down.versions, lambda: down.check(V2)):
        with pytest.raises(ServiceUnavailableError):
            ask()
    down.close()


def test_the_folder_of_versions_is_the_same_from_wherever_one_reads() -> None:
    with pytest.raises(ValidationError, match="absolute"):
        RegistrySettings(schema_dir=Path("avro"))
