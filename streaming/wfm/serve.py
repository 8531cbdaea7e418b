"""Live figures over HTTP: the page, and the same as JSON. In threads of its own, for which no member waits."""

from __future__ import annotations

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import structlog

from streaming.http_thread import HttpThread
from streaming.settings import Settings
from streaming.wfm.picture import picture
from streaming.wfm.records import TENANT
from streaming.wfm.view import Key, LiveView

log = structlog.get_logger()

_WAIT_S = 5.0
_AT_ONCE = 64
# A client that does not send its request, or does not take its answer.
_SLOW_S = 10.0
_INTERVALS = 4
_MOST_INTERVALS = 192
# So many clients that ask within this time get the same answer.
_SAME_S = 0.5
_HTML, _JSON = "text/html; charset=utf-8", "application/json"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}


class LiveServer(HttpThread):
    """Serves ``/``, ``/api/tenants`` and ``/api/live/{vendor}/{tenant_id}``.

    A port that is taken does not stop the member: another one on the machine serves the same figures, and this one
    binds when the port is free.

    Args:
        settings: The platform's.
        view: What is served; started and closed with the server.
    """

    def __init__(self, settings: Settings, view: LiveView) -> None:
        self._address = (settings.wfm.host, settings.wfm.port)
        self._view = view
        self._told = False
        super().__init__("live-server", self._make, self._tell)

    def __enter__(self) -> Self:
        self._view.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._view.close()

    def _make(self) -> _Server:
        server = _Server(self._address, self._view)
        log.info("live figures are served", host=self._address[0], port=server.server_port)
        return server

    def _tell(self, error: OSError) -> None:
        if not self._told:
            log.warning("the page's port is taken, by another member or a stranger; trying again",
                        host=self._address[0], port=self._address[1], error=str(error))  # fmt: skip
            self._told = True


class _Server(ThreadingHTTPServer):
    block_on_close = False

    def __init__(self, address: tuple[str, int], view: LiveView) -> None:
        self.view = view
        self.page = files("streaming.wfm").joinpath("page.html").read_bytes()
        self.room = threading.BoundedSemaphore(_AT_ONCE)
        self._answers: dict[tuple[str, str, int], tuple[float, bytes]] = {}
        super().__init__(address, _Handler)

    def live(self, vendor: str, tenant_id: str, intervals: int) -> bytes | None:
        """The JSON of a tenant, at most half a second old; None if there is none."""
        key, now = (vendor, tenant_id, intervals), time.monotonic()
        kept = self._answers.get(key)
        if kept is not None and now - kept[0] < _SAME_S:
            return kept[1]
        records = self.view.records(vendor, tenant_id, _WAIT_S)
        if records is None or (TENANT,) not in records:
            return None
        answer = _picture(records, intervals)
        if len(self._answers) > _AT_ONCE:
            self._answers.clear()
        self._answers[key] = now, answer
        return answer


def _picture(records: dict[Key, dict[str, Any]], intervals: int) -> bytes:
    return orjson.dumps(picture(records, int(time.time() * 1000), intervals))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SLOW_S

    def do_GET(self) -> None:
        if not self.server.room.acquire(blocking=False):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _error("too many requests at once; ask again"))
            return
        try:
            self._route()
        finally:
            self.server.room.release()

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def _route(self) -> None:
        target = urlsplit(self.path)
        parts = [unquote(part) for part in target.path.split("/")[1:]]
        if parts == [""]:
            self._answer(HTTPStatus.OK, self.server.page, _HTML)
        elif parts == ["api", "tenants"]:
            self._answer(HTTPStatus.OK, orjson.dumps(self._known()))
        elif len(parts) == 4 and parts[:2] == ["api", "live"]:
            self._live(parts[2], parts[3], parse_qs(target.query))
        else:
            self._answer(HTTPStatus.NOT_FOUND, _error("paths: / /api/tenants /api/live/{vendor}/{tenant_id}"))

    def _live(self, vendor: str, tenant_id: str, query: dict[str, list[str]]) -> None:
        text = query.get("intervals", [str(_INTERVALS)])[-1]
        if not (text.isascii() and text.isdigit() and len(text) < 5):
            self._answer(HTTPStatus.BAD_REQUEST, _error("intervals: a whole number, 0 or more"))
            return
        body = self.server.live(vendor, tenant_id, min(int(text), _MOST_INTERVALS))
        if body is not None:
            self._answer(HTTPStatus.OK, body)
        elif (vendor, tenant_id) in self.server.view.tenants():
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _error("no figures yet; ask again"))
        else:
            body = orjson.dumps({"error": "no such tenant has live figures", "tenants": self._known()})
            self._answer(HTTPStatus.NOT_FOUND, body)

    def _known(self) -> list[dict[str, str]]:
        return [{"vendor": vendor, "tenant_id": tenant_id} for vendor, tenant_id in self.server.view.tenants()]

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = _JSON) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        """A display asks every second: not worth a log line."""


def _error(text: str) -> bytes:
    return orjson.dumps({"error": text})
