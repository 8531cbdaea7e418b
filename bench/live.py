"""``live``: how fast one wfm-realtime takes what has piled up, and how old its figures are at a steady rate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from bench.consuming import Bus, genesys_tenant, rate_of, tenant_toml
from bench.feed import Feed, reading_live
from bench.harness import Figure, Goal, percentile
from bench.lab import Lab
from devstack.ports import free_port
from streaming.settings import Settings, Tenant
from streaming.wfm.topics import ensure_wfm_topics

_CALLS = 40_000
_RATE = 1_000
_STEADY_S = 30.0
_SECONDS = 180.0
_RSS_MB = 200.0


def run(lab: Lab, rounds: int, calls: int = _CALLS, seconds: float = _STEADY_S) -> list[Figure]:
    """Every round has a tenant of its own: half a day of calls at once, then events as they occur."""
    bus = Bus(lab)
    rates, resident, times = [], [], []
    with ThreadPoolExecutor(1) as pool:
        for number in range(rounds):
            tenant = genesys_tenant(f"bench-live-{number}")
            total = bus.fill(tenant, calls)
            _make_topics(lab, tenant)
            health = free_port()
            config = _configure(lab, tenant, health)
            with (
                reading_live(lab.stack.bootstrap_servers, tenant) as live,
                lab.service("wfm-realtime", config, health) as service,
            ):
                rates.append(rate_of(live.advance, total, _SECONDS))
                resident.append(psutil.Process(service.pid).memory_info().rss / 1e6)
                times.append(Feed(bus, tenant).run(pool, live, _RATE, seconds))
    second = Goal(1_000.0, "value", "at most")
    return [
        Figure("events in the live figures", "events/s", rates, "more", goal=Goal(30_000, "value", "at least")),
        Figure("memory after them", "MB", resident, goal=Goal(_RSS_MB, "value", "at most")),
        Figure("event to live record p50", "ms", [percentile(found, 0.5) for found in times]),
        Figure("event to live record p99", "ms", [percentile(found, 0.99) for found in times], goal=second),
        Figure("event to live record max", "ms", [found[-1] for found in times], goal=second),
    ]


def _make_topics(lab: Lab, tenant: Tenant) -> None:
    """So that the live topic can be read from its first record."""
    settings = Settings(kafka={"bootstrap_servers": lab.stack.bootstrap_servers}, data_dir=lab.folder)
    ensure_wfm_topics(settings.kafka, [tenant])


def _configure(lab: Lab, tenant: Tenant, health: int) -> Path:
    return lab.configure(
        tenant.tenant_id,
        f"[health]\nwfm_realtime = {health}\n"
        f"[wfm]\nport = {free_port()}\ngroup = \"{tenant.tenant_id}\"\ntopics = '^{tenant.events_topic}$'\n"
        + tenant_toml(tenant),
    )
