"""Dead letters and replays from a real broker into both engines, counted once whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from matplotlib.image import imread

import warehouse.failed_kinds
import warehouse.load_failed_events
from devstack.python import python_environment
from streaming.deadletter import Headers, dead_letter_headers
from streaming.errors import BadEventError
from streaming.instants import HOUR_MS, from_ms, to_ms
from streaming.reprocess import replays
from streaming.reprocess.replays import GroupCount, Outcome, Replay
from streaming.settings import Settings, Tenant
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.processes import until
from warehouse import tables
from warehouse.engine import Warehouse, publish_read_copy, reader, writer
from warehouse.failures import failures_png, what_broke
from warehouse.ledger import LoadResult
from warehouse.load_failed_events import load_failed_events
from warehouse.windows import Window

NINE = datetime(2026, 11, 23, 9, tzinfo=UTC)
NINE_MS = to_ms(NINE)
CALL_ENDED = json.dumps({"eventType": "CALL_ENDED", "contactId": 4}).encode()


class Letters:
    """Two tenants' dead-letter topics, written and loaded."""

    def __init__(self, platform: Platform, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.south = Tenant(tenant_id=f"south-{platform.suffix}", vendor="cxone")
        self.north = Tenant(tenant_id=f"north-{platform.suffix}", vendor="genesys")
        self.settings = Settings(
            kafka={"bootstrap_servers": platform.stack.bootstrap_servers}, tenants=(self.south, self.north),
            data_dir=platform.folder,
        )  # fmt: skip
        ensure_topics(self.settings.kafka, self.settings.tenants)
        self.admin = AdminClient(self.settings.kafka.client_config())
        self.producer = Producer(self.settings.kafka.client_config())
        (made,) = self.admin.create_topics([NewTopic(replays.TOPIC, 1, 1)]).values()
        with contextlib.suppress(KafkaException):  # it is there already
            made.result(20)

    def put(
        self,
        count: int = 1,
        *,
        tenant: Tenant | None = None,
        value: bytes | None = CALL_ENDED,
        at_ms: int = NINE_MS,
        **words: Any,
    ) -> None:
        """Letters that failed a millisecond apart."""
        for number in range(count):
            self.producer.produce(
                (tenant or self.south).dlq_topic, value, headers=headers(at_ms=at_ms + number, **words)
            )
        assert self.producer.flush(20) == 0

    def replay(self, *groups: GroupCount, run_id: str = "run", producer: Producer | None = None, **more: Any) -> None:
        replay = Replay(
            run_id=run_id, at_ms=NINE_MS, vendor=self.south.vendor, tenant_id=self.south.tenant_id,
            topic=self.south.dlq_topic, groups=groups, **more,
        )  # fmt: skip
        (producer or self.producer).produce(replays.TOPIC, replay.model_dump_json().encode(), self.south.dlq_topic)
        assert self.producer.flush(20) == 0

    def load(self) -> LoadResult:
        return load_failed_events(self.warehouse, self.settings, run_id="r")

    def rows(self) -> list[Any]:
        """Of both tenants, by kind. Replays of other tests' tenants lie on the same topic."""
        query = sa.text("SELECT * FROM failed_event_status WHERE tenant_id IN (:south, :north)")
        values = {"south": self.south.tenant_id, "north": self.north.tenant_id}
        with writer(self.warehouse) as connection, connection.begin():
            found = connection.execute(query, values).all()
        return sorted(found, key=lambda row: (row.vendor, row.hour, row.reason, row.path, row.event_type))

    def one(self) -> Any:
        (row,) = self.rows()
        return row

    def offsets(self) -> int:
        consumed = tables.consumed_offsets.c
        query = sa.select(sa.func.sum(consumed.next_offset)).where(consumed.topic == self.south.dlq_topic)
        with writer(self.warehouse) as connection, connection.begin():
            return int(connection.execute(query).scalar() or 0)


def headers(  # the names of what is varied
    *, at_ms: int, reason: str = "missing_field", path: str = "contactId", stage: str = "normalise",
    transport: str = "webhook", attempt: int = 1, message: str = "contactId: missing",
) -> Headers:  # fmt: skip
    made = dead_letter_headers(
        BadEventError(message, reason=reason, path=path), stage=stage, transport=transport, attempt=attempt
    )
    return [(key, str(at_ms) if key == "ccaas.error.time" else value) for key, value in made]


def count(outcome: Outcome, events: int, **words: Any) -> GroupCount:
    kind = {
        "transport": "webhook", "stage": "normalise", "reason": "missing_field", "path": "contactId",
        "event_type": "CALL_ENDED", "hour_ms": NINE_MS,
    }  # fmt: skip
    return GroupCount(**kind | words, outcome=outcome, events=events)


@pytest.fixture
def letters(platform: Platform, warehouse: Warehouse) -> Letters:
    made = Letters(platform, warehouse)
    made.load()  # what other tests' tenants replayed lies on the same topic
    return made


def test_what_failed_alike_within_an_hour_is_a_row(letters: Letters) -> None:
    letters.put(3, attempt=2)
    letters.put(path="[3].contactId", at_ms=NINE_MS + 5)
    letters.put(path="[12].contactId", at_ms=NINE_MS + HOUR_MS)
    letters.put(tenant=letters.north, transport="sse", value=b'{"topicName": 3}', path="topicName", reason="wrong_type")
    assert letters.load().rows == 4
    array, first, later, north = letters.rows()
    assert (first.vendor, first.tenant_id, first.transport, first.stage) == (
        "cxone", letters.south.tenant_id, "webhook", "normalise",
    )  # fmt: skip
    assert (array.path, array.events) == ("[].contactId", 1)
    assert (first.path, first.event_type, first.hour, first.events, first.attempt) == (
        "contactId", "CALL_ENDED", NINE, 3, 2,
    )  # fmt: skip
    assert (first.first_seen, first.last_seen) == (NINE, NINE + timedelta(milliseconds=2))
    assert (first.sample, first.message) == (CALL_ENDED.decode(), "contactId: missing")
    assert (first.sample_topic, first.sample_partition, first.sample_offset) == (letters.south.dlq_topic, 0, 0)
    assert (later.hour, later.path) == (NINE + timedelta(hours=1), "[].contactId")
    assert (north.tenant_id, north.event_type, north.reason) == (letters.north.tenant_id, "", "wrong_type")


def test_each_letter_is_counted_once(letters: Letters) -> None:
    assert letters.load() == LoadResult(dataset="failed_events", rows=0)
    letters.put(5)
    assert len(letters.load().load_ids) == 1
    assert letters.load() == LoadResult(dataset="failed_events", rows=0)
    letters.put(2, attempt=3, at_ms=NINE_MS + 60_000)
    letters.load()
    row = letters.one()
    assert (row.events, row.attempt, row.sample_offset) == (7, 3, 5)
    assert (row.first_seen, row.last_seen) == (NINE, NINE + timedelta(seconds=60, milliseconds=1))


def test_in_parts_or_at_once_the_counts_are_those_of_a_plain_count(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warehouse.failed_kinds, "_MAX_LETTERS", 40)
    chance = random.Random(5)
    wanted: Counter[tuple[Any, ...]] = Counter()
    for step in range(3):
        for _ in range(150):
            tenant = chance.choice([letters.south, letters.north])
            words: dict[str, Any] = {
                "reason": chance.choice(["missing_field", "wrong_type"]), "path": chance.choice(["a", "b.c", "é\x00"]),
                "transport": chance.choice(["sse", "rest"]), "at_ms": NINE_MS + chance.randrange(-5, 5) * HOUR_MS // 2,
            }  # fmt: skip
            letters.put(tenant=tenant, value=b"{}", **words)
            hour = from_ms(words["at_ms"] - words["at_ms"] % HOUR_MS)
            path = words["path"].replace("\x00", "")
            wanted[tenant.tenant_id, words["transport"], words["reason"], path, hour] += 1
        assert len(letters.load().load_ids) > 1
        found = {(row.tenant_id, row.transport, row.reason, row.path, row.hour): row.events for row in letters.rows()}
        assert found == wanted, f"after step {step}"


def test_anything_may_lie_on_a_dead_letter_topic(letters: Letters) -> None:
    topic = letters.south.dlq_topic
    letters.producer.produce(topic, None)
    letters.producer.produce(topic, b"\xff\x00" + b"x" * 5_000, headers=[("ccaas.error.path", b"\xff"), ("a", None)])
    letters.put(value=b"[" * 1_000 + b"]" * 1_000, reason="unparsable", path="", message="nul \x00 in it")
    # Beyond the years that a table holds.
    letters.put(at_ms=999_999_999_999_000, attempt=10**14)
    letters.load()
    deep, foreign, far = sorted(letters.rows(), key=lambda row: (row.hour.year, row.reason != "unparsable"))
    assert (foreign.stage, foreign.reason, foreign.events, foreign.transport) == ("foreign", "foreign", 2, "unknown")
    assert (deep.message, deep.sample) == ("nul  in it", "[" * 1_000 + "]" * 1_000)
    assert (far.hour.year, far.attempt) == (9999, 2**31 - 1)


def test_a_sample_is_text_of_bounded_length(letters: Letters) -> None:
    letters.put(value=b"\xff\x00" + "é".encode() * 5_000)
    letters.load()
    assert letters.one().sample == "\ufffd" + "é" * 1_998


def test_what_expired_uncounted_is_said(letters: Letters) -> None:
    letters.put(3)
    letters.load()
    letters.put(4)
    (cut,) = letters.admin.delete_records([TopicPartition(letters.south.dlq_topic, 0, -1)]).values()
    cut.result(20)
    letters.put(2)
    with structlog.testing.capture_logs() as said:
        letters.load()
    assert [(line["log_level"], line["expired"]) for line in said if "expired" in line] == [("error", 4)]
    assert letters.one().events == 5


def test_a_topic_made_anew_is_counted_from_its_start(letters: Letters) -> None:
    letters.put(5)
    letters.load()
    topic = letters.south.dlq_topic
    (gone,) = letters.admin.delete_topics([topic]).values()
    gone.result(20)
    until(lambda: topic not in letters.admin.list_topics(timeout=10).topics, 30, "the topic is gone")
    ensure_topics(letters.settings.kafka, [letters.south])
    with structlog.testing.capture_logs() as said:
        letters.load()
    assert [line["counted"] for line in said if "counted" in line] == [5]
    assert letters.offsets() == 0
    letters.put(7)
    letters.load()
    assert letters.one().events == 12


def test_outcomes_of_replays(letters: Letters) -> None:
    letters.put(10)
    letters.load()
    assert (letters.one().open, letters.one().replay_status) == (10, "open")
    letters.replay(count(Outcome.REPLAYED, 4), count(Outcome.FAILED_AGAIN, 1), fixups=({"op": "drop"},))
    letters.load()
    row = letters.one()
    assert (row.replayed, row.failed_again, row.parked, row.open, row.replay_status) == (4, 1, 0, 5, "partly")
    letters.replay(count(Outcome.PARKED, 3), count(Outcome.REPLAYED, 2))
    letters.load()
    assert (letters.one().open, letters.one().replay_status) == (0, "parked")
    # A person tries the parked ones after all: two pass, one is parked again.
    letters.replay(count(Outcome.REPLAYED, 2, was_parked=True), count(Outcome.PARKED, 1, was_parked=True))
    assert letters.load().rows == 1
    row = letters.one()
    assert (row.events, row.replayed, row.failed_again, row.parked, row.open) == (10, 8, 1, 1, 0)
    letters.replay(count(Outcome.REPLAYED, 1, was_parked=True))
    letters.load()
    assert letters.one().replay_status == "failed again"
    audit = tables.dead_letter_replays
    with writer(letters.warehouse) as connection, connection.begin():
        found = connection.execute(
            sa.select(audit).where(audit.c.tenant_id == letters.south.tenant_id).order_by(audit.c.outcome)
        ).all()
    assert [(row.outcome, row.events, row.reason, row.fixups) for row in found] == [
        ("failed_again", 1, "missing_field", '[{"op": "drop"}]'),
        ("parked", 4, "missing_field", None),
        ("replayed", 9, "missing_field", '[{"op": "drop"}]'),
    ]


def test_replayed_letters_that_were_never_counted_have_a_row(letters: Letters) -> None:
    letters.replay(count(Outcome.REPLAYED, 4), count(Outcome.PARKED, 1, hour_ms=NINE_MS + HOUR_MS))
    letters.load()
    first, second = letters.rows()
    assert (first.events, first.replayed, first.open, first.replay_status) == (4, 4, 0, "replayed")
    assert (second.events, second.parked, second.replay_status) == (1, 1, "parked")


def test_a_record_that_is_no_replay_is_said_and_left_out(letters: Letters) -> None:
    letters.put(2)
    letters.producer.produce(replays.TOPIC, b"rubbish")
    letters.replay(count(Outcome.REPLAYED, 1))
    with structlog.testing.capture_logs() as said:
        letters.load()
    assert any("replays' topic" in line["event"] for line in said)
    assert letters.one().replayed == 1


def test_an_open_transaction_is_counted_once_it_is_committed(letters: Letters) -> None:
    transactional = Producer({**letters.settings.kafka.client_config(), "transactional.id": letters.south.tenant_id})
    transactional.init_transactions(20)
    letters.put(3)
    transactional.begin_transaction()
    transactional.produce(letters.south.dlq_topic, CALL_ENDED, headers=headers(at_ms=NINE_MS, attempt=2))
    letters.replay(count(Outcome.FAILED_AGAIN, 1), producer=transactional)
    transactional.flush(20)
    letters.put(2)
    letters.load()
    assert (letters.one().events, letters.one().failed_again) == (3, 0), "what lies behind it waits too"
    transactional.commit_transaction(20)

    def loaded() -> bool:  # a commit returns before readers see what it holds
        letters.load()
        return letters.one().events == 6

    until(loaded, what="the transaction's letter")
    assert (letters.one().failed_again, letters.one().attempt) == (1, 2)
    transactional.begin_transaction()
    transactional.produce(letters.south.dlq_topic, CALL_ENDED, headers=headers(at_ms=NINE_MS))
    transactional.flush(20)
    transactional.abort_transaction(20)
    letters.load()
    assert letters.one().events == 6


def test_kinds_beyond_the_bound_are_counted_together(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warehouse.load_failed_events, "_MAX_KINDS", 5)
    letters.put(2, path="early")
    letters.load()
    for number in range(20):
        letters.put(1 + (number == 19), path=f"id{number}")
    letters.put(path="id3", at_ms=NINE_MS + HOUR_MS)
    letters.load()
    letters.put(path="early")
    letters.put(path="never seen")
    letters.load()
    rows = {(row.hour, row.path, row.event_type): row.events for row in letters.rows()}
    assert len([path for hour, path, _ in rows if hour == NINE]) == 6
    assert rows[NINE, "early", "CALL_ENDED"] == 3
    assert rows[NINE, "id19", "CALL_ENDED"] == 2, "the most frequent keep a row"
    assert rows[NINE, "(others)", "(others)"] == 17
    assert rows[NINE + timedelta(hours=1), "id3", "CALL_ENDED"] == 1
    # What a replay says of one of the others is counted there.
    letters.replay(count(Outcome.REPLAYED, 1, path="never seen"))
    letters.load()
    assert {row.path: row.replayed for row in letters.rows() if row.replayed} == {"(others)": 1}


def test_ids_in_names_neither_fill_memory_nor_make_a_write_each(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warehouse.load_failed_events, "_MAX_KINDS", 5)
    monkeypatch.setattr(warehouse.failed_kinds, "_MAX_GROUPS", 50)
    for number in range(1_000):
        letters.producer.produce(
            letters.south.dlq_topic, CALL_ENDED, headers=headers(at_ms=NINE_MS, path=f"id{number}")
        )
    letters.producer.flush(20)
    result = letters.load()
    # Batches are at most 200 records here; from the second part on the hour is known to be full.
    assert len(result.load_ids) == 2
    assert sum(row.events for row in letters.rows()) == 1_000
    assert len(letters.rows()) == 6


SCRIPT = """
import json, sys
from pathlib import Path
import warehouse.failed_kinds
from streaming.settings import Settings
from warehouse.engine import Warehouse
from warehouse.load_failed_events import load_failed_events
given = json.loads(sys.argv[1])
warehouse.failed_kinds._MAX_LETTERS = 100
load_failed_events(
    Warehouse(url=given["url"], landing_dir=Path(given["landing"]), lock_seconds=60),
    Settings(kafka={"bootstrap_servers": given["kafka"]}, tenants=given["tenants"], data_dir="/nowhere"), run_id="r",
)
"""


def loader(letters: Letters) -> subprocess.Popen[bytes]:
    """A load in a process of its own, in small parts."""
    given = {
        "url": letters.warehouse.url, "landing": str(letters.warehouse.landing_dir),
        "kafka": letters.settings.kafka.bootstrap_servers,
        "tenants": [{"tenant_id": letters.south.tenant_id, "vendor": "cxone"}],
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(given)], env=python_environment())


