"""Rows that wait for the next landing file, packed: a tenth of the memory that Arrow's columns take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import pyarrow as pa
from confluent_kafka import Message

from schemas.columns import Decoded
from schemas.promoted import PromotedField
from streaming.consumer.work import Partition
from streaming.sink.landing import SCHEMA, promoted_column

_PLACE = SCHEMA.names[:4]

_PACK_ROWS = 8_192
"""Rows of one package, and of a row group of the file. More would make the file hardly smaller."""

# Threads would each keep memory for their part of it.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)


class Buffer:
    """Rows, and the offsets taken, dead letters and tombstones included."""

    def __init__(self) -> None:
        self.spans: dict[Partition, tuple[int, int]] = {}
        """First and last offset taken."""
        self.bytes = 0
        """Of the records taken; after :meth:`drop` by the share of rows that stayed."""
        self.rows = 0
        self._open: list[pa.RecordBatch] = []
        self._packed: list[pa.Buffer] = []

    def add(self, messages: list[Message], decoded: Decoded) -> None:
        """Records in the order of offsets within each partition, and the rows that some of them became."""
        places = cast(
            "list[tuple[str, int, int]]",
            [(message.topic(), message.partition(), message.offset()) for message in messages],
        )
        first = {(topic, partition): offset for topic, partition, offset in reversed(places)}
        last = {(topic, partition): offset for topic, partition, offset in places}
        for partition, offset in last.items():
            began = self.spans.get(partition)
            self.spans[partition] = (began[0] if began else first[partition], offset)
        self.bytes += sum(map(len, messages))
        published = [message.timestamp()[1] for message in messages]
        if decoded.positions is not None:
            places = [places[position] for position in decoded.positions]
            published = [published[position] for position in decoded.positions]
        if places:
            *place, at = (SCHEMA.field(name).type for name in _PLACE)
            columns = [pa.array(values, type_) for values, type_ in zip(zip(*places, strict=True), place, strict=True)]
            columns += [pa.array(published, at), *decoded.rows.columns]
            self._open.append(pa.RecordBatch.from_arrays(columns, names=[*_PLACE, *decoded.rows.schema.names]))
            self.rows += len(places)
            if sum(map(len, self._open)) >= _PACK_ROWS:
                self._packed.append(_packed(_joined(self._open)))
                self._open.clear()

    def tables(self, promoted: Sequence[PromotedField]) -> tuple[pa.Schema, Iterator[pa.Table]]:
        """The rows as a landing file has them, and its columns.

        Args:
            promoted: Fields that get a column; it is NULL in rows that came before the first that has it.
        """
        layout = pa.schema([*SCHEMA, *map(promoted_column, promoted)])
        return layout, (_as(layout, table) for table in self._parts())

    def drop(self, partitions: Collection[Partition]) -> None:
        """Drop the rows and offsets of partitions that this member has no more."""
        gone = set(partitions) & self.spans.keys()
        if not gone:
            return
        self.spans = {partition: span for partition, span in self.spans.items() if partition not in gone}
        kept = [_without(table, gone) for table in self._parts()]
        self._open.clear()
        self._packed = [_packed(table) for table in kept if len(table)]
        rows = sum(map(len, kept))
        self.bytes = self.bytes * rows // self.rows if rows else 0
        self.rows = rows

    def _parts(self) -> Iterator[pa.Table]:
        for package in self._packed:
            yield pa.ipc.open_stream(package, options=_READ).read_all()
        if self._open:
            yield _joined(self._open)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")


def _packed(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _as(layout: pa.Schema, table: pa.Table) -> pa.Table:
    there = set(table.schema.names)
    columns = [table.column(f.name) if f.name in there else pa.nulls(len(table), f.type) for f in layout]
    return pa.table(columns, schema=layout)


def _without(table: pa.Table, gone: set[Partition]) -> pa.Table:
    places = zip(table.column("_topic").to_pylist(), table.column("_partition").to_pylist(), strict=True)
    return table.filter(pa.array([place not in gone for place in places], pa.bool_()))
