"""Many records at once into Arrow columns; the records that can't be decoded are told one by one.

A batch goes through pyruhvro, which reads Avro straight into Arrow's buffers, without a Python object for each value.
It does not check that text is UTF-8 and keeps a map's repeated keys, so its result is checked here. What does not pass,
or is of a schema beyond what it is known to read alike, goes through fastavro record by record: that one decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.canonical import CanonicalEvent
from schemas.codec import HEADER, MAGIC, Decoder, WriterSchema
from schemas.promoted import FieldType, PromotedField
from streaming.errors import BadEventError

TEXT_MAP = pa.map_(pa.string(), pa.string())

EVENT = pa.schema(
    [
        ("event_id", pa.string()),
        ("vendor", pa.string()),
        ("tenant_id", pa.string()),
        ("timestamp", pa.int64()),  # the vendor's time, epoch ms
        ("event_type", pa.string()),
        ("payload", TEXT_MAP),
        ("metadata", TEXT_MAP),
    ]
)
"""Columns of the core's fields, in the order of the Avro schema."""

ARROW: dict[FieldType, pa.DataType] = {
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
}
"""Types of promoted fields' columns, nullable."""

# Whoever writes a field of another type (it must be optional) has it read by fastavro.
_PLAIN = (*ARROW, "null")
_READ_ALIKE = [*_PLAIN, *(["null", type_] for type_ in ARROW), {"type": "map", "values": "string"}]


class Decoded(NamedTuple):
    """What became of a batch.

    Attributes:
        rows: Columns of :data:`EVENT`, then one for each promoted field that the decoder knows. In the batch's order.
        positions: Of each row, its record's place in the batch; None if every record became a row.
        bad: Place and fault of each record that is no event.
    """

    rows: pa.RecordBatch
    positions: list[int] | None
    bad: list[tuple[int, BadEventError]]


class ColumnDecoder:
    """Decodes batches of records as they were written.

    Args:
        decoder: Knows the schemas; made without a reader's schema.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._alike: dict[int, bool] = {}

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The events of records' values. Nothing is kept if it raises: the batch can be tried again.

        Raises:
            ServiceUnavailableError: a schema id is new and the registry can't be asked.
        """
        by_header: dict[bytes, list[int]] = {}
        for position, value in enumerate(values):
            by_header.setdefault(value[: HEADER.size] if value else b"", []).append(position)
        bad: list[tuple[int, BadEventError]] = []
        parts: list[tuple[list[int], pa.RecordBatch]] = []
        for header, positions in by_header.items():
            good, batch = self._of_one_schema(header, positions, values, bad)
            if batch is not None:
                parts.append((good, batch))
        promoted = self._decoder.promoted
        if not parts:
            return Decoded(_aligned(_columns([], promoted), promoted), [], bad)
        if len(parts) == 1:
            good, batch = parts[0]
            return Decoded(_aligned(batch, promoted), None if len(good) == len(values) else good, bad)
        return _in_order([(good, _aligned(batch, promoted)) for good, batch in parts], bad)

    def _of_one_schema(
        self,
        header: bytes,
        positions: list[int],
        values: Sequence[bytes | None],
        bad: list[tuple[int, BadEventError]],
    ) -> tuple[list[int], pa.RecordBatch | None]:
        schema = None
        if len(header) == HEADER.size and header[0] == MAGIC:
            schema_id = HEADER.unpack(header)[1]
            try:
                schema = self._decoder.written_under(schema_id)
            except BadEventError as error:
                bad.extend((position, error) for position in positions)
                return [], None
            if self._reads_alike(schema_id, schema):
                batch = _at_once([values[position][HEADER.size :] for position in positions], schema)  # type: ignore[index]
                if batch is not None:
                    return positions, batch
        events, good = [], []
        for position in positions:
            try:
                events.append(self._decoder.decode(values[position]))
                good.append(position)
            except BadEventError as error:
                bad.append((position, error))
        return good, _columns(events, schema.promoted if schema else ()) if events else None

    def _reads_alike(self, schema_id: int, schema: WriterSchema) -> bool:
        alike = self._alike.get(schema_id)
        if alike is None:
            fields = orjson.loads(schema.text)["fields"]
            alike = schema.reader is None and all(field["type"] in _READ_ALIKE for field in fields)
            self._alike[schema_id] = alike
        return alike


