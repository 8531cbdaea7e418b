"""Runs the receiver on Granian, inside this process."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading

import httpx
import structlog
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.settings import Settings
from streaming.spool.writer import SpoolWriter
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.receiver import ALIVE, NOT_WELL, Receiver

log = structlog.get_logger()

_STAND_BY_S = 5.0
_PROBE_S = 5.0
_BACKLOG = 1024


def run_receiver(settings: Settings, stop: threading.Event) -> None:
    """Receive webhooks until stopped. If another copy serves the port, stand by until it ends.

    Args:
        settings: The platform's.
        stop: Ends the service when set.

    Raises:
        ConfigurationError: no CXone tenant, or another program has the port.
        ServiceUnavailableError: the spool's writer ended; to be started again.
    """
    if not settings.tenants_of(VENDOR):
        msg = "tenants: none of vendor 'cxone'; add one or don't run cxone-receiver"
        raise ConfigurationError(msg)
    while not _is_free(settings.receiver.host, settings.receiver.port):
        if _is_stranger(settings.receiver.host, settings.receiver.port):
            msg = f"receiver.port: {settings.receiver.port} is taken; stop what uses it or set another port"
            raise ConfigurationError(msg)
        log.warning("another receiver serves the port; standing by", port=settings.receiver.port)
        if stop.wait(_STAND_BY_S):
            return
    uvloop.run(_serve(settings, stop))


def server_of(application: object, address: str, port: int) -> Server:
    """Granian as the receiver runs it, around any RSGI application.

    Args:
        application: The application.
        address: To listen at.
        port: To listen at.
    """
    return Server(
        application,
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        backlog=_BACKLOG,
        websockets=False,
        log_enabled=False,
    )


async def _serve(settings: Settings, stop: threading.Event) -> None:
    spool = SpoolWriter(settings.spool_dir, settings.spool)
    receiver = Receiver(settings, spool)
    receiver.start()
    address, port = settings.receiver.host, settings.receiver.port
    server = server_of(receiver, address, port)
    # What is there now stays as long as the process; looking through it again and again takes time from requests.
    gc.freeze()
    log.info("receiver listens", address=address, port=port, spool=str(spool.path))
    serving = asyncio.create_task(server.serve())
    try:
        while not stop.is_set() and not serving.done():
            await asyncio.sleep(0.1)
            if not spool.is_alive:
                msg = "the spool's writer ended"
                raise ServiceUnavailableError(msg)
        if serving.done():
            serving.result()
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.gather(serving, return_exceptions=True)
        await receiver.close()
        spool.close()


def _is_stranger(host: str, port: int) -> bool:
    """Whether another program has the port. A receiver that is silent, breaks off or is not well is still one."""
    address = f"[{host}]" if ":" in host else host
    try:
        answer = httpx.get(f"http://{address}:{port}/healthz", timeout=_PROBE_S, trust_env=False)
    except (httpx.TimeoutException, httpx.ReadError):
        return False
    except httpx.TransportError:  # it refuses, or speaks no HTTP; or a receiver ended just now
        return not _is_free(host, port)
    return answer.content not in (ALIVE, NOT_WELL)


def _is_free(host: str, port: int) -> bool:
    if port == 0:
        return True
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
