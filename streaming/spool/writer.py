"""The receiver's side of the spool: many requests, one commit (one fsync) for all that wait."""

from __future__ import annotations

import asyncio
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

from streaming.settings import SpoolSettings
from streaming.spool.batch import MAX_BYTES, MAX_REQUESTS, Batch, deferred_size
from streaming.spool.lanes import Bounds, Lane, SpoolFullError, Usage
from streaming.spool.schema import LAYOUT, claim_for_writing

log = structlog.get_logger()

_USAGE_REFRESH_S = 0.5
# Senders that wait for an answer send again soon after it. So a group waits until it has this share of what the last
# ones held, yet no longer than this; a lone sender's group (of one) waits for nobody.
_ENOUGH_SHARE = 0.75
_PATIENCE_S = 0.001
_LAST_GROUPS = 4


class Deferral(NamedTuple):
    """Why an event is set aside, and what is needed to verify it later."""

    reason: str
    signature: str  # JSON of the request's signature headers

    def size(self, body: bytes) -> int:
        """Bytes that the event takes of the lane's bounds."""
        return deferred_size(body, self.signature, self.reason)


class Stored(asyncio.Future[None]):
    """Done once a group is on disk. Its requests share it, so none of them may cancel it for the others."""

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 (asyncio's signature)
        """Not possible; a task that is cancelled while it waits is told so once the group is done."""
        return False


class _Group:
    """What is committed together."""

    __slots__ = ("deferred", "enough", "events", "full", "requests", "stored")

    def __init__(self, loop: asyncio.AbstractEventLoop, enough: int) -> None:
        self.stored = Stored(loop=loop)
        self.enough = enough
        self.requests = 0
        self.events: dict[str, Batch] = {}
        self.full: list[tuple[str, Batch]] = []
        self.deferred: list[tuple[str, int, bytes, Deferral]] = []

    def batches(self) -> Iterator[tuple[str, Batch]]:
        """Rows to be, a tenant's in order."""
        yield from self.full
        yield from self.events.items()


class _Line:
    """A tenant in the file. The writer's thread only."""

    __slots__ = ("deferred_seq", "id", "seq")

    def __init__(self, identifier: int, seq: int, deferred_seq: int) -> None:
        self.id = identifier
        self.seq = seq
        self.deferred_seq = deferred_seq


class SpoolWriter:
    """Takes events from an event loop and answers when they are on disk. The caller's thread never touches the disk.

    The loop gathers requests while the writer's thread commits those before: one hand-over each way and commit, none a
    request.

    Args:
        folder: Where the spools lie; one is claimed.
        settings: Bounds.

    Raises:
        sqlite3.Error: no spool can be made.
    """

    def __init__(self, folder: Path, settings: SpoolSettings) -> None:
        self._settings = settings
        self.path, self._lock, self._database = claim_for_writing(folder)
        (self._page_bytes,) = self._database.execute("PRAGMA page_size").fetchone()
        self._ordinary = Lane("events", _bounds(settings))
        self._deferred = Lane("deferred events", _deferred_bounds(settings))
        self._lines: dict[str, _Line] = {}
        self._load()
        self._disk_full = self._is_disk_full()
        self._failing = False
        # The event loop's: the group being gathered, how many requests one held of late, whether the writer has one.
        self._group: _Group | None = None
        self._usual = 1.0
        self._committing = False
        self._closing = False
        # At most one group at a time, and None at the end.
        self._handed: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def can_store(self) -> bool:
        """Whether there is room at all; a full lane of deferred events takes none from the ordinary one."""
        return self.is_alive and not self._disk_full and not self._failing and not self._ordinary.is_full

    @property
    def is_alive(self) -> bool:
        """Whether the writer's thread runs; without it nothing is ever stored."""
        return self._thread.is_alive()

    @property
    def lanes(self) -> dict[str, Lane]:
        """What each lane holds, by its name in metrics."""
        return {"ordinary": self._ordinary, "deferred": self._deferred}

    def append(self, tenant: str, body: bytes, received_us: int, deferral: Deferral | None = None) -> Stored:
        """Put one event in line. To be called from the event loop. Hot path.

        Args:
            tenant: Tenant id.
            body: The request's body as it came.
            received_us: Time of arrival, epoch µs.
            deferral: Given if the event is to be set aside.

        Returns:
            A future, done once the event is on disk; with SpoolFullError if it could not be stored.

        Raises:
            SpoolFullError: there is no room.
        """
        if self._disk_full:
            msg = f"free disk below {self._settings.min_free_disk_bytes} bytes"
            raise SpoolFullError(msg)
        size = len(body)
        if deferral is None:
            self._ordinary.take(tenant, size)
            group = self._group or self._begin()
            batch = group.events.get(tenant)
            if batch is None:
                batch = group.events[tenant] = Batch()
            elif len(batch.bodies) >= MAX_REQUESTS or batch.bytes + size > MAX_BYTES:
                group.full.append((tenant, batch))
                batch = group.events[tenant] = Batch()
            batch.frames += (size, received_us)
            batch.bodies.append(body)
            batch.bytes += size
        else:
            self._deferred.take(tenant, deferral.size(body))
            group = self._group or self._begin()
            group.deferred.append((tenant, received_us, body, deferral))
        group.requests += 1
        if group.requests == group.enough:
            # At the end of this turn of the loop: what else it has ready comes along.
            group.stored.get_loop().call_soon(self._hand_over, group)
        return group.stored

    def close(self) -> None:
        """Store what waits and let go of the file."""
        self._closing = True
        if self._group is not None:
            self._handed.put(self._group)
        self._handed.put(None)
        self._thread.join()
        self._database.close()
        self._lock.release()

    def _begin(self) -> _Group:
        if self._closing or not self.is_alive:
            msg = "the spool's writer ended; the receiver is being restarted"
            raise SpoolFullError(msg)
        loop = asyncio.get_running_loop()
        self._group = group = _Group(loop, max(int(self._usual * _ENOUGH_SHARE), 1))
        if not self._committing and group.enough > 1:
            loop.call_later(_PATIENCE_S, self._hand_over, group)
        return group

    def _hand_over(self, group: _Group) -> None:
        """Give a group to the writer, unless that is done already or the writer has another before it."""
        if group is self._group and not self._committing:
            self._group = None
            self._committing = True
            self._usual += (group.requests - self._usual) / _LAST_GROUPS
            self._handed.put(group)

    def _committed(self, group: _Group, error: SpoolFullError | None) -> None:
        """In the event loop, once the writer is done with a group."""
        self._committing = False
        if error is None:
            group.stored.set_result(None)
        else:
            for tenant, batch in group.batches():
                self._ordinary.give_back(tenant, batch.requests, batch.bytes)
            for tenant, _, body, deferral in group.deferred:
                self._deferred.give_back(tenant, 1, deferral.size(body))
            group.stored.set_exception(error)
        waiting = self._group
        if waiting is not None:
            if waiting.requests >= waiting.enough:
                self._hand_over(waiting)
            else:
                waiting.stored.get_loop().call_later(_PATIENCE_S, self._hand_over, waiting)

    def _run(self) -> None:
        """The writer's thread."""
        refreshed = time.monotonic()
        while True:
            try:
                group = self._handed.get(timeout=_USAGE_REFRESH_S)
            except queue.Empty:
                pass
            else:
                if group is None:
                    return
                self._store(group)
            if time.monotonic() - refreshed >= _USAGE_REFRESH_S:
                self._refresh()
                refreshed = time.monotonic()

    def _store(self, group: _Group) -> None:
        error: SpoolFullError | None = None
        try:
            self._commit(group)
            self._failing = False
        except sqlite3.Error as failure:  # disk full, I/O error: nothing of the group is stored
            self._failed(failure)
            error = SpoolFullError(f"the spool can't store: {failure}")
        loop = group.stored.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._committed, group, error)

    def _failed(self, failure: sqlite3.Error) -> None:
        if not self._failing:
            log.error("spool can't store; senders get 503", file=str(self.path), error=str(failure))
        self._failing = True
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _commit(self, group: _Group) -> None:
        """1. numbers in each tenant's line, 2. rows (their triggers count them), 3. commit = fsync."""
        lines: dict[str, _Line] = {}
        execute = self._database.execute
        if len(group.events) == 1 and not group.full and not group.deferred:
            ((tenant, batch),) = group.events.items()
            line = self._lines.get(tenant)
            if line is not None:
                # One statement is its own transaction: the thread asks for the interpreter once, not once a statement.
                execute(_INSERT_EVENT, (line.id, line.seq + 1, *batch.columns()))
                line.seq += 1
                return
        execute("BEGIN IMMEDIATE")
        for tenant, batch in group.batches():
            line = self._line_in(lines, tenant)
            line.seq += 1
            execute(_INSERT_EVENT, (line.id, line.seq, *batch.columns()))
        for tenant, received_us, body, deferral in group.deferred:
            line = self._line_in(lines, tenant)
            line.deferred_seq += 1
            row = (line.id, line.deferred_seq, received_us, body, deferral.signature, deferral.reason)
            execute(_INSERT_DEFERRED, row)
        execute("COMMIT")
        self._lines.update(lines)

    def _line_in(self, lines: dict[str, _Line], tenant: str) -> _Line:
        """The tenant's line within a transaction: known from its commit on, forgotten if it fails."""
        line = lines.get(tenant)
        if line is None:
            known = self._lines.get(tenant)
            if known is not None:
                line = _Line(known.id, known.seq, known.deferred_seq)
            else:
                ((identifier,),) = self._database.execute(_INSERT_TENANT, (tenant,)).fetchall()
                line = _Line(identifier, 0, 0)
            lines[tenant] = line
        return line

    def _load(self) -> None:
        for row in self._database.execute(
            "SELECT id, name, last_seq, written_rows, written_bytes, drained_rows, drained_bytes,"
            " deferred_rows, deferred_bytes, released_rows, released_bytes FROM tenant"
        ):
            identifier, name, last_seq, *counters = row
            self._lines[name] = _Line(identifier, last_seq, counters[4])
            self._ordinary.load(name, Usage(*counters[:4]))
            self._deferred.load(name, Usage(*counters[4:]))

    def _refresh(self) -> None:
        """See what left the lanes and how full the disk is; if storing fails, whether it does still."""
        try:
            self._disk_full = self._is_disk_full()
            for name, *gone in self._database.execute(
                "SELECT name, drained_rows, drained_bytes, released_rows, released_bytes FROM tenant"
            ).fetchall():
                self._ordinary.left(name, gone[0], gone[1])
                self._deferred.left(name, gone[2], gone[3])
            if self._failing:
                # A load balancer sends nothing to a receiver that is not ready: it has to try by itself.
                self._database.execute(f"PRAGMA user_version={LAYOUT}")  # the smallest write; changes nothing
                self._failing = False
                log.info("spool stores again", file=str(self.path))
        except (OSError, sqlite3.Error) as failure:
            if not self._failing:
                log.error("spool can't be read; senders get 503", file=str(self.path), error=str(failure))
                self._disk_full = True

    def _is_disk_full(self) -> bool:
        free = shutil.disk_usage(self.path.parent).free
        if free >= self._settings.min_free_disk_bytes:
            return False
        # The drain gives pages back only when idle: those that are free within the file will be written first.
        (pages,) = self._database.execute("PRAGMA freelist_count").fetchone()
        return bool(free + pages * self._page_bytes < self._settings.min_free_disk_bytes)


def _bounds(settings: SpoolSettings) -> Bounds:
    return Bounds(settings.max_rows_per_tenant, settings.max_bytes_per_tenant, settings.max_rows, settings.max_bytes)


def _deferred_bounds(settings: SpoolSettings) -> Bounds:
    return Bounds(
        settings.max_deferred_rows_per_tenant,
        settings.max_deferred_bytes_per_tenant,
        settings.max_deferred_rows,
        settings.max_deferred_bytes,
    )


_INSERT_TENANT = "INSERT INTO tenant (name) VALUES (?) RETURNING id"
_INSERT_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_DEFERRED = "INSERT INTO deferred VALUES (?, ?, ?, ?, ?, ?)"
