"""``isolation``: what analytics-sink and wfm-realtime feel of a CRM that hangs for minutes, and everybody's memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow.parquet as pq

from bench.consuming import Bus, Group, genesys_tenant, tenant_toml
from bench.crm import misbehave, simulated_crm
from bench.feed import Feed, Live, reading_live
from bench.harness import Figure, Goal, percentile
from bench.lab import Lab
from devstack.child import ChildProcess
from devstack.ports import free_port
from streaming.settings import Settings, Tenant
from streaming.wfm.topics import ensure_wfm_topics

_RATE = 300
_CONTROL_S = 60.0
_STALLED_S = 120.0
_FLUSH_S = 1.0
# What was sent in a run's last moments has landed by then.
_SETTLE_S = 5.0
_WARM_UP_S = 10.0
_DRAIN_S = 300.0
_RSS_MB = 200.0
_PEER = "CRM answers"
_SERVICES = {"analytics-sink": "analytics_sink", "crm-sync": "crm_sync", "wfm-realtime": "wfm_realtime"}


class Run(NamedTuple):
    """Times of one run, ascending, ms."""

    landed: list[float]
    live: list[float]


def run(lab: Lab, rounds: int, control_s: float = _CONTROL_S, stalled_s: float = _STALLED_S) -> list[Figure]:
    """Each round measures both groups while the CRM answers, then while it accepts calls and answers none of them."""
    with ExitStack() as running:
        pool = running.enter_context(ThreadPoolExecutor(1))
        crm = running.enter_context(simulated_crm(lab, "isolation", latency_ms=5))
        three = Three(lab, running, crm)
        three.run(pool, _WARM_UP_S)
        calm, stalled = [], []
        for _ in range(rounds):
            calm.append(three.run(pool, control_s))
            misbehave(crm, stall=True)
            stalled.append(three.run(pool, stalled_s))
            misbehave(crm, stall=False)
            three.wait_caught_up()
        return [*_times(calm, stalled), *three.memory()]


class Three:
    """The three consumers on one tenant's events, each a process.

    Args:
        lab: Where they run.
        running: Ends them.
        crm: Address of the CRM.
    """

    def __init__(self, lab: Lab, running: ExitStack, crm: str) -> None:
        tenant = genesys_tenant("bench-isolation")
        bus = Bus(lab)
        bus.make_topics([tenant])
        settings = Settings(kafka={"bootstrap_servers": lab.stack.bootstrap_servers}, data_dir=lab.folder)
        ensure_wfm_topics(settings.kafka, [tenant])
        self._feed = Feed(bus, tenant)
        self._live: Live = running.enter_context(reading_live(lab.stack.bootstrap_servers, tenant))
        self._crm_group = Group(lab.stack.bootstrap_servers, "isolation-crm", [tenant])
        running.callback(self._crm_group.close)
        ports = {service: free_port() for service in _SERVICES}
        config = _configure(lab, tenant, ports, crm)
        self._landing = config.parent / "landing" / "raw"
        self._resident: dict[str, list[float]] = defaultdict(list)
        self._children: dict[str, ChildProcess] = {}
        for service, port in ports.items():
            self._children[service] = running.enter_context(lab.service(service, config, port))

    def run(self, pool: ThreadPoolExecutor, seconds: float) -> Run:
        """Events at the rate for so long."""
        began_ms = time.time_ns() // 1_000_000
        live = self._feed.run(pool, self._live, _RATE, seconds, self._look)
        ended_ms = time.time_ns() // 1_000_000
        time.sleep(_SETTLE_S)
        return Run(sorted(self._landed(began_ms, ended_ms)), live)

    def _look(self) -> None:
        for service, child in self._children.items():
            self._resident[service].append(psutil.Process(child.pid).memory_info().rss / 1e6)

    def _landed(self, began_ms: int, ended_ms: int) -> Iterator[float]:
        """From Kafka's having each event to its file's being there."""
        for path in self._landing.glob("dt=*/*.parquet"):
            there_ms = path.stat().st_mtime_ns / 1e6
            if there_ms < began_ms:
                continue
            published = pq.read_table(path, columns=["_published_at"]).column(0).to_numpy()
            mine = published[(published >= began_ms) & (published < ended_ms)]
            yield from np.subtract(there_ms, mine).tolist()

    def wait_caught_up(self) -> None:
        """Until crm-sync has told the CRM of everything."""
        deadline = time.monotonic() + _DRAIN_S
        while (done := self._crm_group.committed()) < self._feed.sent:
            if time.monotonic() > deadline:
                msg = f"crm-sync has committed {done} of {self._feed.sent} events {_DRAIN_S:.0f} s after the stall"
                raise TimeoutError(msg)
            self._look()
            time.sleep(1)

    def memory(self) -> list[Figure]:
        """Each process's greatest, and whether it grew: the last tenth of the time beside the second."""
        goal, flat = Goal(_RSS_MB, "worst", "at most"), Goal(1 / 1.1, "ratio", "at least")
        figures = []
        for service, values in self._resident.items():
            tenth = max(1, len(values) // 10)
            early, late = median(values[tenth : 2 * tenth]), median(values[-tenth:])
            figures += [
                Figure(f"memory of {service}", "MB", [max(values)], goal=goal),
                Figure(
                    f"memory of {service} at the end", "MB", [late], peer="at first", peer_rounds=[early], goal=flat
                ),
            ]
        return figures


def _times(calm: list[Run], stalled: list[Run]) -> list[Figure]:
    goal = Goal(1 / 1.5, "ratio", "at least")
    figures = []
    for name, index in (("Kafka to landing", 0), ("event to live record", 1)):
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            values = [percentile(found[index], share) for found in stalled]
            beside = [percentile(found[index], share) for found in calm]
            figures.append(Figure(f"{name} {label}, CRM stalled", "ms", values, "less", _PEER, beside, goal))
    return figures


def _configure(lab: Lab, tenant: Tenant, ports: dict[str, int], crm: str) -> Path:
    topics = f"topics = '^{tenant.events_topic}$'\n"
    health = "".join(f"{_SERVICES[service]} = {port}\n" for service, port in ports.items())
    return lab.configure(
        "isolation",
        f"[health]\n{health}"
        f'[sink]\ngroup = "isolation-sink"\nflush_seconds = {_FLUSH_S}\n{topics}'
        f'[crm]\ngroup = "isolation-crm"\nurl = "{crm}"\n{topics}'
        f'[wfm]\ngroup = "isolation-wfm"\nport = {free_port()}\n{topics}' + tenant_toml(tenant),
    )
