"""The vendor's name of a dead letter's type, whatever its bytes are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.reprocess.kinds import any_element, masked, native_type


@pytest.mark.parametrize(
    ("vendor", "value", "name"),
    [
        ("genesys", b'{"topicName":"v2.detail.events.conversation.c-1.acd.end"}',
         "v2.detail.events.conversation.{id}.acd.end"),
        ("genesys", b'{"topicName":"v2.users.9f0c-11.routingStatus"}', "v2.users.{id}.routingStatus"),
        ("genesys", b'{"topicName":"channel.metadata"}', "channel.metadata"),
        ("genesys", b'{"topicName":"v2.users.9f0c1100.presence"}', "v2.users.{id}.presence"),
        ("genesys", b'{"topicName":"v2.conversations.presence"}', "v2.conversations.presence"),
        ("genesys", b'{"topicName":7}', ""),
        ("genesys", b'{"eventBody":{}}', ""),
        ("cxone", b'{"eventType":"CALL_ENDED"}', "CALL_ENDED"),
        ("cxone", b'[{"eventType":"CALL_ENDED"},{"eventType":"X"}]', "CALL_ENDED"),
        ("cxone", b"[]", ""),
        ("cxone", b"[[1]]", ""),
        ("cxone", b"null", ""),
        ("cxone", None, ""),
        ("cxone", b"\xff\xfe", ""),
        ("cxone", b"[" * 5000, ""),
        ("cxone", b'{"eventType":NaN}', ""),
        ("cxone", b'{"eventType":"' + b"x" * 5000 + b'"}', "x" * 300),
    ],
)  # fmt: skip
def test_names(vendor: str, value: bytes | None, name: str) -> None:
    assert native_type(vendor, value) == name


@given(st.sampled_from(["genesys", "cxone"]), st.binary(max_size=60))
def test_any_bytes(vendor: str, value: bytes) -> None:
    assert isinstance(native_type(vendor, value), str)


def test_a_name_as_people_copy_it() -> None:
    assert masked("genesys", "v2.users.9f0c-11.routingStatus") == "v2.users.{id}.routingStatus"
    assert masked("genesys", "v2.users.{id}.routingStatus") == "v2.users.{id}.routingStatus"
    assert any_element("[3].a[12].b") == any_element("[].a[].b") == "[].a[].b"
