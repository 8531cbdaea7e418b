"""``broken``: latency of good tenants while another one sends nothing but broken events, 2,000 a second."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench.harness import Figure, Goal, percentile
from bench.lab import Lab
from bench.latency import RATE, Path
from bench.messages import cxone_tenant
from bench.vendor import BROKEN_TENANT

_BROKEN_PER_SECOND = 2_000
_PEER = "the same path without it"
# A ratio of the control's p99 to this one: at most 1.5 times as long.
_GOAL = Goal(1 / 1.5, "ratio", "at least")


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Each round measures the path by itself, then beside the broken tenant, on the same running services."""
    with ExitStack() as running:
        pool = running.enter_context(ThreadPoolExecutor(1))
        path = Path(lab, running, lambda url: cxone_tenant(BROKEN_TENANT, url))
        pairs = [(path.round(pool), path.round(pool, _BROKEN_PER_SECOND // RATE)) for _ in range(rounds)]
    none = Goal(0.0, "worst", "at most")
    disturbed = [found for _, found in pairs]
    return [
        _p99("webhook", [(calm.cxone, found.cxone) for calm, found in pairs]),
        _p99("stream", [(calm.genesys, found.genesys) for calm, found in pairs]),
        Figure("lost", "events", [found.lost for found in disturbed], goal=none),
        Figure("duplicates", "events", [found.duplicates for found in disturbed], goal=none),
    ]


def _p99(name: str, pairs: list[tuple[list[float], list[float]]]) -> Figure:
    calm, disturbed = ([percentile(values, 0.99) for values in side] for side in zip(*pairs, strict=True))
    return Figure(f"{name} p99 beside a broken tenant", "ms", disturbed, peer=_PEER, peer_rounds=calm, goal=_GOAL)
