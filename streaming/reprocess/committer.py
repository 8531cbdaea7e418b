"""Commits one batch while the next is made: most of a commit is waiting for Kafka."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from streaming.reprocess.batch import Batch

Work = Callable[[Batch], None]


class Committer:
    """One batch at a time; as a context, it is left once the last is committed.

    Args:
        send: Begins a transaction and hands a batch to the producer; at once, in the caller's thread, since a second
            busy thread would only slow both.
        commit: Commits it, in a thread. What it raises, the next :meth:`commit` or the context's end raises.
    """

    def __init__(self, send: Work, commit: Work) -> None:
        self._send, self._commit = send, commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._settle()

    def commit(self, batch: Batch) -> None:
        """Commit a batch once the one before it is committed: two at most are in memory."""
        self._settle()
        self._send(batch)
        self._running = self._thread.submit(self._commit, batch)

    def _settle(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()
