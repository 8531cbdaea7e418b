"""``landing``: Kafka to Parquet in one process, beside Quix Streams' file sink; files and memory with 1,000 tenants."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from bench.consuming import Bus, Group, events_of_calls, genesys_tenant, rate_of, tenant_toml
from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.peers.environment import peer_python
from devstack.ports import free_port
from schemas.canonical import CanonicalEvent
from streaming.settings import Tenant

_CALLS = 60_000
_PEER_CALLS = 30_000
_SECONDS = 300.0
_FILE_ROWS = 50_000
# The rest of the last file, which only a clock would close, is not waited for.
_REST = _FILE_ROWS + 5_000
_WHOLE_FILES = f"flush_seconds = 600\nflush_bytes = 1_000_000_000\nflush_rows = {_FILE_ROWS}\n"
_PEER = "Quix Streams' file sink"
_TEXT_PEER = "the same, maps as text"
_PEER_REQUIREMENTS = ("quixstreams[avro,parquet]==3.28.1", "orjson==3.13.0")
_PEER_SCRIPT = Path(__file__).parent / "peers" / "quix_sink.py"

_MANY_TENANTS = 1_000
_MANY_EVENTS = 50
_MANY_FLUSH_S = 5.0
_MANY_SENDING_S = 60.0
_RSS_MB = 200.0


def run(
    lab: Lab, rounds: int, calls: int = _CALLS, peer_calls: int = _PEER_CALLS, tenants: int = _MANY_TENANTS
) -> list[Figure]:
    """Every round: ours on one topic, then the peer on another with the same events (fewer: it takes longer)."""
    python = peer_python("quix", _PEER_REQUIREMENTS)
    bus = Bus(lab)
    ours, theirs = genesys_tenant("bench-landing"), genesys_tenant("bench-landing-peer")
    total, peer_total = bus.fill(ours, calls), bus.fill(theirs, peer_calls)
    schema = lab.folder / "landing-schema.avsc"
    schema.write_text(bus.schema, encoding="utf-8")
    rates, peer_rates, text_rates = [], [], []
    for number in range(rounds):
        rates.append(_land(lab, ours, total, number))
        peer = partial(_peer, lab, python, theirs, peer_total, schema)
        peer_rates.append(peer("columns", number))
        text_rates.append(peer("text", number))
    figures = [
        Figure("Kafka to Parquet", "events/s", rates, "more", goal=Goal(30_000, "value", "at least")),
        Figure("Kafka to Parquet", "events/s", rates, "more", _PEER, peer_rates, Goal(3.0, "ratio", "at least")),
        Figure("Kafka to Parquet", "events/s", rates, "more", _TEXT_PEER, text_rates),
    ]
    return figures + _many_tenants(lab, bus, tenants)


def _land(lab: Lab, tenant: Tenant, total: int, number: int) -> float:
    name = f"landing-{number}"
    port, group = free_port(), f"bench-{name}"
    config = _configure(lab, name, port, group, [tenant], _WHOLE_FILES)
    progress = Group(lab.stack.bootstrap_servers, group, [tenant])
    try:
        with lab.service("analytics-sink", config, port):
            rate = rate_of(progress.committed, total - _REST, _SECONDS)
        committed = progress.committed()
    finally:
        progress.close()
    landed = sum(pq.read_metadata(path).num_rows for path in _files(config.parent))
    if landed != committed:
        msg = f"{landed} events landed, {committed} committed"
        raise RuntimeError(msg)
    return rate


def _peer(lab: Lab, python: Path, tenant: Tenant, total: int, schema: Path, maps: str, number: int) -> float:
    group = f"quix-{maps}-{number}"
    folder = lab.folder / group
    folder.mkdir()
    progress = Group(lab.stack.bootstrap_servers, group, [tenant])
    bootstrap, topic = lab.stack.bootstrap_servers, tenant.events_topic
    command: list[str | Path] = [
        python,
        _PEER_SCRIPT,
        bootstrap,
        topic,
        group,
        str(total),
        str(_FILE_ROWS),
        schema,
        maps,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        rate = rate_of(progress.committed, total - _REST, _SECONDS)
        process.wait(_SECONDS)
    finally:
        process.kill()
        process.wait()
        progress.close()
    landed = sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))
    if landed != total:
        msg = f"the peer landed {landed} of {total} events; its log is {folder / 'log'}"
        raise RuntimeError(msg)
    return rate


def _many_tenants(lab: Lab, bus: Bus, count: int) -> list[Figure]:
    """A topic each, a few events each, while the sink flushes every few seconds. Once: it is no matter of speed."""
    tenants = [genesys_tenant(f"bench-many-{number}", partitions=1) for number in range(count)]
    bus.make_topics(tenants)
    port, group = free_port(), "bench-many"
    config = _configure(lab, "landing-many", port, group, [], f"flush_seconds = {_MANY_FLUSH_S}\n")
    progress = Group(lab.stack.bootstrap_servers, group, tenants)
    total = count * _MANY_EVENTS
    try:
        with lab.service("analytics-sink", config, port) as sink:
            began = time.monotonic()
            for part in range(_MANY_EVENTS):
                for tenant, event in zip(tenants, _events(tenants, part), strict=True):
                    bus.send(tenant, event)
                time.sleep(max(0.0, began + _MANY_SENDING_S * (part + 1) / _MANY_EVENTS - time.monotonic()))
            bus.flush()
            _wait_committed(progress, total)
            seconds = time.monotonic() - began
            resident = psutil.Process(sink.pid).memory_info().rss / 1e6
    finally:
        progress.close()
    files = _files(config.parent)
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    if rows != total:
        msg = f"{rows} of {total} events landed"
        raise RuntimeError(msg)
    flushes = seconds / _MANY_FLUSH_S
    return [
        # One a flush and process; twice that leaves room for what was revoked in between.
        Figure(f"files of {count:,} tenants in {seconds:.0f} s", "files", [len(files)],
               goal=Goal(2 * flushes, "value", "at most")),
        Figure(f"memory of the sink with {count:,} tenants", "MB", [resident], goal=Goal(_RSS_MB, "value", "at most")),
    ]  # fmt: skip


def _events(tenants: Sequence[Tenant], part: int) -> Iterator[CanonicalEvent]:
    """One event of each tenant."""
    for tenant in tenants:
        yield next(events_of_calls(tenant, [part]))


def _wait_committed(progress: Group, total: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while (count := progress.committed()) < total:
        if time.monotonic() > deadline:
            msg = f"{count} of {total} events committed in {_SECONDS:.0f} s"
            raise TimeoutError(msg)
        time.sleep(0.1)


def _configure(lab: Lab, name: str, port: int, group: str, tenants: Sequence[Tenant], sink: str) -> Path:
    topics = "^" + ("|".join(tenant.events_topic for tenant in tenants) or "ccaaus.events.genesys.bench-many-.*") + "$"
    return lab.configure(
        name,
        f"[health]\nanalytics_sink = {port}\n[sink]\ngroup = \"{group}\"\ntopics = '{topics}'\n{sink}"
        + "".join(map(tenant_toml, tenants)),
    )


def _files(folder: Path) -> list[Path]:
    return list((folder / "landing" / "raw").glob("dt=*/*.parquet"))
