"""A small HTTP server in threads of its own, on a port that another copy on the machine may have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Self

_RETRY_BIND_S = 5.0


class HttpThread:
    """Serves within a ``with``. A port that is taken stops nobody: it is bound once it is free.

    Args:
        name: Of the thread.
        bind: Makes the server.
        refused: Called with the error after each attempt to bind that failed; the next is made 5 s later.
    """

    def __init__(self, name: str, bind: Callable[[], ThreadingHTTPServer], refused: Callable[[OSError], None]) -> None:
        self._bind = bind
        self._refused = refused
        self._server: ThreadingHTTPServer | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def port(self) -> int | None:
        """The bound port, None while it is not."""
        return None if self._server is None else int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
        self._thread.join(timeout=_RETRY_BIND_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._server = self._bind()
            except OSError as error:
                self._refused(error)
                self._stop.wait(_RETRY_BIND_S)
                continue
            self._server.daemon_threads = True
            with self._server:
                self._server.serve_forever(poll_interval=0.2)
            return
