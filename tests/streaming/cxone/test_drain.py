"""A row of the spool leaves once Kafka has all its requests became; the producer is one that the test answers for."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import structlog
from prometheus_client import REGISTRY

from streaming.publisher import Publisher
from streaming.settings import Settings, SpoolSettings, Tenant
from streaming.spool.batch import SpooledEvent
from streaming.spool.reader import Drained, SpooledBatch
from streaming.spool.schema import open_file, spool_files
from streaming.spool.writer import SpoolWriter
from streaming.vendors.cxone import drain as drain_module
from streaming.vendors.cxone.drain import Drain
from streaming.vendors.cxone.line import TenantFlight, TenantLine
from tests.schemas.messages import cxone, ended, raw

TENANT = Tenant(tenant_id="south", vendor="cxone")
WEST = Tenant(tenant_id="west", vendor="cxone")


class Refusal:
    def str(self) -> str:
        return "TOPIC_AUTHORIZATION_FAILED"


class Producer:
    """Takes records and acknowledges none by itself: what a real one does is not in a test's hand."""

    def __init__(self) -> None:
        self.acknowledge: list[Callable[[], None]] = []
        self.values: list[Any] = []
        self.tenants: list[str] = []
        self.refused: set[str] = set()

    def encode(self, event: Any) -> bytes:
        return str(event["event_type"]).encode()

    def publish(
        self, tenant: Tenant, _event: Any, value: bytes, *, received_us: int, acknowledged: Any, **_: Any
    ) -> None:
        self.tenants.append(tenant.tenant_id)
        self.values.append((value, received_us))
        self.acknowledge.append(acknowledged)

    def dead_letter(self, tenant: Tenant, *, value: bytes, acknowledged: Any, **_: Any) -> None:
        self.tenants.append(tenant.tenant_id)
        self.values.append((value, None))
        self.acknowledge.append(acknowledged)

    def has_room(self) -> bool:
        return True

    def has_refusals(self) -> bool:
        return bool(self.refused)

    def take_refusal(self, tenant: Tenant) -> Refusal | None:
        if tenant.tenant_id not in self.refused:
            return None
        self.refused.remove(tenant.tenant_id)
        return Refusal()

    def acknowledge_all(self) -> None:
        for acknowledged in self.acknowledge:
            acknowledged()
        self.acknowledge.clear()


def line_of(most: int = 2_000) -> tuple[TenantLine, TenantFlight]:
    flight = TenantFlight(TENANT, most)
    return TenantLine(flight, 1), flight


def batch(seq: int, *bodies: bytes) -> SpooledBatch:
    events = [SpooledEvent(seq * 100 + number, body) for number, body in enumerate(bodies)]
    return SpooledBatch(seq, sum(map(len, bodies)), events)


def published(line: TenantLine) -> Producer:
    producer = Producer()
    while line.has_read:
        line.publish_next(cast("Publisher", producer))
    return producer


def test_a_row_leaves_when_its_last_event_is_acknowledged_in_whatever_order() -> None:
    line, flight = line_of()
    first = [raw(cxone("CALL_STARTED")), raw([ended(contactId="x"), {"bad": 1}])]
    second = [raw(cxone("QUEUE_ENTERED"))]
    line.take([batch(1, *first), batch(2, *second)])
    producer = published(line)
    assert len(producer.values) == 5, "started, handled, ended, a dead letter; queued"
    assert [value[1] for value in producer.values] == [100, 101, 101, None, 200], "each keeps its time of receipt"
    assert flight.now.records == 5
    for number in (4, 3, 1, 0):
        producer.acknowledge[number]()
        assert line.drained() is None
    producer.acknowledge[2]()
    assert flight.now.records == 0
    drained = line.drained()
    assert drained == Drained(1, 2, 3, sum(map(len, first + second)))
    line.deleted(drained)
    assert line.drained() is None


def test_what_began_anew_is_not_confused_by_late_answers() -> None:
    line, flight = line_of()
    line.take([batch(1, raw(cxone("CALL_STARTED")))])
    late = published(line)
    flight.begin_anew(0.0)
    line.begin_anew()
    assert (line.read_through, flight.now.records) == (0, 0)
    line.take([batch(1, raw(cxone("CALL_STARTED")))])
    again = published(line)
    late.acknowledge[0]()
    assert line.drained() is None
    assert flight.now.records == 1
    again.acknowledge[0]()
    assert line.drained() is not None


def test_a_batch_waits_in_the_line_while_the_producer_is_full() -> None:
    line, _ = line_of()
    line.take([batch(1, *[raw(cxone("CALL_STARTED", contactId=f"c-{number}")) for number in range(3)])])
    producer = Producer()
    line.publish_next(cast("Publisher", producer))
    producer.acknowledge[0]()
    assert line.has_read
    assert line.drained() is None, "two of its requests are not published yet"


