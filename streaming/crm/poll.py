"""The records of one poll, and how far each partition of it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Message

from streaming.consumer.member import Member
from streaming.consumer.work import Partition
from streaming.crm.client import Activity
from streaming.crm.fold import Change
from streaming.errors import BadEventError
from streaming.publisher import MAX_VALUE_BYTES
from streaming.settings import Tenant


@dataclass(slots=True)
class Read:
    """A record as it was read.

    Attributes:
        message: From Kafka.
        tenant: Whose topic it lay on; None of a topic that is no tenant's.
        activity: What the CRM is to be told, and what is written; None of a bad record.
        key: Of the state change.
        error: Why it becomes a dead letter.
        is_taken: Whether the CRM has it.
    """

    message: Message
    tenant: Tenant | None
    activity: Activity | None = None
    key: bytes = b""
    error: BadEventError | None = None
    is_taken: bool = False

    @property
    def offset(self) -> int:
        """Its place in the partition."""
        return int(self.message.offset() or 0)

    @property
    def is_done(self) -> bool:
        """Whether its offset may be committed."""
        return self.is_taken or self.error is not None


@dataclass
class Prefix:
    """What may be committed of a poll.

    Attributes:
        records: By partition, from the first one read to the last before one that is not done.
        offsets: Behind them.
        rest: Offset of the first one not done, of partitions that have one.
    """

    records: list[Read] = field(default_factory=list)
    offsets: dict[Partition, int] = field(default_factory=dict)
    rest: dict[Partition, int] = field(default_factory=dict)


def read(member: Member, messages: Iterable[Message]) -> dict[Partition, list[Read]]:
    """Records by partition, in the order of offsets."""
    found: dict[Partition, list[Read]] = {}
    for message in messages:
        partition = str(message.topic()), int(message.partition() or 0)
        found.setdefault(partition, []).append(_read(member, message))
    return found


def _read(member: Member, message: Message) -> Read:
    tenant = member.tenant_of(str(message.topic()))
    try:
        if tenant is None:
            msg = "on a topic that is no tenant's"
            raise BadEventError(msg, reason="unknown_topic")
        change = Change.of(member.decode(message))
        key, body = change.key, change.document()
        if len(key) + len(body) > MAX_VALUE_BYTES:
            msg = f"a state change of {len(key) + len(body)} bytes, more than {MAX_VALUE_BYTES}"
            raise BadEventError(msg, reason="too_large")
    except BadEventError as error:
        return Read(message, tenant, error=error)
    return Read(message, tenant, Activity(change.version.event_id, body), key)


def prefix(poll: Mapping[Partition, list[Read]]) -> Prefix:
    """How far each partition is done."""
    found = Prefix()
    for partition, records in poll.items():
        done = next((place for place, record in enumerate(records) if not record.is_done), len(records))
        found.records += records[:done]
        if done:
            found.offsets[partition] = records[done - 1].offset + 1
        if done < len(records):
            found.rest[partition] = records[done].offset
    return found
