"""Who has the receiver's port: another copy, or another program."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from streaming.vendors.cxone import serve
from streaming.vendors.cxone.receiver import ALIVE, NOT_WELL
from streaming.vendors.cxone.serve import _is_stranger
from tests.processes import free_port


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def answering(status: int, body: bytes, host: str = "127.0.0.1") -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = (_Server6 if ":" in host else ThreadingHTTPServer)((host, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def saying(reply: bytes | None) -> Iterator[int]:
    """A program that takes connections: answers with these bytes and hangs up, or is silent if None."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            kept = []
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    break
                if reply is None:
                    kept.append(connection)
                else:
                    connection.recv(4096)
                    connection.sendall(reply)
                    connection.close()
            for connection in kept:
                connection.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(("status", "body"), [(200, ALIVE), (503, NOT_WELL)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_receiver_is_stood_by_for_well_or_not(status: int, body: bytes, host: str) -> None:
    with answering(status, body, host) as port:
        assert not _is_stranger(host, port)


def test_a_receiver_too_busy_to_answer_is_stood_by_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_PROBE_S", 0.2)
    with saying(None) as port:
        assert not _is_stranger("127.0.0.1", port)


def test_another_program_is_not() -> None:
    with answering(200, b'{"status":"ok"}') as port:
        assert _is_stranger("127.0.0.1", port)
    with saying(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        assert _is_stranger("127.0.0.1", port)


def test_one_that_ended_between_two_looks_is_no_stranger() -> None:
    assert not _is_stranger("127.0.0.1", free_port())
