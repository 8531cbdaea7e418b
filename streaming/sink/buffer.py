"""Rows that wait for the next landing file."""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import Message

from schemas.canonical import CanonicalEvent
from schemas.promoted import PromotedField
from streaming.sink.landing import SCHEMA, Offsets


class Buffer:
    """Columns of the next file, and the offsets seen, dead letters and tombstones included.

    Args:
        promoted: Promoted fields that get a column each.
    """

    def __init__(self, promoted: tuple[PromotedField, ...] = ()) -> None:
        self.columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
        self.promoted: tuple[PromotedField, ...] = ()
        self.offsets: Offsets = {}
        self.bytes = 0
        self.next_offsets: dict[tuple[str, int], int] = {}
        self.promote(promoted)

    def promote(self, promoted: tuple[PromotedField, ...]) -> None:
        """Give each of the fields a column; rows that are there already have none of the new ones."""
        rows = len(self)
        for field in promoted:
            self.columns.setdefault(field.name, [None] * rows)
        self.promoted = promoted

    def __len__(self) -> int:
        return len(self.columns["_offset"])

    def add(self, message: Message, event: CanonicalEvent) -> None:
        """One row. Hot path: eleven appends, and one for each promoted field."""
        columns = self.columns
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        columns["_topic"].append(topic)
        columns["_partition"].append(partition)
        columns["_offset"].append(offset)
        columns["_published_at"].append(message.timestamp()[1])
        columns["event_id"].append(event["event_id"])
        columns["vendor"].append(event["vendor"])
        columns["tenant_id"].append(event["tenant_id"])
        columns["timestamp"].append(event["timestamp"])
        columns["event_type"].append(event["event_type"])
        columns["payload"].append(list(event["payload"].items()))
        columns["metadata"].append(list(event["metadata"].items()))
        for name, _, _ in self.promoted:
            columns[name].append(event.get(name))
        self.bytes += len(message)
        partitions = self.offsets.setdefault(str(topic), {})
        first = partitions[partition][0] if partition in partitions else offset
        partitions[int(partition or 0)] = (int(first or 0), int(offset or 0))

    def pass_over(self, message: Message) -> None:
        """The message is dealt with, whether it became a row or not: its offset may be committed after the flush."""
        self.next_offsets[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0) + 1

    def drop(self, partitions: Collection[tuple[str, int]]) -> None:
        """Drop the rows and offsets of partitions that this member has no more."""
        gone = set(partitions) & self.next_offsets.keys()
        if not gone:
            return
        keys = zip(self.columns["_topic"], self.columns["_partition"], strict=True)
        keep = [key not in gone for key in keys]
        for name, values in self.columns.items():
            self.columns[name] = [value for value, kept in zip(values, keep, strict=True) if kept]
        self.next_offsets = {key: offset for key, offset in self.next_offsets.items() if key not in gone}
        self.offsets = {
            topic: {number: span for number, span in spans.items() if (topic, number) not in gone}
            for topic, spans in self.offsets.items()
        }
