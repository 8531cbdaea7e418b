"""Bytes that nobody expects on a dead-letter topic: each has a clear end, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streaming.publisher import MAX_VALUE_BYTES
from streaming.reprocess.selection import Left
from tests.conftest import Platform
from tests.schemas.messages import cxone
from tests.streaming.reprocess.letters import Letters, outcomes
from tests.streaming.reprocess.odd_header import produce

RENAME = {"op": "rename", "path": "contactID", "to": "contactId"}


@pytest.fixture
def south(platform: Platform) -> Letters:
    return Letters(platform, "cxone")


def body(**fields: Any) -> bytes:
    return json.dumps(cxone("CALL_STARTED", contactId=..., contactID="c-1", **fields)).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "unparsable"),
        (b"", "unparsable"),
        (b"null", "unparsable"),
        (b"\xff\xfe\x00", "unparsable"),
        (body(note="x").replace(b'"x"', b'"\xff"'), "unparsable"),
        (body(note="x").replace(b'"x"', b"NaN"), "unparsable"),
        (b"[" * 2000 + b"]" * 2000, "unparsable"),
        (b'{"eventType":"CALL_STARTED","contactID":{}}', "missing_field"),
        (b'{"eventType":null}', "missing_field"),
        (body(timestamp="9" * 20), "wrong_type"),
        (body(timestamp=10**18), "out_of_range"),
    ],
)
def test_what_is_no_event_fails_again_with_its_bytes(south: Letters, value: bytes | None, reason: str) -> None:
    south.put(value, body())
    report = south.run(RENAME)
    assert outcomes(report) == {"replayed": 1, "failed_again": 1}, "the good one beside it is published"
    said, kept = south.dead()[-1]
    assert (said.reason, said.attempt, kept) == (reason, 2, value)


def test_what_is_odd_but_an_event_is_published(south: Letters) -> None:
    south.put(
        body(**{f"k{number}": None for number in range(5_000)}, **{f"f{number}": number for number in range(5_000)}),
        body(deep=json.loads("[" * 900 + "]" * 900), **{"ccaas.recovered": "reconciled", "ccaas.error.attempt": "99"}),
        body(fromAddr=None, toAddr=7, mediaType=[]),
    )
    assert outcomes(south.run(RENAME)) == {"replayed": 3}
    metadata = [event["metadata"] for event in south.events()]
    assert all(found["ccaas.recovered"] == "replayed" for found in metadata)
    assert {found.get("cxone.ccaas.recovered") for found in metadata} == {"reconciled", None}
    assert max(map(len, metadata)) > 5_000


def test_headers_of_any_bytes(south: Letters) -> None:
    south.put_raw(
        body(),
        [
            ("__connect.errors.stage", b"normalise"), ("ccaas.error.reason", b"missing_field"),
            ("ccaas.error.transport", b"\xff" * 300), ("ccaas.error.attempt", b"many"), ("ccaas.error.time", b"\xff"),
            ("ccaas.error.path", b"\x00" * 5_000), ("__connect.errors.exception.message", b"\xfe" * 5_000),
            ("own", None), ("own", b"\xff"),
        ],
    )  # fmt: skip
    south.put_raw(
        b"{}",
        [
            ("__connect.errors.stage", b"nowhere"), ("ccaas.error.reason", b"made up"), ("ccaas.error.transport", b"x"),
            ("ccaas.error.attempt", b"9" * 15), ("own", b"\xff"),
        ],
    )  # fmt: skip
    south.settle()
    assert outcomes(south.run(RENAME)) == {"replayed": 1, "parked": 1}
    assert len(south.events()) == 1


def test_a_header_whose_name_is_no_text(south: Letters) -> None:
    # Enough of them that Python specialises the code that reads them.
    for number in range(40):
        produce(south.platform.stack.bootstrap_servers, south.tenant.dlq_topic, b"\xff\xfe", b"{}")
        south.put(body(n=number))
    report = south.run(RENAME)
    assert (outcomes(report), report.left) == ({"replayed": 40}, {Left.FOREIGN: 40})


def test_values_at_the_size_limit(south: Letters) -> None:
    """Larger than what an event may hold, and as large as a dead letter can be; the sum is more than a batch's."""
    huge = body(note="")
    huge = huge.replace(b'"note": ""', b'"note": "' + b"x" * (MAX_VALUE_BYTES - len(huge)) + b'"')
    large = body(note="y" * 7_000_000)
    assert len(huge) == MAX_VALUE_BYTES
    south.put(huge, large, huge, large, body())
    assert outcomes(south.run(RENAME)) == {"replayed": 3, "failed_again": 2}
    dead = south.dead()
    assert [len(value or b"") for _, value in dead[-2:]] == [MAX_VALUE_BYTES] * 2
    assert {said.reason for said, _ in dead[-2:]} == {"too_large"}
    assert len(south.replays()) > 1
    assert south.done() == [0, 1, 2, 3, 4]


def test_one_whose_new_headers_do_not_fit_is_parked_where_it_is(south: Letters) -> None:
    south.put(b"x" * MAX_VALUE_BYTES, original=[("own", b"h" * 15_000)])
    south.put(b"x" * MAX_VALUE_BYTES, original=[("own", b"h" * 13_000)])
    assert outcomes(south.run()) == {"parked": 1, "failed_again": 1}
    (replay,) = south.replays()
    assert (replay.parked, replay.done) == ({"0": ((0, 0),)}, {"0": ((1, 1),)})


def test_records_of_others_among_ours(south: Letters) -> None:
    for number in range(30):
        if number % 3:
            south.put_raw(b"\xff" * number, [("x", b"\xff")])
            south.settle()
        else:
            south.put(body(n=number))
    report = south.run(RENAME)
    assert (outcomes(report), report.left) == ({"replayed": 10}, {Left.FOREIGN: 20})
    assert south.run(RENAME).left == {Left.FOREIGN: 20, Left.REPLAYED: 9}, "the first ones are not read again"
