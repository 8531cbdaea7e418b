"""``broken``: latency of good tenants while another one sends nothing but broken events, 2,000 a second."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx

from bench.harness import Figure, Goal, percentile
from bench.lab import Lab
from bench.latency import ROUND_SECONDS, Path, Round
from bench.messages import cxone_tenant
from bench.vendor import BROKEN_TENANT
from devstack.ports import free_port

_GOOD_PER_SECOND = 500
_BROKEN_PER_SECOND = 2_000
_PEER = "the same path without it"
# A ratio of the control's p99 to this one: at most 1.5 times as long.
_GOAL = Goal(1 / 1.5, "ratio", "at least")


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Each round measures the path by itself, then beside the broken tenant, on the same running services."""
    with ExitStack() as running:
        pool = running.enter_context(ThreadPoolExecutor(2))
        path = Path(lab, running, lambda url: cxone_tenant(BROKEN_TENANT, url))
        port = free_port()
        running.enter_context(lab.module("broken-vendor", ["bench.vendor", str(port), str(path.receiver_port)], port))
        pairs = [(path.round(pool, _GOOD_PER_SECOND), _beside_the_broken(path, pool, port)) for _ in range(rounds)]
    none = Goal(0.0, "worst", "at most")
    disturbed = [found for _, found in pairs]
    return [
        _p99("webhook", [(calm.cxone, found.cxone) for calm, found in pairs]),
        _p99("stream", [(calm.genesys, found.genesys) for calm, found in pairs]),
        Figure("lost", "events", [found.lost for found in disturbed], goal=none),
        Figure("duplicates", "events", [found.duplicates for found in disturbed], goal=none),
    ]


def _beside_the_broken(path: Path, pool: ThreadPoolExecutor, port: int) -> Round:
    flooding = pool.submit(_flood, port)
    found = path.round(pool, _GOOD_PER_SECOND)
    flooding.result()
    return found


def _flood(port: int) -> None:
    httpx.post(
        f"http://127.0.0.1:{port}/flood",
        params={"rate": _BROKEN_PER_SECOND, "seconds": ROUND_SECONDS},
        timeout=2 * ROUND_SECONDS + 60,
        trust_env=False,
    ).raise_for_status()


def _p99(name: str, pairs: list[tuple[list[float], list[float]]]) -> Figure:
    calm, disturbed = ([percentile(values, 0.99) for values in side] for side in zip(*pairs, strict=True))
    return Figure(f"{name} p99 beside a broken tenant", "ms", disturbed, peer=_PEER, peer_rounds=calm, goal=_GOAL)
