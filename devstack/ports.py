"""TCP ports on the loopback interface: free ones chosen, asked-for ones checked."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

import psutil

from devstack.errors import PortTakenError, StackError

HOST = "127.0.0.1"

# Below every system's range of ephemeral ports. In it, a client that keeps reconnecting to a stopped server can be
# given the server's own port, connect to itself and so take it (TCP simultaneous open): the server can't come back.
_FIRST, _LAST = 20_000, 29_999
_TRIES = 200

_handed_out: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """A port nobody listens on, never the same twice in one process.

    Raises:
        StackError: none was found.
    """
    with _lock:
        for _ in range(_TRIES):
            port = random.randint(_FIRST, _LAST)
            if port not in _handed_out and is_free(port):
                _handed_out.add(port)
                return port
    msg = f"no free port between {_FIRST} and {_LAST} on {HOST} in {_TRIES} tries: end programs that listen there"
    raise StackError(msg)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: old connections in TIME_WAIT don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def require_free(port: int, user: str, remedy: str) -> None:
    """Check a port before a server is started on it.

    Args:
        port: the port.
        user: who wants it, e.g. ``Kafka``.
        remedy: what to change to use another port.

    Raises:
        PortTakenError: it is in use.
    """
    if not is_free(port):
        msg = f"port {port} on {HOST}, wanted for {user}, is taken by {holder(port)}: stop that program, or {remedy}"
        raise PortTakenError(msg)


def holder(port: int) -> str:
    """Who listens on a port, for messages; vague if the system does not tell us."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"
