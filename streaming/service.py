"""What the long-running services share: a stop signal, and waiting for services they need at the start."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_when_event_set,
    wait_random_exponential,
)

from schemas.live import LiveEncoder
from schemas.registry import Registry
from streaming.errors import ServiceUnavailableError
from streaming.health import Progress
from streaming.settings import Settings, Tenant
from streaming.topics import ensure_topics

log = structlog.get_logger()
T = TypeVar("T")

Service = Callable[[Settings, threading.Event], None]
"""Runs until the event is set."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event set by SIGTERM or SIGINT. Outside the main thread signals stay as they are."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def sleeping_until(stop: threading.Event) -> Callable[[float], None]:
    """A sleep between retries that the stop signal ends at once."""

    def sleep(seconds: float) -> None:
        stop.wait(seconds)

    return sleep


def when_available(what: str, call: Callable[[], T], stop: threading.Event, progress: Progress | None = None) -> T:
    """The call's result; while a service is down it is tried again, with backoff, until it is up or ``stop`` is set.

    Raises:
        ServiceUnavailableError: stopped before the service came up.
    """

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if progress is not None:
            progress.step()  # waiting is no standstill
        log.warning("waiting for a service", what=what, error=str(error), attempt=state.attempt_number)

    return Retrying(
        retry=retry_if_exception_type(ServiceUnavailableError),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_when_event_set(stop),
        before_sleep=say,
        sleep=sleeping_until(stop),
        reraise=True,
    )(call)


def prepare(settings: Settings, tenants: tuple[Tenant, ...], stop: threading.Event, progress: Progress) -> LiveEncoder:
    """Topics and schema are there before the first event; waits for Kafka and the registry.

    Returns:
        An encoder that follows the registry; the caller closes it.
    """
    when_available("Kafka", lambda: ensure_topics(settings.kafka, tenants), stop, progress)
    registry = Registry(settings.registry)
    encoder = when_available("schema registry", lambda: LiveEncoder(registry), stop, progress)
    encoder.follow(settings.registry.refresh_seconds, stop)
    return encoder
