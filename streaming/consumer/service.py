"""A consumer as a service: it waits for a free slot, then reads until it is stopped or fenced."""

from __future__ import annotations

import threading
from collections.abc import Callable

from schemas.registry import Registry
from streaming.consumer.member import Member
from streaming.consumer.work import Consumption, Work
from streaming.errors import FencedError
from streaming.health import HealthServer, Progress, ended_when_stuck
from streaming.lease import LeaseKeeper
from streaming.publisher import Publisher
from streaming.service import prepare, when_available
from streaming.settings import Settings
from streaming.state import open_state


def run_member(
    settings: Settings, consumption: Consumption, make_work: Callable[[Member], Work], stop: threading.Event
) -> None:
    """One member of the consumer's group.

    Args:
        settings: The platform's.
        consumption: How the consumer reads.
        make_work: Its own part.
        stop: Ends it.

    Raises:
        FencedError: the slot was lost; what was not committed is read again by its new holder.
        ServiceUnavailableError: something fails for good; to be started again.
    """
    group = consumption.group
    slots = [f"{group.group}-{number}" for number in range(group.slots)]
    progress = Progress()
    member: Member | None = None
    work: Work | None = None

    def ready() -> bool:
        return member is not None and bool(member.assigned) and not member.gauges.stalled

    with HealthServer(settings.health.host, consumption.health_port, progress, ready):
        encoder = prepare(settings, settings.tenants, stop, progress)
        registry = Registry(settings.registry)
        engine = when_available("state database", lambda: open_state(settings.state_url), stop, progress)
        ttl = settings.state.lease_ttl_seconds
        # The partitions of a killed member wait for its slot's next holder, not for the session's timeout.
        keeper = LeaseKeeper(engine, [f"slot/{slot}" for slot in slots], ttl=ttl, at_most=1, inherits=True)
        publisher = Publisher(settings, encoder, consumption.name)
        keeper.start()
        try:
            lease = _wait_for_slot(keeper, progress, stop)
            if lease is None:
                return
            decoder = registry.decoder(as_written=True)
            member = Member(settings, consumption, lease.removeprefix("slot/"), decoder, publisher)
            work = make_work(member)
            member.start(work)
            with ended_when_stuck(progress):
                while not stop.is_set():
                    # A database that does not answer is no reason to stop: Kafka fences a second member of this slot.
                    if keeper.is_lost(lease):
                        msg = f"{lease} is held by another process now; it goes on there"
                        raise FencedError(msg)
                    member.step()
                    progress.step()
                member.close()
        except BaseException:
            if member is not None:
                member.abandon()
            raise
        finally:
            if work is not None:
                work.close()
            keeper.close()
            publisher.close()
            encoder.close()
            registry.close()
            engine.dispose()


def _wait_for_slot(keeper: LeaseKeeper, progress: Progress, stop: threading.Event) -> str | None:
    while not stop.is_set():
        lease = keeper.wait_for_any(0.5)
        progress.step()
        if lease is not None:
            return lease
    return None