def test_an_array_larger_than_the_tenants_room_goes_in_parts_and_keeps_its_order() -> None:
    line, flight = line_of(4)
    array = [cxone("CALL_STARTED", contactId=f"c-{number}") for number in range(10)]
    line.take([batch(1, raw([*array, {"bad": 1}]))])
    producer = Producer()
    for through in (4, 8, 11):
        line.publish_next(cast("Publisher", producer))
        assert len(producer.values) == through
        assert line.drained() is None
        assert flight.now.records == len(producer.acknowledge) <= 4
        producer.acknowledge_all()
    assert not line.has_read
    assert line.drained() is not None
    assert [value[1] for value in producer.values] == [100] * 10 + [None], "the dead letter last"


class World:
    """A publisher's drain over real spools."""

    def __init__(self, folder: Path, **spool: int) -> None:
        self.settings = Settings(data_dir=folder, tenants=(TENANT, WEST), spool=SpoolSettings(**spool))
        self.folder = self.settings.spool_dir
        self.producer = Producer()
        self.drain = Drain(self.settings, cast("Publisher", self.producer))

    def store(self, *spools: list[tuple[str, bytes]]) -> list[Path]:
        """Fill one spool each, as receivers side by side do."""

        async def fill(writer: SpoolWriter, requests: list[tuple[str, bytes]]) -> None:
            for tenant_id, body in requests:
                await writer.append(tenant_id, body, 1)

        writers = [SpoolWriter(self.folder, SpoolSettings(min_free_disk_bytes=0)) for _ in spools]
        for writer, requests in zip(writers, spools, strict=True):
            asyncio.run(fill(writer, requests))
        for writer in writers:
            writer.close()
        return [writer.path for writer in writers]

    def turns(self) -> None:
        """Until nothing more is read."""
        while self.drain.turn():
            pass

    def waiting(self) -> int:
        """Requests in all spools."""
        found = 0
        for path in spool_files(self.folder):
            database = open_file(path, durable=False)
            found += database.execute("SELECT coalesce(sum(requests), 0) FROM event").fetchone()[0]
            database.close()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.drain.close()


def started(*contacts: str) -> list[tuple[str, bytes]]:
    return [("south", raw(cxone("CALL_STARTED", contactId=contact))) for contact in contacts]


@pytest.mark.parametrize("answered", ["before the next turn", "when idle"])
def test_a_refusal_makes_the_tenants_lines_of_all_spools_begin_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    monkeypatch.setattr("streaming.vendors.cxone.line.REFUSED_PAUSE_S", 0.0)
    world.store(started("a"), started("b"), [("west", raw(cxone("CALL_STARTED")))])
    world.drain.adopt()
    world.drain.turn()
    if answered == "when idle":
        world.turns()
    assert sorted(world.producer.tenants) == ["south", "south", "west"]
    for number, tenant_id in enumerate(world.producer.tenants):
        if tenant_id == "west":
            world.producer.acknowledge[number]()
    world.producer.refused = {"south"}  # and so neither of its records is ever acknowledged
    world.producer.acknowledge.clear()
    world.turns()
    assert world.producer.tenants[3:] == ["south", "south"], "both lines, and no other tenant's"
    world.producer.acknowledge_all()
    world.drain.delete_acknowledged()
    assert world.waiting() == 0


def test_a_refused_tenant_pauses_and_the_others_do_not(world: World) -> None:
    world.store(started("a"))
    world.drain.adopt()
    world.turns()
    world.producer.refused = {"south"}
    world.turns()
    world.store([("west", raw(cxone("CALL_STARTED"))), *started("b")])
    world.turns()
    assert world.producer.tenants == ["south", "west"]


def test_the_cap_counts_records_of_all_spools_together(tmp_path: Path) -> None:
    world = World(tmp_path, max_in_flight_per_tenant=50)
    array = [[("south", raw([ended(contactId=f"{spool}-{n}") for n in range(40)]))] * 3 for spool in range(2)]
    world.store(*array, [("west", raw(cxone("CALL_STARTED")))])
    world.drain.adopt()
    for _ in range(5):
        world.drain.turn()
    assert world.producer.tenants.count("south") == 50
    assert world.producer.tenants.count("west") == 1, "it has room of its own"
    most = 0
    while world.producer.acknowledge:
        most = max(most, len(world.producer.acknowledge))
        world.producer.acknowledge_all()
        world.turns()
        world.drain.delete_acknowledged()
    assert most <= 51
    assert world.producer.tenants.count("south") == 2 * 3 * 40 * 2
    assert world.waiting() == 0
    world.drain.close()


