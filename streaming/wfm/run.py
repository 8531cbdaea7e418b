"""wfm-realtime as a service."""

from __future__ import annotations

import gc
import threading

from streaming.consumer.service import run_member
from streaming.consumer.work import Consumption
from streaming.settings import Settings
from streaming.wfm.serve import LiveServer
from streaming.wfm.view import LiveView
from streaming.wfm.work import WfmWork

_POLL_RECORDS = 2_000


def run_wfm(settings: Settings, stop: threading.Event) -> None:
    """Keep live figures and serve them, until stopped or fenced.

    Raises:
        FencedError: another process holds the slot.
        ServiceUnavailableError: Kafka fails for good; to be started again.
    """
    # Conversations stay for hours: with the default the collector would look through all of them again and again.
    gc.set_threshold(100_000, 50, 100)
    consumption = Consumption(
        name="wfm-realtime",
        group=settings.wfm,
        health_port=settings.health.wfm_realtime,
        poll_records=_POLL_RECORDS,
    )
    with LiveServer(settings, LiveView(settings)):
        run_member(settings, consumption, WfmWork, stop)
