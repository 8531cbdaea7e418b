"""A simulator as a process: arguments, a loopback port, background tasks, an orderly end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from starlette.types import ASGIApp

from streaming.errors import ConfigurationError

HOST = "127.0.0.1"
"""Simulators serve loopback only."""

# Open streams end by themselves when told to; what still runs after this is cut.
_SHUTDOWN_S = 2
_GOODBYE_TICK_S = 0.01
_BACKLOG = 4096


@dataclass(slots=True)
class Simulator:
    """What a vendor's module hands over to be served.

    Attributes:
        app: HTTP side.
        tasks: Run beside it until the end; a failure of one ends the process.
        stop: Called when the process is told to end, before connections are closed.
        summary: For the line that tells readiness.
        has_left: Whether everybody whom ``stop`` says goodbye to has heard it.
    """

    app: ASGIApp
    tasks: Sequence[Callable[[], Awaitable[None]]]
    stop: Callable[[], None]
    summary: str
    has_left: Callable[[], bool] = lambda: True


def common_arguments(description: str) -> argparse.ArgumentParser:
    """Arguments of every simulator."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--trace", type=Path, required=True, help="tab-separated trace, plain or gzip-compressed")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 lets the system choose")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is bound")
    parser.add_argument("--tenant", required=True, help="tenant id")
    parser.add_argument("--ivr", required=True, help="IVR whose calls are played, such as AA01")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret", required=True)
    parser.add_argument("--expires-in", type=float, default=3600, help="lifetime of a token, s")
    parser.add_argument("--scopes", help="OAuth scopes that the client may have, with spaces; default: all")
    parser.add_argument(
        "--rest-per-minute", type=whole_number(1), default=300, help="REST requests of a client in a minute"
    )
    parser.add_argument("--date-shift-days", type=int, default=0, help="days by which every date is moved")
    parser.add_argument("--first-dates", type=int, help="play only so many of the trace's dates")
    return parser


def whole_number(least: int) -> Callable[[str], int]:
    """Type of an argument that is a whole number and no less than this."""

    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            msg = f"{number} is too few; give {least} or more"
            raise argparse.ArgumentTypeError(msg)
        return number

    return parse


def run(name: str, make: Callable[[argparse.Namespace], Simulator], arguments: argparse.Namespace) -> int:
    """Make the simulator and serve it until SIGTERM or SIGINT.

    Returns:
        Exit code: 0, 2 if the arguments or the trace are wrong, 1 if a background task failed.
    """
    try:
        listener = _bind(arguments.port)
        with listener:
            simulator = make(arguments)
            port = listener.getsockname()[1]

            def ready() -> None:
                if arguments.port_file is not None:
                    _write(arguments.port_file, f"{port}\n")
                print(f"{name} simulator ready on http://{HOST}:{port} ({simulator.summary})", flush=True)

            return uvloop.run(_serve(simulator, listener, ready))
    except ConfigurationError as error:
        print(f"{name} simulator: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130


async def _serve(simulator: Simulator, listener: socket.socket, ready: Callable[[], None]) -> int:
    failed = False

    @asynccontextmanager
    async def background() -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(task()) for task in simulator.tasks]

        def watch(task: asyncio.Future[None]) -> None:
            nonlocal failed
            if not task.cancelled() and task.exception() is not None:
                logging.getLogger(__name__).error("a background task failed", exc_info=task.exception())
                failed = True
                server.should_exit = True

        for task in tasks:
            task.add_done_callback(watch)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    config = uvicorn.Config(
        simulator.app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_keep_alive=75,
        ws_per_message_deflate=False,
    )
    logging.getLogger("uvicorn.error").addFilter(_expected_disconnect)
    server = _Server(config, simulator, ready)
    async with background():
        await server.serve(sockets=[listener])
    return 1 if failed else 0


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, simulator: Simulator, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._simulator = simulator
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, but WebSockets only after they have heard why: uvicorn's own would not wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_S):
                while not self._simulator.has_left():
                    await asyncio.sleep(_GOODBYE_TICK_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """End the streams first, since the server waits for open connections. A second signal waits for nothing.

        uvicorn's own would raise the signal again at the end, which kills the process before it has tidied up.
        """
        self._simulator.stop()
        self.force_exit = self.should_exit
        self.should_exit = True


def _expected_disconnect(record: logging.LogRecord) -> bool:
    """A stream that is cut on purpose ends without a last chunk; uvicorn takes that for a fault."""
    return "without completing response" not in record.getMessage()


def _bind(port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigurationError: the port is taken, reserved or out of range.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        msg = f"port {port} on {HOST} can't be had ({error}); give another --port, or 0 for a free one"
        raise ConfigurationError(msg) from None
    return listener


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees nothing or all of it."""
    part = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        part.write_text(text, encoding="ascii")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        msg = f"--port-file {path}: can't be written ({error}); name a file in an existing folder"
        raise ConfigurationError(msg) from None