def _at_once(data: list[bytes], schema: WriterSchema) -> pa.RecordBatch | None:
    """The batch, or None if a record of it is doubtful."""
    try:
        read = pyruhvro.deserialize_array(data, schema.text)
        columns = {name: plain(read.column(name)) for name in EVENT.names}
        columns |= {field.name: read.column(field.name) for field in schema.promoted}
        batch = pa.RecordBatch.from_pydict(columns)
        batch.validate(full=True)  # UTF-8 among it
    except ValueError:  # the codec's, and Arrow's ArrowInvalid
        return None
    repeats = any(_repeats_a_key(columns[name]) for name in ("payload", "metadata"))
    return None if repeats else batch


def plain(column: pa.Array) -> pa.Array:
    """A map of the type in :data:`EVENT`, whatever its entries are called; it shares the buffers."""
    if pa.types.is_map(column.type):
        return pa.MapArray.from_arrays(column.offsets, column.keys, column.items)
    return column


def _repeats_a_key(maps: pa.MapArray) -> bool:
    """Whether a map has a key twice, where fastavro keeps the last value."""
    codes = maps.keys.dictionary_encode()
    of_map = pc.list_parent_indices(pa.ListArray.from_arrays(maps.offsets, codes.indices))
    numbered = pc.add(pc.multiply(of_map, len(codes.dictionary)), codes.indices.cast(pa.int64()))
    return bool(pc.count_distinct(numbered).as_py() != len(numbered))


def _columns(events: Sequence[CanonicalEvent], promoted: Iterable[PromotedField]) -> pa.RecordBatch:
    """Columns of events that were decoded one by one."""
    rows: Sequence[Any] = events
    columns = {
        field.name: _maps([row[field.name] for row in rows])
        if field.type == TEXT_MAP
        else pa.array([row[field.name] for row in rows], field.type)
        for field in EVENT
    }
    columns |= {field.name: pa.array([row.get(field.name) for row in rows], ARROW[field.type]) for field in promoted}
    return pa.RecordBatch.from_pydict(columns)


def _maps(maps: Sequence[dict[str, str]]) -> pa.MapArray:
    """Flat lists make a quarter of the work of lists of pairs."""
    offsets: list[int] = [0]
    keys: list[str] = []
    values: list[str] = []
    for map_ in maps:
        keys += map_
        values += map_.values()
        offsets.append(len(keys))
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(keys, pa.string()), pa.array(values, pa.string())
    )


def _aligned(batch: pa.RecordBatch, promoted: Sequence[PromotedField]) -> pa.RecordBatch:
    """With a column for every promoted field, NULL where the batch's schema has none."""
    arrays = [batch.column(name) for name in EVENT.names]
    for field in promoted:
        has = field.name in batch.schema.names
        arrays.append(batch.column(field.name) if has else pa.nulls(len(batch), ARROW[field.type]))
    further = [(field.name, ARROW[field.type]) for field in promoted]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*EVENT, *further]))


def _in_order(parts: list[tuple[list[int], pa.RecordBatch]], bad: list[tuple[int, BadEventError]]) -> Decoded:
    """Batches of several schemas as one, in the order of the records."""
    positions = [position for good, _ in parts for position in good]
    order = sorted(range(len(positions)), key=positions.__getitem__)
    rows = pa.Table.from_batches([batch for _, batch in parts]).take(order).combine_chunks().to_batches()[0]
    return Decoded(rows, [positions[number] for number in order], bad)
