"""Batches into columns: the same rows and the same bad records as one by one with fastavro, whatever the bytes are."""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import fastavro
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.canonical import latest_schema
from schemas.codec import Decoder, Encoder
from schemas.columns import ARROW, EVENT, ColumnDecoder, Decoded
from schemas.promoted import PromotedField, with_promoted
from streaming.errors import BadEventError, ServiceUnavailableError

FIELDS = [
    PromotedField("genesys_score", "genesys.score", "long"),
    PromotedField("genesys_share", "genesys.share", "double"),
    PromotedField("genesys_vip", "genesys.vip", "boolean"),
    PromotedField("genesys_note", "genesys.note", "string"),
]
V1 = latest_schema()
V2 = with_promoted(V1, FIELDS)
BYTES_TOO = orjson.dumps(
    {
        **(_v1 := orjson.loads(V1)),
        "fields": [*_v1["fields"], {"name": "raw", "type": ["null", "bytes"], "default": None}],
    }
).decode()
# Registered past the check: the name has another type than in V2.
CHANGED = with_promoted(V1, [PromotedField("genesys_score", "genesys.score", "string")])
OTHER = '{"type": "record", "name": "Order", "fields": [{"name": "n", "type": "long"}]}'
SCHEMAS = {1: V1, 2: V2, 3: BYTES_TOO, 4: CHANGED, 5: OTHER}


def event(number: int, **metadata: str) -> dict[str, Any]:
    return {
        "event_id": f"e-{number}", "vendor": "genesys", "tenant_id": "north", "timestamp": number,
        "event_type": "conversation.started", "payload": {"conversation_id": f"c-{number}"}, "metadata": metadata,
    }  # fmt: skip


def encoded(number: int, schema_id: int, **metadata: str) -> bytes:
    return Encoder(SCHEMAS[schema_id], schema_id).encode(event(number, **metadata))  # type: ignore[arg-type]


def column_decoder() -> ColumnDecoder:
    return ColumnDecoder(Decoder(None, SCHEMAS.__getitem__))


def one_by_one(values: list[bytes | None]) -> tuple[list[dict[str, Any]], dict[int, tuple[str, str]]]:
    """Rows, and reason and message by position, as Decoder has them; promoted columns as the batch's end knows them."""
    decoder = Decoder(None, SCHEMAS.__getitem__)
    rows: list[dict[str, Any]] = []
    bad: dict[int, tuple[str, str]] = {}
    for position, value in enumerate(values):
        try:
            rows.append({**decoder.decode(value)})
        except BadEventError as error:
            bad[position] = _told(error)
    names = [*EVENT.names, *(field.name for field in decoder.promoted)]
    return [{name: row.get(name) for name in names} for row in rows], bad


def assert_equal(decoded: Decoded, values: list[bytes | None]) -> None:
    rows, bad = one_by_one(values)
    assert {position: _told(error) for position, error in decoded.bad} == bad
    good = [position for position in range(len(values)) if position not in bad]
    assert decoded.positions in ([good] if bad else [good, None])
    decoded.rows.validate(full=True)
    # repr: NaN is not equal to itself, but must be one here too.
    assert repr([_row(row) for row in decoded.rows.to_pylist()]) == repr(rows)


def _told(error: BadEventError) -> tuple[str, str]:
    """Without the addresses of objects that fastavro names."""
    return error.reason, re.sub(r" at 0x[0-9a-f]+", "", str(error))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if name in {"payload", "metadata"} else value for name, value in row.items()}


def test_a_batch_of_one_schema() -> None:
    values: list[bytes | None] = [encoded(number, 1, key=f"Zürich {number}") for number in range(50)]
    decoded = column_decoder().decode(values)
    assert decoded.positions is None
    assert decoded.rows.schema.equals(EVENT)
    assert_equal(decoded, values)


def test_schemas_mixed_keep_the_records_order_and_every_promoted_column() -> None:
    values: list[bytes | None] = [
        encoded(number, 1 + number % 3, **{"genesys.score": str(number), "genesys.vip": "true"}) for number in range(30)
    ]
    decoded = column_decoder().decode(values)
    assert [row["event_id"] for row in decoded.rows.to_pylist()] == [f"e-{number}" for number in range(30)]
    assert decoded.rows.schema.types[len(EVENT) :] == [ARROW[field.type] for field in FIELDS]
    assert_equal(decoded, values)


