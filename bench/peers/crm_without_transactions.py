"""Peer of ``crm``: crm-sync with nothing but its transactions taken away.

State changes are acknowledged by all replicas, then the offsets are committed: what a crash leaves between the two
comes twice.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from confluent_kafka import Producer

from streaming.consumer.member import Member
from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption, Partition
from streaming.crm.calls import Calls
from streaming.crm.client import HttpCrmClient
from streaming.crm.output import Record
from streaming.crm.work import CrmWork
from streaming.errors import ServiceUnavailableError
from streaming.service import stop_on_signals
from streaming.settings import Settings, load_settings

_FLUSH_S = 30.0


class PlainOutput:
    """Records with the properties of the transactional producer, but for the transaction."""

    def __init__(self, member: Member) -> None:
        self._member = member
        producer = member.settings.producer
        self._producer = Producer(
            {
                **member.settings.kafka.client_config(),
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": producer.linger_ms,
                "batch.size": producer.batch_size,
                "delivery.report.only.error": True,
            }
        )

    def write(self, records: Sequence[Record], offsets: Mapping[Partition, int]) -> None:
        for record in records:
            self._producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
        if left := self._producer.flush(_FLUSH_S):
            msg = f"Kafka has not taken {left} state changes"
            raise ServiceUnavailableError(msg)
        self._member.commit(offsets)

    def close(self) -> None:
        self._producer.purge()


def run(settings: Settings, stop: threading.Event) -> None:
    """As :func:`streaming.crm.sync.run_crm_sync`."""
    client = HttpCrmClient(settings.crm)

    def make_work(member: Member) -> CrmWork:
        return CrmWork(member, Calls(client, settings.crm, stop), PlainOutput(member))

    consumption = Consumption("crm-sync", settings.crm, settings.health.crm_sync, poll_records=500, heartbeat_s=10.0)
    run_member(settings, consumption, make_work, stop)


if __name__ == "__main__":
    with stop_on_signals() as stopped:
        run(load_settings(), stopped)
