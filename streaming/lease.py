"""Leases in the state database: which process may work on what. Fenced by epochs, no clocks compared."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from streaming.state import insert, lease

log = structlog.get_logger()


class _Seen(NamedTuple):
    epoch: int
    beat: int
    since: float  # own monotonic clock, s


class LeaseKeeper:
    """Wants some leases, renews those it has, takes over those whose holder went silent.

    A holder is silent if its row did not change for ``ttl`` seconds on *this* process's monotonic clock. A holder that
    can't renew for ``ttl`` counts itself out. Between the two a short overlap is possible; writes that matter carry the
    epoch.

    Args:
        engine: State database.
        names: Leases wanted.
        ttl: Seconds of silence after which a lease is free.
        at_most: How many to hold at once; None for all.
        inherits: Whether a lease whose holder went silent goes before one that nobody held: for leases to which
            something belongs that waits for a successor, such as a group member's partitions. Who comes while others
            hold leases waits until it is known whether one of them is silent, at most the ``ttl``.
    """

    def __init__(
        self,
        engine: sa.Engine,
        names: Sequence[str],
        *,
        ttl: float,
        at_most: int | None = None,
        inherits: bool = False,
    ) -> None:
        self._engine = engine
        self._names = list(names)
        self._ttl = ttl
        self._at_most = len(self._names) if at_most is None else at_most
        self._inherits = inherits
        self._alive: set[str] = set()  # leases whose holder was seen to renew
        self.holder = uuid.uuid4().hex
        self._held: dict[str, int] = {}
        self._renewed = time.monotonic()
        self._seen: dict[str, _Seen] = {}
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin to acquire and renew, in a thread of its own."""
        self._thread.start()

    def epoch(self, name: str) -> int | None:
        """The epoch under which a lease is held now, None if it is not."""
        if time.monotonic() - self._renewed > self._ttl:
            return None
        return self._held.get(name)

    def held(self) -> dict[str, int]:
        """All leases held now, with their epochs."""
        return dict(self._held) if time.monotonic() - self._renewed <= self._ttl else {}

    def is_lost(self, name: str) -> bool:
        """Whether the database said that another process holds a lease; not if it could not be asked."""
        return name not in self._held

    def wait_for_any(self, timeout: float) -> str | None:
        """Name of a lease held, after at most ``timeout`` seconds."""
        self._changed.wait(timeout)
        return next(iter(self.held()), None)

    def close(self) -> None:
        """Stop and give the leases back, so that another process need not wait. Not needed for correctness."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._ttl)
        self._held = {}
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.update(lease).where(lease.c.holder == self.holder).values(holder=""))
        except sa.exc.SQLAlchemyError as error:
            log.warning("leases not given back, they expire by themselves", error=str(error))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._tick()
            except sa.exc.SQLAlchemyError as error:
                log.warning("state database does not answer; leases are not renewed", error=type(error).__name__)
            self._stop.wait(self._ttl / 5)

    def _tick(self) -> None:
        asked = time.monotonic()
        with self._engine.begin() as connection:
            connection.execute(sa.update(lease).where(lease.c.holder == self.holder).values(beat=lease.c.beat + 1))
            rows = connection.execute(sa.select(lease).where(lease.c.name.in_(self._names))).all()
        held = {row.name: row.epoch for row in rows if row.holder == self.holder}
        lost = self._held.keys() - held.keys()
        if lost:
            log.warning("leases lost to another process", leases=sorted(lost))
        taken = self._take({row.name: row for row in rows}, room=self._at_most - len(held))
        self._held = held | taken
        self._renewed = asked
        if self._held:
            self._changed.set()

    def _take(self, rows: dict[str, sa.Row[tuple[str, str, int, int]]], room: int) -> dict[str, int]:
        """Claim up to ``room`` leases that nobody holds or whose holder was silent for the ttl; one transaction."""
        now = time.monotonic()
        wanted: list[tuple[str, sa.Row[tuple[str, str, int, int]] | None]] = []
        for name in self._in_order(rows, now):
            if len(wanted) >= room:
                break
            row = rows.get(name)
            if row is None or (row.holder != self.holder and self._is_free(row, now)):
                wanted.append((name, row))
        if not wanted:
            return {}
        taken: dict[str, int] = {}
        with self._engine.begin() as connection:
            for name, row in wanted:
                if self._insert(connection, name) if row is None else self._claim(connection, row):
                    taken[name] = 1 if row is None else row.epoch + 1
        if taken:
            log.info("leases taken", leases=len(taken), first=min(taken))
        return taken

    def _in_order(self, rows: dict[str, sa.Row[tuple[str, str, int, int]]], now: float) -> list[str]:
        """The leases in the order in which they are taken."""
        if not self._inherits:
            return self._names
        others = [row for row in rows.values() if row.holder not in {"", self.holder}]
        silent = [row.name for row in others if self._is_free(row, now)]
        if not silent and any(row.name not in self._alive for row in others):
            return []  # not yet known
        return silent + [name for name in self._names if name not in silent]

    def _is_free(self, row: sa.Row[tuple[str, str, int, int]], now: float) -> bool:
        if row.holder == "":
            return True
        seen = self._seen.get(row.name)
        if seen is None or (seen.epoch, seen.beat) != (row.epoch, row.beat):
            if seen is not None:
                self._alive.add(row.name)
            self._seen[row.name] = _Seen(row.epoch, row.beat, now)
            return False
        if now - seen.since < self._ttl:
            return False
        self._alive.discard(row.name)
        return True

    def _insert(self, connection: sa.Connection, name: str) -> bool:
        row = insert(connection, lease).values(name=name, holder=self.holder, epoch=1, beat=0).on_conflict_do_nothing()
        return connection.execute(row).rowcount == 1

    def _claim(self, connection: sa.Connection, row: sa.Row[tuple[str, str, int, int]]) -> bool:
        unchanged = (lease.c.name == row.name, lease.c.epoch == row.epoch, lease.c.beat == row.beat)
        claim = sa.update(lease).where(*unchanged).values(holder=self.holder, epoch=row.epoch + 1, beat=0)
        return connection.execute(claim).rowcount == 1
