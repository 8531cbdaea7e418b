"""``spool``: how fast one publisher takes a full spool to Kafka, beside a bare producer of the same records."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.messages import cxone_call, cxone_tenant
from devstack.ports import free_port
from schemas.canonical import latest_schema
from schemas.codec import Encoder
from schemas.normalise import normaliser
from streaming.settings import SpoolSettings
from streaming.spool.writer import SpoolWriter
from streaming.vendors.cxone.messages import normalise_body

_TENANT = "bench-spool"
_PEER_TOPIC = "bench.spool.peer"
_PARTITIONS = 4
_CALLS = 40_000
_EVENTS = _CALLS * 5
# Appended before the first is waited for: what a busy receiver has at once.
_TOGETHER = 512
_DEADLINE_S = 120.0
_PEER = "bare producer"


def run(lab: Lab, rounds: int) -> list[Figure]:
    """In every round: a spool is filled, then a publisher started on it; then the bare producer sends its records."""
    admin = AdminClient({"bootstrap.servers": lab.stack.bootstrap_servers})
    for future in admin.create_topics([NewTopic(_PEER_TOPIC, _PARTITIONS, 1)]).values():
        future.result(30)
    ours, bare = [], []
    # A round that does not count: the broker's compiler has seen the work once.
    for number in range(rounds + 1):
        ours.append(_drain(lab, number))
        bare.append(_bare(lab.stack.bootstrap_servers, number))
    goal = Goal(20_000, "value", "at least")
    return [Figure("spool to Kafka", "events/s", ours[1:], "more", _PEER, bare[1:], goal)]


def _bodies(number: int) -> Iterator[bytes]:
    """Webhook bodies of a round: every other call's events as one array, the others one by one."""
    for call in range(number * _CALLS, (number + 1) * _CALLS):
        messages = cxone_call(call)
        if call % 2:
            yield orjson.dumps(messages)
        else:
            yield from map(orjson.dumps, messages)


def _drain(lab: Lab, number: int) -> float:
    """Canonical events a second, from the first deletion seen to the last."""
    port = free_port()
    config = lab.configure(
        f"spool-{number}",
        # Nobody listens at the vendor's address: agent states are not part of this.
        f"[health]\ncxone_publisher = {port}\n" + cxone_tenant(_TENANT, "http://127.0.0.1:9"),
    )
    path = asyncio.run(_fill(config.parent / "spool", number))
    with lab.service("cxone-publisher", config, port), closing(sqlite3.connect(path)) as database:
        written, began = _rows(database)[0], 0.0
        first = drained = 0
        deadline = time.monotonic() + _DEADLINE_S
        while drained < written:
            if time.monotonic() > deadline:
                msg = f"the publisher has drained {drained} of {written} requests in {_DEADLINE_S:.0f} s"
                raise TimeoutError(msg)
            time.sleep(0.01)
            drained = _rows(database)[1]
            if not first and drained:
                first, began = drained, time.monotonic()
        return _EVENTS * (written - first) / written / (time.monotonic() - began)


async def _fill(folder: Path, number: int) -> Path:
    writer = SpoolWriter(folder, SpoolSettings(max_bytes_per_tenant=8 << 30, min_free_disk_bytes=0))
    for count, body in enumerate(_bodies(number), 1):
        stored = writer.append(_TENANT, body, time.time_ns() // 1000)
        if count % _TOGETHER == 0:
            await stored
    await stored
    writer.close()
    return writer.path


def _rows(database: sqlite3.Connection) -> tuple[int, int]:
    """Requests written and drained."""
    written, drained = database.execute("SELECT sum(written_rows), sum(drained_rows) FROM tenant").fetchone()
    return written, drained


def _bare(bootstrap_servers: str, number: int) -> float:
    """Records a second that confluent_kafka's producer sends with our properties and nothing else to do."""
    encode, webhooks = Encoder(latest_schema(), 1).encode, normaliser("cxone")
    records = [
        (event["event_id"].encode(), encode(event))
        for body in _bodies(number)
        for event in normalise_body(webhooks, body, _TENANT).events
    ]
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 10,
            "queue.buffering.max.messages": len(records) + 1,
        }
    )
    began = time.monotonic()
    for key, value in records:
        producer.produce(_PEER_TOPIC, key=key, value=value, headers=[("ccaas.transport", b"webhook")])
    producer.flush(_DEADLINE_S)
    return len(records) / (time.monotonic() - began)
