"""Schemas that somebody registered past this platform's checks: no reader and no writer stops at them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, SUBJECT, CanonicalEvent, latest_schema, schema_versions
from schemas.codec import Decoder, Encoder
from schemas.live import LiveEncoder
from schemas.promoted import KEY_ATTRIBUTE, PromotedField, promoted_fields, with_promoted
from schemas.registry import IncompatibleSchemaError, Registry
from streaming.errors import BadEventError, ConfigurationError, ServiceUnavailableError
from streaming.settings import RegistrySettings

V1 = latest_schema()
SCORE = PromotedField("genesys_score", "genesys.score", "long")
V2 = with_promoted(V1, [SCORE])
EVENT: CanonicalEvent = {
    "event_id": "e", "vendor": "genesys", "tenant_id": "t", "timestamp": 1, "event_type": "conversation.started",
    "payload": {}, "metadata": {"genesys.score": "7"},
}  # fmt: skip


def also(field: object) -> str:
    """The first version and a field more."""
    document = json.loads(V1)
    return json.dumps({**document, "fields": [*document["fields"], field]})


def odd(**attributes: Any) -> dict[str, Any]:
    return {"name": "odd", "type": ["null", "long"], "default": None, KEY_ATTRIBUTE: "genesys.odd"} | attributes


@pytest.mark.parametrize(
    "schema",
    [
        'syntax = "proto3"; message A {}',
        '{"type": "object", "properties": {}}',
        '"string"',
        '["null", "string"]',
        also("no field"),
        also({"name": "odd", "type": "nonsense"}),
        also(odd(type="bytes")),
        also(odd(type=["null", "bytes"])),
        also(odd(name="_offset")),
        also(odd(**{KEY_ATTRIBUTE: 7})),
        V1.replace('"name": "metadata"', '"name": "meta"'),
    ],
)
@pytest.mark.parametrize("reader", [None, V1])
def test_a_record_of_another_schema_is_a_bad_event(schema: str, reader: str | None) -> None:
    decoder = Decoder(reader, lambda _: schema)
    for _ in range(2):
        with pytest.raises(BadEventError, match="no canonical event") as caught:
            decoder.decode(Encoder(V1, 1).encode(EVENT))
        assert caught.value.reason == "unknown_schema"
    assert decoder.promoted == ()


@pytest.mark.parametrize("other", [SCORE._replace(type="string"), SCORE._replace(key="genesys.points")])
def test_a_promoted_field_that_changed_keeps_its_first_meaning(other: PromotedField) -> None:
    schemas = {1: V2, 2: with_promoted(V1, [other, PromotedField("genesys_mood", "genesys.mood", "string")])}
    decoder = Decoder(None, schemas.__getitem__)
    first, second = (decoder.decode(Encoder(schemas[number], number).encode(EVENT)) for number in schemas)
    assert first == {**EVENT, "genesys_score": 7}
    assert second == {**EVENT, "genesys_mood": None}, "of the other meaning there is the metadata"
    assert [field.name for field in decoder.promoted] == ["genesys_score", "genesys_mood"]


def test_producers_pass_over_a_version_that_they_cannot_fill(own_registry: LocalStack) -> None:
    settings = RegistrySettings(url=own_registry.registry_url)
    registry = Registry(settings)
    registry.register(V2)
    live = LiveEncoder(registry)
    with SchemaRegistryClient({"url": own_registry.registry_url}) as client:
        client.register_schema(SUBJECT, Schema(also(odd(type=["null", "bytes"])), "AVRO"))
    live.refresh()
    assert live.promoted == (SCORE,)
    restarted = Registry(settings)
    assert promoted_fields(restarted.current()[0]) == (SCORE,)
    restarted.close()
    live.close()


@pytest.mark.parametrize("other", [SCORE._replace(type="string"), SCORE._replace(key="genesys.points")])
def test_producers_pass_over_a_version_that_changes_a_promoted_field(
    own_registry: LocalStack, other: PromotedField
) -> None:
    """FULL looks at the newest version alone: dropped and registered anew, a field may come back as another."""
    registry = Registry(RegistrySettings(url=own_registry.registry_url))
    first = registry.register(V2)
    registry.register(V1.replace("One vendor-neutral", "A vendor-neutral"))
    registry.register(with_promoted(V1, [other]))
    text, schema_id = registry.current()
    assert (promoted_fields(text), schema_id) == ((SCORE,), first)
    assert len(registry.versions()) == 3
    registry.close()


def test_a_version_of_another_kind_is_named_and_stops_no_producer(own_registry: LocalStack) -> None:
    registry = Registry(RegistrySettings(url=own_registry.registry_url))
    registry.register(V2)
    with SchemaRegistryClient({"url": own_registry.registry_url}) as client:
        client.set_compatibility(SUBJECT, level="NONE")
        client.register_schema(SUBJECT, Schema('syntax = "proto3"; message A {}', "PROTOBUF"))
    assert promoted_fields(registry.current()[0]) == (SCORE,)
    mood = PromotedField("genesys_mood", "genesys.mood", "string")
    with pytest.raises(IncompatibleSchemaError, match=r"version 2 registered: no Avro schema.*delete a version"):
        registry.check(with_promoted(V2, [mood]))
    registry.close()


def test_a_registry_that_does_not_answer_is_down_and_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.registry._TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = Registry(RegistrySettings(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(ServiceUnavailableError, match="Timeout"):
            registry.versions()
        registry.close()


def test_a_text_that_is_no_schema_to_the_registry_is_not_waited_for(own_registry: LocalStack) -> None:
    registry = Registry(RegistrySettings(url=own_registry.registry_url))
    with pytest.raises(ConfigurationError, match="no schema to the registry"):
        registry.register('{"type": "nonsense"}')
    assert registry.versions() == {}
    registry.close()


@pytest.mark.parametrize(
    ("name", "content"), [("CanonicalCcaaEvent.v1.avsc", b"\xff"), ("CanonicalCcaaEvent.vX.avsc", b"{}"), ("a", b"")]
)
def test_a_folder_without_readable_versions_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"registry\.schema_dir") as caught:
        schema_versions(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_projects_own_versions_are_numbered_from_one() -> None:
    assert list(schema_versions(AVRO_DIR)) == list(range(1, len(schema_versions(AVRO_DIR)) + 1))
