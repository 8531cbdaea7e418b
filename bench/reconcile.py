"""``reconcile``: a day of 100,000 CXone contacts, of whose webhooks one in a hundred never came.

The bus is filled beforehand and REST is a process of its own. ``python -m bench.reconcile CONFIG`` is the measured
process: it reconciles the day of the configuration's one tenant and prints what that took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil
from confluent_kafka import Producer

from bench.contacts import DAY, webhooks
from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.messages import cxone_tenant
from devstack.ports import free_port
from schemas.normalise import normaliser
from schemas.registry import Registry
from streaming.settings import KafkaSettings, RegistrySettings, Tenant, load_settings
from streaming.topics import ensure_topics
from streaming.vendors.cxone.reconcile import reconcile

CONTACTS = 100_000
FEW_CONTACTS = 10_000
_LIMIT_S = 300
_MIB = 1 << 20


class Measured(NamedTuple):
    """One run: s, growth of the process's memory in MiB, events published and on the bus before."""

    seconds: float
    grown_mib: float
    published: int
    pushed: int


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Each round a tenant of its own, since what is missing is published."""
    few, many = [], []
    for number in range(rounds):
        few.append(_round(lab, f"reconcile-few-{number}", FEW_CONTACTS))
        many.append(_round(lab, f"reconcile-{number}", CONTACTS))
    return [
        Figure(
            name=f"a day of {CONTACTS:,} contacts, 1 % missing",
            unit="s",
            rounds=[item.seconds for item in many],
            goal=Goal(60, of="worst", kind="at most"),
        ),
        Figure(
            name=f"memory growth at {CONTACTS:,} contacts",
            unit="MiB",
            rounds=[item.grown_mib for item in many],
            peer=f"{FEW_CONTACTS:,} contacts",
            peer_rounds=[item.grown_mib for item in few],
            # Ten times the contacts, at most twice the memory.
            goal=Goal(0.5, of="ratio", kind="at least"),
        ),
    ]


def _round(lab: Lab, name: str, contacts: int) -> Measured:
    port, tenant_id = free_port(), f"{name}-{os.getpid()}"
    toml = cxone_tenant(tenant_id, f"http://127.0.0.1:{port}") + "rest_requests_per_minute = 6000\n"
    config = lab.configure(name, toml)
    environment = {**os.environ, **lab.stack.environment(), "CCAAS_CONFIG": str(config)}
    with lab.module(name, ["bench.contacts", str(port), str(contacts)], port):
        on_bus = _fill(lab, tenant_id, contacts)
        done = subprocess.run(
            [sys.executable, "-m", "bench.reconcile", str(config)],
            env=environment, capture_output=True, timeout=_LIMIT_S, check=False, cwd=Path(__file__).parents[1],
        )  # fmt: skip
    if done.returncode:
        msg = f"reconciling failed: {done.stderr.decode()[-2000:]}"
        raise RuntimeError(msg)
    measured = Measured(*orjson.loads(done.stdout.splitlines()[-1]))
    expected = contacts * 5
    if measured.pushed != on_bus or measured.published != expected - on_bus:
        msg = f"{measured}: {on_bus} of {expected} events were on the bus"
        raise RuntimeError(msg)
    return measured


def _fill(lab: Lab, tenant_id: str, contacts: int) -> int:
    """Put the day's webhooks on the bus; gives the number of events."""
    servers = lab.stack.bootstrap_servers
    tenant = Tenant(tenant_id=tenant_id, vendor="cxone")
    ensure_topics(KafkaSettings(bootstrap_servers=servers), [tenant])
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 50, "compression.type": "lz4", "batch.size": 1 << 20}
    )
    encoder = Registry(RegistrySettings(url=lab.stack.registry_url)).encoder()
    vendor = normaliser("cxone")
    events = 0
    for number in range(contacts):
        for message in webhooks(number, contacts):
            for event in vendor.normalise_document(message, tenant_id):
                producer.produce(tenant.events_topic, encoder.encode(event), event["event_id"])
                events += 1
        if number % 2000 == 0:
            while len(producer) > 50_000:
                producer.poll(0.1)
            producer.poll(0)
    if left := producer.flush(60):
        msg = f"{left} events not on the bus"
        raise RuntimeError(msg)
    return events


def _peak_bytes() -> int:
    """The process's largest resident size. Not ``ru_maxrss``, which a child inherits from its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def _measure() -> Measured:
    settings = load_settings()
    (tenant,) = settings.tenants
    before = psutil.Process().memory_info().rss
    # From now on: importing may have taken more than what is measured.
    Path("/proc/self/clear_refs").write_text("5")
    began = time.monotonic()
    report = reconcile(settings, tenant, DAY, DAY + timedelta(days=1))
    seconds = time.monotonic() - began
    grown = _peak_bytes() - before
    pushed = sum(count.pushed for count in report.by_type.values())
    return Measured(seconds, grown / _MIB, report.published, pushed)


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(list(_measure())).decode() + "\n")