def moved_or_ended(letters: Letters, running: subprocess.Popen[bytes], before: int) -> bool:
    return letters.offsets() > before or running.poll() is not None


def test_killed_at_any_moment_and_run_again(letters: Letters) -> None:
    letters.put(4_000)
    for _ in range(3):
        before, running = letters.offsets(), loader(letters)
        until(partial(moved_or_ended, letters, running, before), 60, "some are counted")
        running.send_signal(signal.SIGKILL)
        running.wait()
    letters.load()
    assert letters.one().events == 4_000


def test_two_runs_at_once(letters: Letters) -> None:
    letters.put(3_000)
    running = [loader(letters), loader(letters)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert letters.one().events == 3_000


def test_what_broke_is_shown(letters: Letters) -> None:
    letters.put(4, at_ms=NINE_MS)
    letters.put(2, at_ms=NINE_MS + HOUR_MS)
    letters.put(3, reason="unparsable", path="", value=b"{")
    letters.load()
    publish_read_copy(letters.warehouse, force=True)
    with reader(letters.warehouse) as connection:
        day = Window(NINE, NINE + timedelta(hours=24))
        kinds = [kind for kind in what_broke(connection, day, top=10_000) if kind.tenant_id == letters.south.tenant_id]
        assert [(kind.reason, kind.events, kind.open) for kind in kinds] == [
            ("missing_field", 6, 6),
            ("unparsable", 3, 3),
        ]
        assert (kinds[0].first_seen, kinds[0].last_seen) == (NINE, NINE + timedelta(hours=1, milliseconds=1))
        assert len(what_broke(connection, day, top=1)) == 1
        png = failures_png(connection, day)
    assert_picture(letters, png)


def assert_picture(letters: Letters, png: bytes) -> None:
    file = letters.warehouse.landing_dir.parent / f"{uuid.uuid4().hex}.png"
    file.write_bytes(png)
    assert imread(file).shape[:2] == (598, 1430)


@pytest.mark.parametrize("reasons", [0, 12])
def test_no_reason_and_more_reasons_than_colours(reasons: int, letters: Letters) -> None:
    for number in range(reasons):
        letters.put(reason=f"reason{number}")
    letters.load()
    publish_read_copy(letters.warehouse, force=True)
    with reader(letters.warehouse) as connection:
        assert_picture(letters, failures_png(connection, Window(NINE, NINE + timedelta(hours=24))))
