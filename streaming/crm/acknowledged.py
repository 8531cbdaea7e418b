"""What the CRM has although it is not committed: known across rewinds, so that it is not told again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from streaming.consumer.work import Partition

_MOST = 200_000
"""Ids kept; at the bound further ones are not, and their events are sent again: the key makes that harmless."""


class Acknowledged:
    """Event ids by partition and offset.

    With one call in ten failing, a poll of 500 would otherwise never be through: each rewind would send all again.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._count = 0
        self._ids: defaultdict[Partition, dict[str, int]] = defaultdict(dict)

    def __len__(self) -> int:
        return self._count

    def add(self, partition: Partition, offset: int, event_id: str) -> None:
        """The CRM has the event of this record."""
        ids = self._ids[partition]
        if event_id not in ids and self._count < self._most:
            ids[event_id] = offset
            self._count += 1

    def has(self, partition: Partition, event_id: str) -> bool:
        """Whether the CRM has said so, for all this member knows."""
        return event_id in self._ids.get(partition, ())

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Nobody reads again what lies before these next offsets."""
        for partition, offset in offsets.items():
            ids = self._ids.pop(partition, {})
            left = {event_id: at for event_id, at in ids.items() if at >= offset}
            self._count += len(left) - len(ids)
            if left:
                self._ids[partition] = left

    def forget(self, partitions: Collection[Partition]) -> None:
        """They are another member's."""
        for partition in partitions:
            self._count -= len(self._ids.pop(partition, ()))
