"""What the stack's servers have in common: a port of their own for life, start, stop, crash and start again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from devstack.child import ChildProcess
from devstack.errors import StackError
from devstack.ports import free_port, require_free
from devstack.processes import ProcessTable


class Server(ABC):
    """A server of the stack, not started yet.

    Args:
        processes: who starts and ends it.
        folder: its data; kept when it stops.
        port: where it listens on loopback; by default a free one is chosen. It stays the same over stops and starts.
    """

    label: str
    remedy: str

    def __init__(self, processes: ProcessTable, folder: Path, port: int | None = None) -> None:
        self._processes = processes
        self._folder = folder.absolute()
        self.port = port or free_port()
        self._child: ChildProcess | None = None

    @abstractmethod
    def _launch(self) -> ChildProcess:
        """Start the process and wait until it is healthy."""

    @property
    def child(self) -> ChildProcess:
        """The process that runs, or ran last.

        Raises:
            StackError: it was never started.
        """
        if self._child is None:
            msg = f"{self.label} was not started"
            raise StackError(msg)
        return self._child

    def start(self) -> None:
        """Start it and wait until it is healthy; nothing happens if it runs.

        Raises:
            PortTakenError: somebody else listens on its port.
            StartError: it does not come up; the message holds its log's last lines.
        """
        if self._child is not None and self._child.is_running:
            return
        require_free(self.port, self.label, self.remedy)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._child = self._launch()

    def stop(self) -> None:
        """Stop it in order."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()
