"""``flood``: 2,000 tenants' streams are cut at once. How fast the attempts come, and how soon all streams are back."""

from __future__ import annotations

import resource
import time
from bisect import bisect_left
from contextlib import ExitStack

import httpx
import psutil

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.messages import genesys_tenant
from devstack.ports import free_port

STREAMS = 2_000
RATE = 50.0
_START_SECONDS = 300.0
_BACK_SECONDS = 120.0
# After all are back: the breaker sees success, and memory its next state.
_SETTLE_SECONDS = 12.0
# The next flood needs no more memory than the first one did, give or take what an allocator does.
_STEADY = Goal(0.9, "ratio", "at least")


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Cut all streams, wait until all are back; once a round. The first round does not count."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by the service and the vendor
    vendor_port, health_port = free_port(), free_port()
    vendor_url = f"http://127.0.0.1:{vendor_port}"
    tenants = "".join(genesys_tenant(f"flood-{number:04d}", vendor_url) for number in range(STREAMS))
    tenants = tenants.replace('vendor = "genesys"\n', 'vendor = "genesys"\npartitions = 1\n')
    config = lab.configure(
        "flood",
        f"[health]\ngenesys_ingest = {health_port}\n[vendors.genesys]\nconnect_attempts_per_second = {RATE}\n{tenants}",
    )
    with ExitStack() as running:
        running.enter_context(lab.module("flood-vendor", ["bench.peers.streams_vendor", str(vendor_port)], vendor_port))
        service = running.enter_context(lab.service("genesys-ingest", config, health_port))
        vendor = running.enter_context(httpx.Client(base_url=vendor_url, timeout=30, trust_env=False))
        process = psutil.Process(service.pid)
        _wait_until_all_are_open(vendor, process, _START_SECONDS)
        measured = [_round(vendor, process) for _ in range(rounds + 1)]
    before, measured = measured[0][3], measured[1:]
    busiest, back, cpu, rss = (list(column) for column in zip(*measured, strict=True))
    return [
        Figure("attempts in the busiest second", "1/s", busiest, goal=Goal(RATE, "worst", "at most")),
        Figure("until all streams are back", "s", back, goal=Goal(60, "worst", "at most")),
        Figure("CPU meanwhile", "% of a core", cpu),
        Figure("memory after it", "MB", rss, "less", "after a first flood", [before] * len(rss), _STEADY),
    ]


def _round(vendor: httpx.Client, process: psutil.Process) -> tuple[float, float, float, float]:
    before, began = process.cpu_times(), time.monotonic()
    vendor.post("/disconnect").raise_for_status()
    report = _wait_until_all_are_open(vendor, process, _BACK_SECONDS)
    after, ended = process.cpu_times(), time.monotonic()
    time.sleep(_SETTLE_SECONDS)
    used = after.user + after.system - before.user - before.system
    attempts = sorted(report["attempts"])
    busiest = max(bisect_left(attempts, first + 1.0) - index for index, first in enumerate(attempts))
    return float(busiest), max(report["opened"]), 100 * used / (ended - began), process.memory_info().rss / 1e6


def _wait_until_all_are_open(vendor: httpx.Client, process: psutil.Process, seconds: float) -> dict[str, list[float]]:
    deadline = time.monotonic() + seconds
    while True:
        report = vendor.get("/report").json()
        if report["open"] >= STREAMS:
            return dict(report)
        if time.monotonic() > deadline or process.status() == psutil.STATUS_ZOMBIE:
            msg = f"{report['open']} of {STREAMS} streams are open after {seconds:.0f} s"
            raise TimeoutError(msg)
        time.sleep(0.5)
