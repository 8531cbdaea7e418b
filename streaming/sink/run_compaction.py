"""One compaction at a time, whoever starts how many: under a lease in the state database."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from typing import NamedTuple

import structlog

from streaming.settings import Settings
from streaming.sink.compaction import Limits, Step, clean_up, compact
from streaming.sink.landing_lease import hold_landing
from streaming.sink.store import open_store

log = structlog.get_logger()


class Compaction(NamedTuple):
    """What one run did.

    Attributes:
        steps: Files that were swapped.
        deleted: Raw files that had been replaced longer ago than the grace period.
    """

    steps: list[Step]
    deleted: list[str]


def run_compaction(settings: Settings, before: date, limits: Limits | None = None) -> Compaction | None:
    """Compact the raw files that were written before a day, UTC.

    Args:
        settings: The platform's.
        before: First day that is left as it is.
        limits: Bounds; by default the settings'.

    Returns:
        What was done; None if another process is at it.

    Raises:
        FencedError: the lease was lost; another process goes on.
        OSError: a disk is full or broken; what was swapped stays so, and a later run does the rest.
        ServiceUnavailableError: the state database or a remote store does not answer.
    """
    store = open_store(settings.landing)
    scratch = settings.data_dir / "scratch"
    # Long enough for a holder that was killed to count as silent.
    with hold_landing(settings, 3 * settings.state.lease_ttl_seconds) as held:
        if held is None:
            log.warning(
                "another process is at the landing files: compaction, retention or erasure; nothing was compacted"
            )
            return None
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        deleted = clean_up(store, timedelta(hours=settings.sink.compact_grace_hours))
        steps = compact(
            store,
            held.epoch,
            before,
            limits=limits or Limits(min_rows=settings.sink.compact_min_rows),
            scratch=scratch,
            is_ours=held.is_ours,
        )
        return Compaction(list(steps), deleted)
