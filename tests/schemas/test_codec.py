from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import latest_schema, schema_versions
from schemas.codec import Decoder, Encoder
from streaming.errors import BadEventError, ServiceUnavailableError

TEXT_MAP = st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5)
EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.text(), "vendor": st.text(), "tenant_id": st.text(),
        "timestamp": st.integers(-(2**63), 2**63 - 1),
        "event_type": st.text(), "payload": TEXT_MAP, "metadata": TEXT_MAP,
    }
)  # fmt: skip


def decoder() -> Decoder:
    return Decoder(latest_schema(), {7: latest_schema()}.__getitem__)


@given(EVENTS)
def test_decode_undoes_encode(event: Any) -> None:
    raw = Encoder(latest_schema(), 7).encode(event)
    assert raw[:5] == b"\x00" + struct.pack(">I", 7)
    assert decoder().decode(raw) == event


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timestamp", 2**63),
        ("timestamp", "1"),
        ("event_id", None),
        ("payload", {"a": 1}),
        ("metadata", {"a": "\ud800"}),
    ],
)
def test_what_does_not_fit_the_schema_is_a_bad_event(field: str, value: Any) -> None:
    event: Any = dict.fromkeys(("event_id", "vendor", "tenant_id", "event_type"), "") | {
        "timestamp": 1, "payload": {}, "metadata": {}, field: value,
    }  # fmt: skip
    with pytest.raises(BadEventError) as caught:
        Encoder(latest_schema(), 7).encode(event)
    assert caught.value.reason == "unencodable"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "undecodable"),
        (b"", "undecodable"),
        (b"\x00\x00\x00", "undecodable"),
        (b"\x01" + bytes(20), "undecodable"),
        (b"\x00\x00\x00\x00\x09" + bytes(20), "unknown_schema"),
        (b"\x00\x00\x00\x00\x07\xff\xff\xff\xff\xff\xff", "undecodable"),
    ],
)
def test_what_is_not_ours_is_a_bad_event(raw: bytes | None, reason: str) -> None:
    with pytest.raises(BadEventError) as caught:
        decoder().decode(raw)
    assert caught.value.reason == reason


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_a_bad_event(data: bytes) -> None:
    try:
        decoder().decode(b"\x00\x00\x00\x00\x07" + data)
    except BadEventError as error:
        assert error.reason == "undecodable"


def test_a_registry_that_is_down_is_no_bad_event() -> None:
    def down(_schema_id: int) -> str:
        raise ServiceUnavailableError("down")

    with pytest.raises(ServiceUnavailableError):
        Decoder(latest_schema(), down).decode(b"\x00\x00\x00\x00\x07" + bytes(10))


def test_the_first_version_is_as_specified() -> None:
    schema = json.loads(schema_versions()[1])
    assert (schema["namespace"], schema["name"]) == ("com.enterprise.eventbus", "CanonicalCcaaEvent")
    assert [(field["name"], field["type"]) for field in schema["fields"]] == [
        ("event_id", "string"),
        ("vendor", "string"),
        ("tenant_id", "string"),
        ("timestamp", "long"),
        ("event_type", "string"),
        ("payload", {"type": "map", "values": "string"}),
        ("metadata", {"type": "map", "values": "string"}),
    ]
