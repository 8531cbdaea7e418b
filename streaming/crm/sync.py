"""crm-sync as a service."""

from __future__ import annotations

import threading

from streaming.consumer.member import Member
from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption
from streaming.crm.calls import Calls
from streaming.crm.client import HttpCrmClient
from streaming.crm.output import TransactionalOutput
from streaming.crm.work import CrmWork
from streaming.settings import Settings

_POLL_RECORDS = 500
_HEARTBEAT_S = 10.0


def run_crm_sync(settings: Settings, stop: threading.Event) -> None:
    """One member of the group, until stopped or fenced.

    Raises:
        ConfigurationError: ``crm.url`` is not set, or Kafka refuses something for good.
        FencedError: the slot was lost.
        ServiceUnavailableError: Kafka; to be started again.
    """
    client = HttpCrmClient(settings.crm)

    def make_work(member: Member) -> CrmWork:
        # The output first: it ends what a killed holder of the slot left open, before offsets are read.
        output = TransactionalOutput(member)
        return CrmWork(member, Calls(client, settings.crm, stop), output)

    consumption = Consumption(
        "crm-sync", settings.crm, settings.health.crm_sync, poll_records=_POLL_RECORDS, heartbeat_s=_HEARTBEAT_S
    )
    run_member(settings, consumption, make_work, stop)
