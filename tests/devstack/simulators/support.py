"""Simulators as real processes, and a receiver for their webhooks."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx

SHIPPED = Path(__file__).parents[3] / "data" / "anonymous-bank-1999-01-06.tsv.gz"
CLIENT = ("client", "s3cret")
TENANT = {"genesys": ("bank-north", "AA01"), "cxone": ("bank-south", "AA02")}


def command(vendor: str, trace: Path, *arguments: object) -> list[str]:
    tenant, ivr = TENANT[vendor]
    return [
        sys.executable, "-m", f"devstack.simulators.{vendor}", "--trace", str(trace), "--tenant", tenant, "--ivr", ivr,
        "--client-id", CLIENT[0], "--client-secret", CLIENT[1], *map(str, arguments),
    ]  # fmt: skip


class Simulator:
    """A running simulator."""

    def __init__(self, vendor: str, url: str, process: subprocess.Popen[bytes], http: httpx.Client) -> None:
        self.vendor = vendor
        self.url = url
        self.process = process
        self.http = http

    def start(self, speed: float = 0, **more: object) -> None:
        self.http.post("/control/start", json={"speed": speed, **more}).raise_for_status()

    def misbehave(self, **orders: object) -> None:
        self.http.post("/control/misbehave", json=orders).raise_for_status()

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/control/status").json()
        return answer

    def wait_done(self, seconds: float = 30) -> dict[str, Any]:
        until(lambda: self.status()["state"] == "done", seconds)
        return self.status()

    def token(self, scope: str | None = None) -> str:
        path = "/login/oauth/token" if self.vendor == "genesys" else "/auth/token"
        form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        answer = self.http.post(path, data=form, auth=CLIENT).raise_for_status()
        return str(answer.json()["access_token"])

    def bearer(self, scope: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(scope)}"}


@contextlib.contextmanager
def simulator(vendor: str, folder: Path, trace: Path, *arguments: object) -> Iterator[Simulator]:
    port_file = folder / f"{vendor}-{time.monotonic_ns()}.port"
    with (folder / f"{vendor}.log").open("ab") as log:
        process = subprocess.Popen(
            command(vendor, trace, "--port-file", port_file, *arguments), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            until(lambda: port_file.exists() or process.poll() is not None, 20)
            assert process.poll() is None, (folder / f"{vendor}.log").read_text()
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            with httpx.Client(base_url=url, timeout=10) as http:
                yield Simulator(vendor, url, process, http)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def events(self) -> list[dict[str, Any]]:
        document = json.loads(self.body)
        return document if isinstance(document, list) else [document]


class Receiver:
    """Takes webhooks down; `answer` decides on the status and Retry-After from how many came before."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answer: Callable[[int], tuple[int, str | None]] = lambda _: (200, None)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver._lock:
                    number = len(receiver.requests)
                    receiver.requests.append(Received(self.path, headers, body, time.monotonic()))
                status, retry_after = receiver.answer(number)
                self.send_response(status)
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for request in self.requests for event in request.events]


def cxone_target(receiver: Receiver) -> tuple[str, ...]:
    """Arguments that register the receiver's webhook."""
    return "--target", receiver.url, "--webhook-token", "hook-token"


def unpad(text: str) -> bytes:
    """base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(text: str) -> int:
    return int.from_bytes(unpad(text), "big")


def sse(sim: Simulator, count: int) -> list[str]:
    """Data of the stream's first events, so many."""
    with sim.http.stream("GET", "/stream", headers=sim.bearer()) as answer:
        answer.raise_for_status()
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        return [line.removeprefix("data: ") for _, line in zip(range(count), lines, strict=False)]
