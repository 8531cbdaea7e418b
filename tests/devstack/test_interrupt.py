"""Ctrl-C that waits until it is convenient."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from devstack.interrupt import deferred_interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_is_delivered_when_the_block_ends() -> None:
    steps: list[object] = []

    def work() -> None:
        with deferred_interrupts() as interrupted:
            steps.append(interrupted())
            press()
            steps.append(interrupted())
        steps.append("not reached")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [False, True]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_inner_block_tells_the_outer_one() -> None:
    seen: list[bool] = []

    def work() -> None:
        with deferred_interrupts() as outer:
            with deferred_interrupts() as inner:
                press()
                seen.append(inner())
            seen.append(outer())

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [True, True]


def test_other_threads_go_on_untouched() -> None:
    seen: list[bool] = []

    def work() -> None:
        with deferred_interrupts() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
