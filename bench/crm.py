"""``crm``: crm-sync with its transactions and without them, at a CRM that takes 5 ms a call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from bench.consuming import Bus, Group, genesys_tenant, rate_of, tenant_toml
from bench.harness import Figure, Goal
from bench.lab import Lab
from devstack.child import ChildProcess
from devstack.ports import free_port
from streaming.settings import Tenant

_CALLS = 2_000
_LATENCY_MS = 5
_SECONDS = 180.0
# Seldom, beside polls of 500 records: looking costs the broker something.
_LOOK_S = 0.1
_PEER = "without transactions"

Start = Callable[[Path, int], AbstractContextManager[ChildProcess]]


def run(lab: Lab, rounds: int, calls: int = _CALLS) -> list[Figure]:
    """Both sides read the same topic from its beginning, each with a group, a CRM and state topics as good as new."""
    tenant = genesys_tenant("bench-crm")
    total = Bus(lab).fill(tenant, calls)

    def ours(config: Path, port: int) -> AbstractContextManager[ChildProcess]:
        return lab.service("crm-sync", config, port)

    def plain(config: Path, port: int) -> AbstractContextManager[ChildProcess]:
        command: list[str | Path] = [sys.executable, "-m", "bench.peers.crm_without_transactions"]
        environment = {"CCAAS_CONFIG": str(config)}
        return lab.process(f"{config.parent.name}-plain", command, environment, port, "/healthz")

    # A round that does not count: the broker's compiler has seen the work once.
    with_them, without = [], []
    for number in range(rounds + 1):
        with_them.append(_sync(lab, tenant, total, f"crm-{number}", ours))
        without.append(_sync(lab, tenant, total, f"crm-{number}-plain", plain))
    goal = Goal(0.85, "ratio", "at least")
    return [Figure("events told and committed", "events/s", with_them[1:], "more", _PEER, without[1:], goal)]


def _sync(lab: Lab, tenant: Tenant, total: int, name: str, start: Start) -> float:
    port = free_port()
    with simulated_crm(lab, name, latency_ms=_LATENCY_MS) as crm:
        config = lab.configure(
            name,
            f"[health]\ncrm_sync = {port}\n"
            f'[crm]\nurl = "{crm}"\ngroup = "bench-{name}"\ntopics = \'^{tenant.events_topic}$\'\n'
            + tenant_toml(tenant),
        )
        progress = Group(lab.stack.bootstrap_servers, f"bench-{name}", [tenant])
        try:
            with start(config, port):
                rate = rate_of(progress.committed, total, _SECONDS, _LOOK_S)
        finally:
            progress.close()
        found = httpx.get(f"{crm}/control/status", timeout=30, trust_env=False).json()
    if found["effects"] != total:
        msg = f"{found['effects']} effects at the CRM for {total} events"
        raise RuntimeError(msg)
    return rate


@contextmanager
def simulated_crm(lab: Lab, name: str, **orders: object) -> Iterator[str]:
    """The address of a CRM with an empty log that obeys these orders until the block ends."""
    port = free_port()
    command: list[str | Path] = [
        sys.executable, "-m", "devstack.simulators.crm", "--log", lab.folder / f"{name}.effects", "--port", str(port),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with lab.process(f"{name}-simulator", command, {}, port, "/control/status"):
        misbehave(url, **orders)
        yield url


def misbehave(url: str, **orders: object) -> None:
    """Give the simulated CRM orders."""
    httpx.post(f"{url}/control/misbehave", json=orders, timeout=30, trust_env=False).raise_for_status()
