"""``/healthz`` (alive and moving), ``/readyz`` (can do its work) and ``/metrics`` of services without HTTP."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streaming.http_thread import HttpThread

log = structlog.get_logger()

# A loop that made no step for so long is stuck: the watchdog of PREFECT.md, which heartbeats are not.
STUCK_AFTER_S = 60.0
# Then it is ended, so that Prefect starts it anew. Kafka has given its partitions to others by then.
END_AFTER_S = 300.0


class Progress:
    """A service's main loop calls :meth:`step`; the watchdog sees whether it still does."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def step(self) -> None:
        """The loop went round once more."""
        self._last = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last step."""
        return time.monotonic() - self._last


@contextlib.contextmanager
def ended_when_stuck(progress: Progress, after_s: float = END_AFTER_S) -> Iterator[None]:
    """Watch the loop within from a thread of its own; the process is ended if it makes no step for so long.

    As after ``kill -9`` nothing is lost: what was not committed is read again.
    """
    left = threading.Event()

    def watch() -> None:
        while not left.wait(min(1.0, after_s / 10)):
            if progress.age > after_s:
                log.critical("the loop is stuck; the process ends, to be started anew", seconds=round(progress.age))
                os._exit(os.EX_SOFTWARE)  # an orderly end would wait for the loop

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        left.set()


class HealthServer(HttpThread):
    """Serves the three paths in threads of its own.

    A port that is taken does not stop the service: a second copy stands by on the same machine until the first one
    dies, and binds when the port is free.

    Args:
        host: Address to bind.
        port: Port; 0 lets the system choose.
        progress: Of the main loop.
        ready: Whether the service can do its work; may take up to 2 s.
    """

    def __init__(self, host: str, port: int, progress: Progress, ready: Callable[[], bool]) -> None:
        def refused(error: OSError) -> None:
            log.warning("health port is taken, trying again; free it or change health.* in the settings",
                        host=host, port=port, error=str(error))  # fmt: skip

        handler = _handler(progress, ready)
        super().__init__("health", lambda: ThreadingHTTPServer((host, port), handler), refused)


def _handler(progress: Progress, ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, content_type = HTTPStatus.OK, b"ok\n", "text/plain; charset=utf-8"
            if self.path == "/healthz":
                if progress.age > STUCK_AFTER_S:
                    status, body = HTTPStatus.SERVICE_UNAVAILABLE, b"no progress for %d s\n" % progress.age
            elif self.path == "/readyz":
                if not ready():
                    status, body = HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n"
            elif self.path == "/metrics":
                body, content_type = generate_latest(), CONTENT_TYPE_LATEST
            else:
                status, body = HTTPStatus.NOT_FOUND, b"paths: /healthz /readyz /metrics\n"
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
            """Probes are not worth a log line."""

    return Handler