def test_spools_take_turns_at_a_tenants_room(tmp_path: Path) -> None:
    world = World(tmp_path, max_in_flight_per_tenant=1)
    world.store(started(*[f"a{n}" for n in range(9)]), started(*[f"b{n}" for n in range(9)]))
    world.drain.adopt()
    for _ in range(6):
        world.drain.turn()
        world.producer.acknowledge_all()
        world.drain.delete_acknowledged()
    requests = [sum(len(row.events) for row in spool._reader.read(1, 0, requests=99, max_bytes=1 << 20))
                for spool in world.drain._spools.values()]  # fmt: skip
    assert requests == [6, 6]
    world.drain.close()


@pytest.mark.parametrize("damage", ["no database", "old layout", "torn"])
def test_a_damaged_spool_harms_no_other_and_is_taken_when_it_is_mended(
    world: World, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(drain_module, "_UNUSABLE_PAUSE_S", 0.0)
    bad, _ = world.store(started(*map(str, range(200))), started("b"))
    good = bad.read_bytes()
    if damage == "no database":
        bad.write_bytes(b"rubbish" * 1000)
    elif damage == "old layout":
        bad.unlink()
        database = open_file(bad, durable=False)
        database.execute("PRAGMA user_version=1")
        database.close()
    else:
        bad.write_bytes(good[:4096] + b"\xa5" * (len(good) - 4096))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            world.drain.adopt()
            world.turns()
            world.drain.delete_acknowledged()
    assert world.producer.tenants == ["south"]
    errors = [line for line in logs if line["log_level"] == "error"]
    assert {line["file"] for line in errors} == {str(bad)}
    assert "reconcile" in errors[0]["remedy"]
    assert REGISTRY.get_sample_value("ccaas_cxone_spools_unusable") == 1
    bad.write_bytes(good)
    world.drain.adopt()
    world.turns()
    assert len(world.producer.tenants) == 201
    assert REGISTRY.get_sample_value("ccaas_cxone_spools_unusable") == 0


def test_a_full_disk_stops_nothing_for_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening, deleting and tidying are tried again."""
    monkeypatch.setattr(drain_module, "_UNUSABLE_PAUSE_S", 0.0)
    world.store(started("a"))
    with no_disk():
        world.drain.adopt()
    world.drain.adopt()
    world.turns()
    world.producer.acknowledge_all()
    with no_disk():
        world.drain.delete_acknowledged()
    world.drain.adopt()
    world.turns()
    world.producer.acknowledge_all()
    world.drain.delete_acknowledged()
    world.turns()
    with no_disk():
        world.drain.delete_acknowledged()
    world.drain.delete_acknowledged()
    assert world.waiting() == 0


@contextmanager
def no_disk() -> Iterator[None]:
    """This process can write no byte of a file, as on a full disk; Python ignores the signal."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with structlog.testing.capture_logs():  # pytest keeps what is printed in a file
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_rows_of_a_tenant_that_is_not_in_the_settings_are_counted_and_said_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [("gone", b"{}")] * 3

    def adopt() -> list[Any]:
        with structlog.testing.capture_logs() as logs:
            world.drain.adopt()
        return [(line["tenant_id"], line["requests"]) for line in logs if line["log_level"] == "error"]

    world.store(gone, [*gone, *started("a")])
    assert adopt() == [("gone", 6)]
    assert adopt() == [], "not every time"
    labels = {"tenant_id": "gone"}
    assert REGISTRY.get_sample_value("ccaas_cxone_spool_unknown_tenant_requests", labels) == 6
    world.store(gone)
    monkeypatch.setattr(drain_module, "_REMINDER_S", -1.0)
    world.drain._reminder._due = {"gone": 0.0}
    assert adopt() == [("gone", 9)]


class Disk(NamedTuple):
    free: int


def test_after_an_outage_that_filled_the_disk_the_receiver_takes_webhooks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka was down until the spool had filled the disk; then all is drained, and no webhook came in between."""
    world = World(tmp_path)

    def free(folder: Path) -> Disk:
        """A disk of 8 MB that holds nothing but the spool."""
        return Disk(8_000_000 - sum(path.stat().st_size for path in folder.glob("receiver-000.db*")))

    monkeypatch.setattr("streaming.spool.writer.shutil.disk_usage", free)
    monkeypatch.setattr("streaming.spool.reader._KEPT_LOG_BYTES", 0)
    body = raw(cxone("CALL_STARTED", filler="x" * 200_000))

    async def outage() -> None:
        writer = SpoolWriter(world.folder, SpoolSettings(min_free_disk_bytes=2_000_000))
        async with asyncio.timeout(30):
            while writer.can_store:
                await writer.append("south", body, 1)
                await asyncio.sleep(0.05)
            world.drain.adopt()
            while not writer.can_store or free(world.folder).free < 7_500_000:
                world.drain.turn()
                world.producer.acknowledge_all()
                world.drain.delete_acknowledged()
                await asyncio.sleep(0.01)
        await writer.append("south", body, 1)
        writer.close()

    asyncio.run(outage())
    world.drain.close()
