"""What a consumer does with records; everything else is the runtime's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from confluent_kafka import Message

from streaming.settings import GroupSettings

Partition = tuple[str, int]
"""Topic and number."""


class Consumption(NamedTuple):
    """How a consumer reads."""

    name: str
    """Of the service, and the stage of its dead letters."""
    group: GroupSettings
    health_port: int
    poll_records: int
    """Greatest number of records a poll."""
    gather_s: float = 0.0
    """How long a poll waits for more records than one: 0 for the least delay."""
    heartbeat_s: float = 3.0


class Work(Protocol):
    """A consumer's own part. Every method is called from the one thread that polls.

    Any may raise ServiceUnavailableError (the member is built anew, and reads again from the committed offsets) or
    FencedError (another process holds the slot).
    """

    def first_offsets(
        self, partitions: Sequence[Partition], committed: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        """Partitions come to this member: where to begin those that shall not begin at the committed offset.

        Args:
            partitions: New ones.
            committed: Next offset of those that have one.
        """

    def take(self, messages: list[Message]) -> None:
        """The next records: of assigned partitions, in the order of offsets within each, no errors among them."""

    def tick(self) -> None:
        """After every poll, empty or not; at least ten times a second unless another method takes longer."""

    def settle(self, deadline: float) -> None:
        """On a revoke and at the end: what was taken is made durable and committed, until the monotonic deadline."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are another member's now. After :meth:`settle` if they were revoked; without it if they were lost."""

    def close(self) -> None:
        """Let go of resources; also after an error, so nothing that matters happens here."""
