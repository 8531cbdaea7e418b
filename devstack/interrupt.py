"""Ctrl-C at points of our choosing.

Python raises KeyboardInterrupt between any two instructions of the main thread. Raised while ``threading.Condition``
takes its lock, it leaves the lock taken, and a thread that reports its result there waits for ever. So where threads
start or stop parts of the stack, Ctrl-C only sets a flag that is looked at.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self._pressed = False

    def __call__(self) -> bool:
        """True once it was."""
        return self._pressed

    def press(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self._pressed = True


@contextmanager
def deferred_interrupts() -> Iterator[Interrupt]:
    """Inside, SIGINT raises nothing and sets the flag; if it came, it is delivered when the block ends.

    In other threads than the main one, where SIGINT raises nothing anyway, the flag stays false.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt.press)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
        if interrupt():
            signal.raise_signal(signal.SIGINT)
