"""The lease under which landing files are replaced: compaction's, so that nobody is at a file at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streaming.errors import ServiceUnavailableError
from streaming.lease import LeaseKeeper
from streaming.settings import Settings
from streaming.sink.run_compaction import LEASE
from streaming.state import open_state


@contextmanager
def landing_lease(settings: Settings, patience_s: float) -> Iterator[Callable[[], bool]]:
    """Hold the lease; the block gets a function that says whether it is still held.

    Args:
        settings: The platform's.
        patience_s: How long to wait for a compaction to end, seconds. A killed holder counts as silent only after
            ``state.lease_ttl_seconds``.

    Raises:
        ServiceUnavailableError: another process kept it.
    """
    engine = open_state(settings.state_url)
    keeper = LeaseKeeper(engine, [LEASE], ttl=settings.state.lease_ttl_seconds)
    keeper.start()
    try:
        if keeper.wait_for_any(patience_s) is None:
            msg = (
                f"another process was at the landing files for {patience_s:g} s: "
                "compaction, retention or erasure is running; run again"
            )
            raise ServiceUnavailableError(msg)
        epoch = keeper.held()[LEASE]
        yield lambda: keeper.epoch(LEASE) == epoch
    finally:
        keeper.close()
        engine.dispose()
