"""Rows that wait for a file: all of them, in order, with the columns of every version that came."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Message

from schemas.canonical import latest_schema
from schemas.codec import Decoder, Encoder
from schemas.columns import ColumnDecoder
from schemas.promoted import PromotedField, with_promoted
from streaming.sink import buffer as module
from streaming.sink.buffer import Buffer
from streaming.sink.landing import SCHEMA

SCORE = PromotedField("genesys_score", "genesys.score", "long")
SCHEMAS = {1: latest_schema(), 2: with_promoted(latest_schema(), [SCORE])}


class Filling:
    """A buffer as the sink fills it."""

    def __init__(self) -> None:
        self.decoder = Decoder(None, SCHEMAS.__getitem__)
        self.columns = ColumnDecoder(self.decoder)
        self.buffer = Buffer()

    def add(self, *messages: Message) -> None:
        self.buffer.add([*messages], self.columns.decode([message.value() for message in messages]))

    def rows(self) -> list[dict[str, Any]]:
        layout, tables = self.buffer.tables(self.decoder.promoted)
        return list(pa.concat_tables([layout.empty_table(), *tables]).to_pylist())


def message(offset: int, partition: int = 0, schema_id: int = 1, topic: str = "t") -> Message:
    value = Encoder(SCHEMAS[schema_id], schema_id).encode(
        {
            "event_id": f"{topic}-{partition}-{offset}", "vendor": "genesys", "tenant_id": "north", "timestamp": 9,
            "event_type": "x", "payload": {"a": "b"}, "metadata": {"genesys.score": str(offset)},
        }
    )  # fmt: skip
    return Message(topic=topic, partition=partition, offset=offset, value=value, timestamp=(1, 1000 + offset))


def bad(offset: int, partition: int = 0) -> Message:
    return Message(topic="t", partition=partition, offset=offset, value=b"?", timestamp=(1, 0))


@pytest.fixture(params=[1, 3, 8_192])
def filling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Filling:
    """Packed after every row, after some, and not at all."""
    monkeypatch.setattr(module, "_PACK_ROWS", request.param)
    return Filling()


def test_rows_and_offsets_of_all_batches(filling: Filling) -> None:
    filling.add(message(5), message(7, partition=1), message(6))
    filling.add(bad(7), message(8))
    filling.add(bad(8, partition=1))
    filling.add(message(9, topic="u"))
    assert [(row["_topic"], row["_partition"], row["_offset"], row["event_id"]) for row in filling.rows()] == [
        ("t", 0, 5, "t-0-5"), ("t", 1, 7, "t-1-7"), ("t", 0, 6, "t-0-6"), ("t", 0, 8, "t-0-8"), ("u", 0, 9, "u-0-9"),
    ]  # fmt: skip
    assert filling.rows()[0] == {
        "_topic": "t", "_partition": 0, "_offset": 5, "_published_at": 1005, "event_id": "t-0-5", "vendor": "genesys",
        "tenant_id": "north", "timestamp": 9, "event_type": "x", "payload": [("a", "b")],
        "metadata": [("genesys.score", "5")],
    }  # fmt: skip
    assert filling.buffer.spans == {("t", 0): (5, 8), ("t", 1): (7, 8), ("u", 0): (9, 9)}
    assert filling.buffer.rows == 5
    assert filling.buffer.tables(())[0].equals(SCHEMA)


def test_a_version_that_comes_later_has_its_column_and_rows_before_it_are_null(filling: Filling) -> None:
    filling.add(message(1), message(2))
    filling.add(message(3, schema_id=2), message(4))
    filling.add(message(5, schema_id=2))
    assert [row["genesys_score"] for row in filling.rows()] == [None, None, 3, None, 5]


def test_what_goes_to_another_member_is_dropped(filling: Filling) -> None:
    filling.add(message(1), message(1, partition=1), bad(2, partition=2))
    filling.add(message(2), message(3, schema_id=2, partition=1))
    taken = filling.buffer.bytes
    filling.buffer.drop([("t", 0), ("t", 2), ("t", 9)])
    assert [(row["_partition"], row["_offset"], row["genesys_score"]) for row in filling.rows()] == [
        (1, 1, None),
        (1, 3, 3),
    ]
    assert filling.buffer.spans == {("t", 1): (1, 3)}
    assert filling.buffer.rows == 2
    assert 0 < filling.buffer.bytes < taken
    filling.add(message(4, partition=1))
    assert [row["_offset"] for row in filling.rows()] == [1, 3, 4]
    filling.buffer.drop([("t", 1)])
    assert (filling.rows(), filling.buffer.spans, filling.buffer.rows, filling.buffer.bytes) == ([], {}, 0, 0)
