"""cxone-publisher: drains the spools to Kafka and polls agent states."""

from __future__ import annotations

import gc
import threading
import time

from streaming.errors import ConfigurationError
from streaming.health import HealthServer, Progress
from streaming.publisher import Publisher
from streaming.service import prepare
from streaming.settings import Settings
from streaming.vendors.cxone.agent_states import AgentStatePoller
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.drain import Drain

_IDLE_POLL_S = 0.005
_DELETE_S = 0.05
_ADOPT_S = 2.0


def run_publisher(settings: Settings, stop: threading.Event) -> None:
    """Publish until stopped.

    Raises:
        ConfigurationError: no CXone tenant.
        ServiceUnavailableError: Kafka refused a record for good; to be started again, the spool still holds it.
    """
    tenants = settings.tenants_of(VENDOR)
    if not tenants:
        msg = "tenants: none of vendor 'cxone'; add one or don't run cxone-publisher"
        raise ConfigurationError(msg)
    progress = Progress()
    publisher: Publisher | None = None

    def ready() -> bool:
        return publisher is not None and publisher.reachable()

    with HealthServer(settings.health.host, settings.health.cxone_publisher, progress, ready):
        encoder = prepare(settings, tenants, stop, progress)
        publisher = Publisher(settings, encoder, "cxone-publisher")
        drain = Drain(settings, publisher)
        ended = threading.Event()
        poller = AgentStatePoller(settings, encoder, ended)
        poller.start()
        # What is there now stays as long as the process; looking through it again and again takes time from events.
        gc.freeze()
        try:
            _loop(drain, publisher, poller, progress, stop)
            publisher.drain(10)
            drain.delete_acknowledged()
        finally:
            ended.set()
            poller.join()
            drain.close()
            publisher.close()
            encoder.close()


def _loop(
    drain: Drain, publisher: Publisher, poller: AgentStatePoller, progress: Progress, stop: threading.Event
) -> None:
    adopted = deleted = -_ADOPT_S
    while not stop.is_set():
        now = time.monotonic()
        if now - adopted >= _ADOPT_S:
            drain.adopt()
            poller.check()
            adopted = now
        busy = drain.turn()
        publisher.poll(0 if busy else _IDLE_POLL_S)
        if now - deleted >= _DELETE_S:
            drain.delete_acknowledged()
            deleted = now
        progress.step()