def test_what_is_no_event_is_found_and_the_rest_is_rows() -> None:
    good = encoded(1, 1)
    values: list[bytes | None] = [
        None, good, b"", b"\0\0\0\0", b"\0\0\0\0\1", b"\1" + good[1:], encoded(2, 2), good[:-3], b"\0\0\0\0\5\2",
        b"\0\0\0\1\xff?", encoded(3, 1),
    ]  # fmt: skip
    decoded = column_decoder().decode(values)
    assert decoded.positions == [1, 6, 10]
    assert_equal(decoded, values)


def test_no_records_and_none_that_is_good() -> None:
    nothing: list[list[bytes | None]] = [[], [None], [b"junk", None]]
    for values in nothing:
        assert_equal(column_decoder().decode(values), values)


def test_a_promoted_field_that_changed_its_type_stays_out() -> None:
    values: list[bytes | None] = [encoded(1, 2, **{"genesys.score": "7"}), encoded(2, 4, **{"genesys.score": "8"})]
    decoded = column_decoder().decode(values)
    assert [row["genesys_score"] for row in decoded.rows.to_pylist()] == [7, None]
    assert_equal(decoded, values)


def test_text_that_is_no_utf8_is_found() -> None:
    """pyruhvro takes it as it is."""
    values: list[bytes | None] = [encoded(1, 1), encoded(2, 1).replace(b"north", b"n\xff\xferth"[:5]), encoded(3, 1)]
    decoded = column_decoder().decode(values)
    assert [position for position, _ in decoded.bad] == [1]
    assert_equal(decoded, values)


def test_a_key_that_a_map_repeats_counts_once() -> None:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(orjson.loads(V1)), event(1, ab="first", cd="second"))
    raw = b"\0\0\0\0\1" + buffer.getvalue().replace(b"\x04cd", b"\x04ab")
    decoded = column_decoder().decode([encoded(0, 1), raw])
    assert decoded.rows.column("metadata").to_pylist() == [[], [("ab", "second")]]
    assert_equal(decoded, [encoded(0, 1), raw])


def test_a_registry_that_is_down_leaves_nothing_behind() -> None:
    down = [True]

    def schema_of(schema_id: int) -> str:
        if down[0]:
            msg = "down"
            raise ServiceUnavailableError(msg)
        return SCHEMAS[schema_id]

    columns = ColumnDecoder(Decoder(None, schema_of))
    values: list[bytes | None] = [encoded(1, 1), None, encoded(2, 2)]
    with pytest.raises(ServiceUnavailableError):
        columns.decode(values)
    down[0] = False
    assert_equal(columns.decode(values), values)


TEXT = st.text(max_size=6)
EVENTS = st.builds(
    lambda id_, at, payload, metadata: {
        **event(0),
        "event_id": id_,
        "timestamp": at,
        "payload": payload,
        "metadata": metadata,
    },
    TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.dictionaries(st.sampled_from([field.key for field in FIELDS]) | TEXT, TEXT | st.just("12"), max_size=4),
)


@st.composite
def records(draw: st.DrawFn) -> bytes | None:
    """A record as it should be, or with some bytes changed, cut off or added, or no record at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.none() | st.binary(max_size=40))
    schema_id = draw(st.sampled_from([1, 1, 2, 3]))
    raw = bytearray(Encoder(SCHEMAS[schema_id], schema_id).encode(draw(EVENTS)))  # type: ignore[arg-type]
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        place = draw(st.integers(0, len(raw) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                raw[place] = draw(st.integers(0, 255))
            case 1:
                del raw[place : place + draw(st.integers(1, 4))]
            case 2:
                raw[place:place] = draw(st.binary(min_size=1, max_size=12))
            case _:
                raw[place] ^= 1 << draw(st.integers(0, 7))
        if not raw:
            break
    return bytes(raw)


@settings(max_examples=500, deadline=None)
@given(st.lists(records(), max_size=5))
@example([struct.pack(">bI", 0, 1) + b"\x00\x00\x00\x00\x00" + b"\xff" * 9 + b"\x01" + b"\x00" * 4])
def test_any_bytes_give_what_fastavro_gives(values: list[bytes | None]) -> None:
    assert_equal(column_decoder().decode(values), values)
