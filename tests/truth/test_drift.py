"""A vendor changes its payload: a new field becomes a column, a renamed core field is mended; nothing is lost."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from confluent_kafka import DeserializingConsumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import StringDeserializer

from devstack.bus import Bus
from devstack.replay import SHIPPED_TRACE, CallReplay
from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, CORE_FIELDS, latest_schema, schema_versions
from schemas.evolution import Thresholds
from schemas.promoted import promoted_fields
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.reprocess.fixups import FixUps
from streaming.reprocess.replays import Outcome
from streaming.reprocess.run import Order, reprocess
from tests.processes import HTTP, until
from tests.replaying import Replaying, replaying
from tests.truth.test_disturbed import contents
from tests.truth.test_replay import assert_equals_the_truth, small_trace
from tests.truth.trace_rows import MONTH, call, clock, write_trace
from warehouse.engine import writer
from warehouse.field_usage import count_field_usage
from warehouse.load_events import load_events
from warehouse.load_failed_events import load_failed_events
from warehouse.promotion import promote, proposal
from warehouse.schema import open_warehouse


def month_of_calls(folder: Path, calls: int = 8) -> Path:
    """So many calls on each of 31 days, of both vendors."""
    rows = [
        call(
            line=f"AA0{1 + number % 2}01",
            date=f"9901{day:02}",
            exit_at=clock(36_000 + 600 * number),
            wait=10 * number % 40,
            talk=0 if number % 4 == 3 else 60,
            outcome="HANG" if number % 4 == 3 else "AGENT",
            server="NO_SERVER" if number % 4 == 3 else f"AGENT{number % 3}",
        )
        for day in range(1, 32)
        for number in range(calls)
    ]
    return write_trace(folder / "month.tsv", rows)


class OldConsumer:
    """A DeserializingConsumer that knows the first version and nothing else, reading all the time."""

    def __init__(self, replay: CallReplay, stack: LocalStack) -> None:
        self.ids: set[str] = set()
        self.failures: list[str] = []
        self._topics = [vendor.events_topic for vendor in replay.vendors]
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        with SchemaRegistryClient({"url": self._stack.registry_url}) as registry:
            consumer = DeserializingConsumer(
                {
                    "bootstrap.servers": self._stack.bootstrap_servers,
                    "group.id": f"old-{self._topics[0]}",
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    "key.deserializer": StringDeserializer(),
                    "value.deserializer": AvroDeserializer(registry, latest_schema()),
                }
            )
            consumer.subscribe(self._topics)
            while not self._stop.is_set():
                try:
                    message = consumer.poll(0.1)
                except Exception as error:  # noqa: BLE001 (whatever it is, the old consumer was disturbed)
                    self.failures.append(repr(error))
                    continue
                if message is None:
                    continue
                event: Any = message.value()
                if message.error() is not None or event.keys() != CORE_FIELDS.keys():
                    self.failures.append(f"{message.error()} {event}")
                else:
                    self.ids.add(event["event_id"])
            consumer.close()

    @contextmanager
    def reading(self) -> Iterator[OldConsumer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(30)


def wait_until_still(running: Replaying, seconds: float) -> None:
    """Until all that the vendors have sent so far is on the bus, and they send nothing more."""
    bus, seen = Bus(running.replay.settings().kafka), {"sent": -1, "since": 0}

    def is_still() -> bool:
        vendors = running.replay.vendors
        sent = sum(sum(running.replay.status(vendor.name)["sent"].values()) for vendor in vendors)
        on_bus = sum(bus.count(vendor.events_topic) + bus.count(vendor.dlq_topic) for vendor in vendors)
        if sent != seen["sent"]:
            seen.update(sent=sent, since=time.monotonic_ns())
        return 0 < sent <= on_bus and time.monotonic_ns() - seen["since"] > 3e9

    until(is_still, seconds, "all sent events are on the bus")
    bus.close()


def loaded(running: Replaying, count: int) -> None:
    with open_warehouse(running.replay.settings()) as warehouse:

        def enough() -> bool:
            load_events(warehouse, run_id="test")
            with writer(warehouse) as connection:
                return bool(connection.execute(sa.text("SELECT count(*) FROM events")).scalar_one() >= count)

        until(enough, 120, f"{count} events are loaded")


def sent(running: Replaying) -> int:
    return sum(sum(running.replay.status(vendor.name)["sent"].values()) for vendor in running.replay.vendors)


def promoted_in_use(running: Replaying) -> dict[str, int]:
    """Promoted fields of the schema that each producer writes with."""
    ports = running.replay.ports
    found = {}
    for name, port in (("genesys-ingest", ports.genesys_ingest), ("cxone-publisher", ports.cxone_publisher)):
        lines = HTTP.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        (line,) = (text for text in lines if text.startswith("ccaas_schema_promoted_fields "))
        found[name] = int(float(line.rpartition(" ")[2]))
    return found


def assert_new_fields_become_columns(stack: LocalStack, folder: Path, trace: Path, seconds: float) -> None:
    shutil.copytree(AVRO_DIR, folder / "avro")
    options: dict[str, str | float] = {"schema_dir": str(folder / "avro"), "refresh_seconds": 0.5}
    with (
        # A registry of its own: what is promoted here is no other test's matter.
        LocalStack(folder / "stack", kafka_bootstrap=stack.bootstrap_servers) as own,
        replaying(own, folder / "run", trace=trace, registry_options=options) as running,
        OldConsumer(running.replay, own).reading() as old,
    ):
        replay, settings = running.replay, running.replay.settings()
        last = replay.dates[-1]
        assert len(replay.dates) == 31
        hold_at = datetime(last.year, last.month, last.day, tzinfo=UTC).isoformat()
        replay.misbehave("genesys", fields={"add": {"eventBody.surveyScore": 7}}, hold_at=hold_at)
        replay.misbehave("cxone", fields={"add": {"npsScore": 9.5}}, hold_at=hold_at)
        replay.begin(0)
        wait_until_still(running, seconds)
        before = sent(running)
        loaded(running, before)
        with open_warehouse(settings) as warehouse:
            count_field_usage(warehouse, run_id="test")
            registry = Registry(settings.registry)
            early = proposal(warehouse, registry, as_of=last - timedelta(days=1), thresholds=Thresholds())
            assert not {"genesys.surveyScore", "cxone.npsScore"} & {field.key for field in early.candidates}
            found = proposal(warehouse, registry, as_of=last, thresholds=Thresholds())
            types = {field.key: field.type for field in found.candidates}
            assert (types["genesys.surveyScore"], types["cxone.npsScore"]) == ("long", "double")
            done = promote(warehouse, registry, found.candidates)
        assert schema_versions(folder / "avro").keys() == {1, done.version} == {1, 2}
        count = len(promoted_fields(registry.current()[0]))
        registry.close()
        assert count == len(found.candidates)
        until(lambda: set(promoted_in_use(running).values()) == {count}, 60, "producers use the new version")

        for vendor in ("genesys", "cxone"):
            replay.misbehave(vendor, hold_at=None)
        running.wait_landed(seconds)
        for report in running.load().vendors:
            assert report.complaints() == []
        assert sent(running) > before
        assert_typed_columns(running)
        assert_equals_the_truth(running, trace)
        until(lambda: len(old.ids) >= sent(running), 60, "the old consumer has everything")
        assert old.failures == []
        assert len(old.ids) == sent(running)


def assert_typed_columns(running: Replaying) -> None:
    """Every event with the field has its value in the column, of the days before the promotion too."""
    settings = running.replay.settings()
    query = sa.text(
        "SELECT vendor, CAST(timestamp AS DATE) AS day, count(*) AS events, count(genesys_survey_score) AS scores, "
        "count(cxone_nps_score) AS nps, min(genesys_survey_score) AS low, max(genesys_survey_score) AS high, "
        "min(cxone_nps_score) AS nps_low, max(cxone_nps_score) AS nps_high "
        "FROM events WHERE event_type <> 'agent.status_changed' GROUP BY vendor, CAST(timestamp AS DATE)"
    )
    with open_warehouse(settings) as warehouse, writer(warehouse) as connection:
        rows = connection.execute(query).all()
    assert {row.day for row in rows} == set(running.replay.dates)
    for row in rows:
        is_genesys = row.vendor == "genesys"
        assert (row.scores, row.nps) == ((row.events, 0) if is_genesys else (0, row.events))
        assert (row.low, row.high) == ((7, 7) if is_genesys else (None, None))
        assert (row.nps_low, row.nps_high) == ((None, None) if is_genesys else (9.5, 9.5))
    newest = max(settings.landing_dir.glob("raw/*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    assert {"genesys_survey_score", "cxone_nps_score"} <= set(pq.read_schema(newest).names)


@pytest.mark.timeout(900)
def test_a_new_field_of_31_days_becomes_a_column(stack: LocalStack, tmp_path: Path) -> None:
    assert_new_fields_become_columns(stack, tmp_path, month_of_calls(tmp_path), seconds=300)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_new_field_of_a_real_month_becomes_a_column(stack: LocalStack, tmp_path: Path) -> None:
    assert_new_fields_become_columns(stack, tmp_path, MONTH, seconds=1800)


def alerts(running: Replaying) -> list[str]:
    """What the services told people of failures."""
    logs = [service.log.read_text() for service in running.services.values()]
    return [line for log in logs for line in log.splitlines() if "missing_field" in line and "fail" in line]


def assert_renamed_fields_are_mended(
    stack: LocalStack, folder: Path, trace: Path, span: tuple[float, float], seconds: float
) -> None:
    """``span``: hours of the first date during which both vendors send a core field under another name."""
    with replaying(stack, folder / "calm", trace=trace) as calm:
        calm.play(speed=0)
        for counts in calm.load().vendors:
            assert counts.complaints() == []
        expected = contents(calm)
    with replaying(stack, folder / "renamed", trace=trace) as running:
        replay, settings = running.replay, running.replay.settings()
        start, end = ((replay.start + timedelta(hours=hours)).isoformat() for hours in span)
        rename = {"genesys": {"eventBody.conversationId": "convId"}, "cxone": {"contactId": "contact_id"}}
        for name, names in rename.items():
            replay.misbehave(name, fields={"rename": names, "start": start, "end": end})
        replay.begin(0)
        until(replay.is_done, seconds, "the vendors have sent everything")
        bus = Bus(settings.kafka)
        changed = {vendor.name: replay.status(vendor.name)["changed"] for vendor in replay.vendors}
        wait_until_quiet(bus, [vendor.dlq_topic for vendor in replay.vendors])
        letters = {vendor.name: bus.count(vendor.dlq_topic) for vendor in replay.vendors}
        # Of Genesys the statuses of agents pass: they have no conversation.
        assert 0 < letters["genesys"] < changed["genesys"]
        assert 0 < letters["cxone"] == changed["cxone"]

        fixups = {
            "genesys": [{"op": "rename", "path": "eventBody.convId", "to": "eventBody.conversationId"}],
            "cxone": [{"op": "rename", "path": "contact_id", "to": "contactId"}],
        }
        wrong = [{"op": "rename", "path": "eventBody.nowhere", "to": "eventBody.conversationId"}]
        for tenant in settings.tenants:
            with pytest.raises(ConfigurationError, match="nowhere"):
                reprocess(settings, tenant, Order(fixups=FixUps(wrong)))
            as_it_is = reprocess(settings, tenant, Order(dry_run=True))
            assert as_it_is.count(Outcome.REPLAYED) == 0
            order = Order(fixups=FixUps(fixups[tenant.vendor]), dry_run=True)
            assert reprocess(settings, tenant, order).count(Outcome.REPLAYED) == letters[tenant.vendor]
            assert bus.count(tenant.dlq_topic) == letters[tenant.vendor], "a dry run writes nothing"
            order = Order(fixups=FixUps(fixups[tenant.vendor]), run_id="mended")
            assert reprocess(settings, tenant, order).count(Outcome.REPLAYED) == letters[tenant.vendor]
            again = Order(fixups=FixUps(fixups[tenant.vendor]), run_id="again")
            assert reprocess(settings, tenant, again).count(Outcome.REPLAYED) == 0
        bus.close()
        report = running.load()
        for item in report.vendors:
            assert item.duplicates_on_bus == 0
        assert_equals_the_truth(running, trace)
        actual = contents(running)
        assert_failures_are_told(running, letters)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(actual[name], table, check_dtype=False, obj=name)


def wait_until_quiet(bus: Bus, topics: list[str]) -> None:
    counts: list[int] = []

    def is_quiet() -> bool:
        counts.append(sum(map(bus.count, topics)))
        time.sleep(0.5)
        return len(counts) > 6 and len(set(counts[-6:])) == 1

    until(is_quiet, 120, "no further dead letters")


def assert_failures_are_told(running: Replaying, letters: dict[str, int]) -> None:
    """One alert a vendor, and SQL tells what broke and that it is mended."""
    with open_warehouse(running.replay.settings()) as warehouse:
        load_failed_events(warehouse, running.replay.settings(), run_id="test")
        with writer(warehouse) as connection:
            query = "SELECT tenant_id, reason, path, events, replayed, replay_status FROM failed_event_status"
            rows = connection.execute(sa.text(query)).all()
    for vendor in running.replay.vendors:
        # The topic of replays is everybody's on this broker.
        own, count = [row for row in rows if row.tenant_id == vendor.tenant_id], letters[vendor.name]
        assert sum(row.events for row in own) == sum(row.replayed for row in own) == count
        assert {(row.reason, row.replay_status) for row in own} == {("missing_field", "replayed")}
    until(lambda: len(alerts(running)) >= len(letters), 60, "told")
    time.sleep(15)
    assert len(alerts(running)) == len(letters), alerts(running)


@pytest.mark.timeout(900)
def test_a_renamed_core_field_is_mended_by_a_fixup(stack: LocalStack, tmp_path: Path) -> None:
    assert_renamed_fields_are_mended(stack, tmp_path, small_trace(tmp_path), (0.25, 0.6), seconds=120)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_core_field_renamed_for_an_hour_of_a_real_day_is_mended(stack: LocalStack, tmp_path: Path) -> None:
    assert_renamed_fields_are_mended(stack, tmp_path, SHIPPED_TRACE, (10, 11), seconds=300)
