"""A row of the spool leaves once Kafka has all its requests became; the producer is one that the test answers for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from streaming.publisher import Publisher
from streaming.settings import Tenant
from streaming.spool.batch import SpooledEvent
from streaming.spool.reader import Drained, SpooledBatch
from streaming.vendors.cxone.drain import TenantLine
from tests.schemas.messages import cxone, ended, raw

TENANT = Tenant(tenant_id="south", vendor="cxone")


class Producer:
    """Takes records and acknowledges none by itself: what a real one does is not in a test's hand."""

    def __init__(self) -> None:
        self.acknowledge: list[Callable[[], None]] = []
        self.values: list[Any] = []

    def encode(self, event: Any) -> bytes:
        return str(event["event_type"]).encode()

    def publish(
        self, _tenant: Tenant, _event: Any, value: bytes, *, received_us: int, acknowledged: Any, **_: Any
    ) -> None:
        self.values.append((value, received_us))
        self.acknowledge.append(acknowledged)

    def dead_letter(self, _tenant: Tenant, *, value: bytes, acknowledged: Any, **_: Any) -> None:
        self.values.append((value, None))
        self.acknowledge.append(acknowledged)


def batch(seq: int, *bodies: bytes) -> SpooledBatch:
    events = [SpooledEvent(seq * 100 + number, body) for number, body in enumerate(bodies)]
    return SpooledBatch(seq, sum(map(len, bodies)), events)


def published(line: TenantLine) -> Producer:
    producer = Producer()
    while line.has_read:
        line.publish_next(cast("Publisher", producer))
    return producer


def test_a_row_leaves_when_its_last_event_is_acknowledged_in_whatever_order() -> None:
    line = TenantLine(TENANT, 1)
    first = [raw(cxone("CALL_STARTED")), raw([ended(contactId="x"), {"bad": 1}])]
    second = [raw(cxone("QUEUE_ENTERED"))]
    line.take([batch(1, *first), batch(2, *second)])
    producer = published(line)
    assert len(producer.values) == 5, "started, handled, ended, a dead letter; queued"
    assert [value[1] for value in producer.values] == [100, 101, 101, None, 200], "each keeps its time of receipt"
    assert line.in_flight == 3
    for number in (4, 3, 1, 0):
        producer.acknowledge[number]()
        assert line.drained() is None
    producer.acknowledge[2]()
    assert line.in_flight == 0
    drained = line.drained()
    assert drained == Drained(1, 2, 3, sum(map(len, first + second)))
    line.deleted(drained)
    assert line.drained() is None


def test_what_began_anew_is_not_confused_by_late_answers() -> None:
    line = TenantLine(TENANT, 1)
    line.take([batch(1, raw(cxone("CALL_STARTED")))])
    late = published(line)
    line.begin_anew(0.0)
    assert (line.read_through, line.in_flight) == (0, 0)
    line.take([batch(1, raw(cxone("CALL_STARTED")))])
    again = published(line)
    late.acknowledge[0]()
    assert line.drained() is None
    assert line.in_flight == 1
    again.acknowledge[0]()
    assert line.drained() is not None


def test_a_batch_waits_in_the_line_while_the_producer_is_full() -> None:
    line = TenantLine(TENANT, 1)
    line.take([batch(1, *[raw(cxone("CALL_STARTED", contactId=f"c-{number}")) for number in range(3)])])
    producer = Producer()
    line.publish_next(cast("Publisher", producer))
    producer.acknowledge[0]()
    assert line.has_read
    assert line.drained() is None, "two of its requests are not published yet"
