"""What every streaming deployment does: run a service in this process, built anew while one that it needs is down."""

from __future__ import annotations

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_when_event_set, wait_random_exponential

from flows.alerts import tell_prefect
from streaming.announce import announcing
from streaming.errors import FencedError, ServiceUnavailableError
from streaming.logs import configure_logs
from streaming.run import services
from streaming.service import sleeping_until, stop_on_signals
from streaming.settings import load_settings

log = structlog.get_logger()

_MAX_WAIT_S = 60


def run_stream(name: str) -> None:
    """Run a service until the flow run is cancelled.

    Nothing here is on an event's path. Correctness does not depend on this process ending in order: cursors, spools and
    offsets are durable, and leases arbitrate between two copies.

    Args:
        name: Key of :func:`streaming.run.services`.

    Raises:
        ConfigurationError: a setting is wrong; the run fails, and the keep-alive tries again within its budget.
    """
    settings = load_settings()
    configure_logs(settings.log_format)
    service = services()[name]

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.error("service built anew", service=name, error=str(error), attempt=state.attempt_number)

    with stop_on_signals() as stop, announcing(settings, tell_prefect):
        attempts = Retrying(
            retry=retry_if_exception_type((ServiceUnavailableError, OSError)),
            wait=wait_random_exponential(multiplier=1, max=_MAX_WAIT_S),
            stop=stop_when_event_set(stop),
            before_sleep=say,
            sleep=sleeping_until(stop),
            reraise=True,
        )
        try:
            attempts(service, settings, stop)
        except FencedError as error:
            # Another copy holds the lease: it goes on there, and this run ends Completed instead of fighting for it.
            log.warning("fenced", service=name, error=str(error))
