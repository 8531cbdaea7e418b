"""Progress of the local stack on a console: bars and status lines for people, plain lines for a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

# Without a terminal: a line whenever this many more bytes have come.
_LINE_EVERY_BYTES = 50_000_000


def stack_console() -> Console:
    """The console of the local stack's messages: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class Download:
    """Counts bytes of one batch of downloads and shows them. Safe to call from several threads."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._done = 0
        self._shown = 0
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total)

    def advance(self, size: int) -> None:
        """Count ``size`` more bytes (negative when a try is begun anew)."""
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done)
            elif self._done - self._shown >= _LINE_EVERY_BYTES:
                self._shown = self._done
                self._console.print(f"{self._label}: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB")

    def __enter__(self) -> Download:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def timed(console: Console, label: str) -> Iterator[None]:
    """Say how long the block took, in seconds, or that it failed."""
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        console.print(f"{label}: failed after {time.monotonic() - begun:.1f} s")
        raise
    console.print(f"{label}: ready in {time.monotonic() - begun:.1f} s")
