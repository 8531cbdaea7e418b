"""The lease under which landing files are replaced: whoever holds it may do so, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from streaming.errors import ServiceUnavailableError
from streaming.lease import LeaseKeeper
from streaming.settings import Settings
from streaming.state import open_state

LEASE = "landing/compaction"
"""Its name in the state database; compaction, retention and erasure hold it."""


class Held(NamedTuple):
    """The lease.

    Attributes:
        epoch: Of this holder; a later one has a greater one.
        is_ours: Whether it is still held.
    """

    epoch: int
    is_ours: Callable[[], bool]


@contextmanager
def hold_landing(settings: Settings, patience_s: float) -> Iterator[Held | None]:
    """Hold the lease within the block.

    Args:
        settings: The platform's.
        patience_s: How long to wait for another holder, seconds. A killed one counts as silent only after
            ``state.lease_ttl_seconds``, seen from here.

    Yields:
        The lease, None if another process kept it.

    Raises:
        ServiceUnavailableError: the state database does not answer.
    """
    engine = open_state(settings.state_url)
    keeper = LeaseKeeper(engine, [LEASE], ttl=settings.state.lease_ttl_seconds)
    keeper.start()
    try:
        if keeper.wait_for_any(patience_s) is None:
            yield None
        else:
            epoch = keeper.held()[LEASE]
            yield Held(epoch, lambda: keeper.epoch(LEASE) == epoch)
    finally:
        keeper.close()
        engine.dispose()


@contextmanager
def landing_lease(settings: Settings, patience_s: float) -> Iterator[Held]:
    """As :func:`hold_landing`, for whom there is nothing to do without it.

    Raises:
        ServiceUnavailableError: another process kept it, or the state database does not answer.
    """
    with hold_landing(settings, patience_s) as held:
        if held is None:
            msg = (
                f"another process was at the landing files for {patience_s:g} s: "
                "compaction, retention or erasure is running; run again"
            )
            raise ServiceUnavailableError(msg)
        yield held
