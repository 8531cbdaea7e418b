"""At most once, and nothing lost: killed runs, two at once, and a broker that stands still."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import Producer

import streaming.reprocess.batch
import streaming.reprocess.memory
import streaming.reprocess.run
import streaming.reprocess.transaction
from streaming.errors import BadEventError, ConfigurationError, FencedError, ServiceUnavailableError
from streaming.reprocess.committer import Committer
from streaming.reprocess.replays import TOPIC
from streaming.reprocess.report import TenantReport
from streaming.reprocess.run import reprocess
from tests.conftest import Platform
from tests.schemas.messages import cxone
from tests.streaming.reprocess.letters import CXONE, MISSING, Letters, outcomes
from tests.streaming.reprocess.replaying import BATCH

RENAME = {"op": "rename", "path": "contactID", "to": "contactId"}
OTHER = BadEventError("x", reason="other", path="eventType")


@pytest.fixture
def south(platform: Platform) -> Letters:
    return Letters(platform, "cxone")


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.reprocess.batch, "_MAX_LETTERS", 5)


def message(number: int) -> dict[str, Any]:
    """Every seventh fails whatever one does."""
    broken = {"timestamp": "never"} if number % 7 == 0 else {}
    return cxone("CALL_STARTED", contactId=..., contactID=f"c-{number}", **broken)


def fill(letters: Letters, count: int) -> None:
    letters.put(*map(message, range(count)), error=MISSING)


def assert_each_once(letters: Letters, count: int) -> None:
    """Every one of the first ``count`` letters was replayed once, or is on the topic anew once."""
    assert sorted(letters.done()) == sorted(set(letters.done())), "no letter is done with twice"
    assert set(range(count)) <= set(letters.done())
    good = {f"c-{number}" for number in range(count) if number % 7}
    published = Counter(event["payload"]["conversation_id"] for event in letters.events())
    assert published == dict.fromkeys(good, 1)
    again = Counter(value for said, value in letters.dead() if said.attempt == 2)
    assert set(again.values()) == {1}
    assert len(again) == count - len(good)


def test_a_run_killed_again_and_again(platform: Platform) -> None:
    tenant_id = platform.add_tenant("cxone", "killed", **CXONE)
    letters = Letters(platform, "cxone", "killed")
    assert letters.tenant.tenant_id == tenant_id
    count = 60 * BATCH
    fill(letters, count)
    # What fails again is not selected: the letters done with are those that were filled in.
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    kills = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.streaming.reprocess.replaying", tenant_id],
            env=platform.environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            assert run.stdout is not None
            lines = 0
            for _ in range(chance.randrange(1, 7)):
                lines += bool(run.stdout.readline())
            # Anywhere within the next batches: while it reads, sends, or commits.
            with suppress(subprocess.TimeoutExpired):
                run.wait(chance.random() * 0.06)
            kills += run.poll() is None
            run.send_signal(signal.SIGKILL)
        assert lines, f"seed {seed}"
    assert kills >= 5, f"seed {seed}"
    letters.run(RENAME, reason="missing_field")
    assert_each_once(letters, count)


@pytest.mark.usefixtures("_small")
def test_of_two_runs_at_once_the_later_goes_on(south: Letters) -> None:
    fill(south, 60)
    second: list[TenantReport] = []

    def begin_another(_: TenantReport) -> None:
        if not second:
            second.append(south.run(RENAME, reason="missing_field"))

    first = TenantReport("cxone", south.tenant.tenant_id)
    with pytest.raises(FencedError, match=r"another run of dlq-reprocess for this tenant began, and goes on"):
        reprocess(
            south.settings, south.tenant, south.order(RENAME, reason="missing_field"), first, progress=begin_another
        )
    assert sum(outcomes(first).values()) == 5, "what it says it did, it did"
    assert sum(outcomes(second[0]).values()) == 55
    assert_each_once(south, 60)


@pytest.mark.usefixtures("_small")
def test_a_dry_run_fences_nobody(south: Letters) -> None:
    fill(south, 30)
    shown: list[dict[str, int]] = []

    def look(_: TenantReport) -> None:
        shown.append(outcomes(south.run(RENAME, dry_run=True, reason="missing_field")))

    report = reprocess(south.settings, south.tenant, south.order(RENAME, reason="missing_field"), progress=look)
    assert outcomes(report) == {"replayed": 25, "failed_again": 5}
    assert [sum(counts.values()) for counts in shown] == [25, 20, 15, 10, 5, 0]
    assert_each_once(south, 30)


@pytest.mark.usefixtures("_small")
def test_what_ends_a_run_leaves_the_rest_as_it_was(south: Letters) -> None:
    fill(south, 30)

    def fail(report: TenantReport) -> None:
        if sum(outcomes(report).values()) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reprocess(south.settings, south.tenant, south.order(RENAME, reason="missing_field"), progress=fail)
    done = south.done()
    assert done in (list(range(10)), list(range(15)))
    south.run(RENAME, reason="missing_field")
    assert_each_once(south, 30)


@pytest.mark.usefixtures("_small")
def test_an_open_transaction_is_ended_at_once(south: Letters) -> None:
    """A run dies with a transaction open: nobody waits for its timeout."""
    fill(south, 20)
    dead = Producer(
        {
            **south.settings.kafka.client_config(),
            "transactional.id": f"ccaas-dlq-reprocess/cxone/{south.tenant.tenant_id}",
            "transaction.timeout.ms": 300_000,
        }
    )
    dead.init_transactions(30)
    dead.begin_transaction()
    for topic in (south.tenant.events_topic, south.tenant.dlq_topic, TOPIC):
        dead.produce(topic, b"never committed", south.tenant.dlq_topic.encode())
    assert dead.flush(30) == 0
    assert outcomes(south.run(RENAME, reason="missing_field")) == {"replayed": 17, "failed_again": 3}
    assert_each_once(south, 20)


def test_what_lies_behind_another_tenants_open_transaction_is_not_overlooked(
    south: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(south, 20)
    other = Producer({**south.settings.kafka.client_config(), "transactional.id": f"other-{south.platform.suffix}"})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(TOPIC, b"{}", b"another tenant's")
    assert other.flush(30) == 0
    # Step 3 of a run would wait: what it commits lies behind the open transaction.
    monkeypatch.setattr(streaming.reprocess.run, "wait_until_settled", lambda *_: None)
    south.run(RENAME, reason="missing_field")
    monkeypatch.undo()
    monkeypatch.setattr(streaming.reprocess.memory, "_OPEN_S", 0.5)
    with pytest.raises(ServiceUnavailableError, match="another tenant's run is open"):
        south.run(RENAME, reason="missing_field")
    other.commit_transaction(30)
    assert outcomes(south.run(RENAME, reason="missing_field")) == {}
    assert_each_once(south, 20)


@pytest.mark.usefixtures("_small")
def test_a_broker_that_stands_still_for_a_while_is_waited_for(south: Letters) -> None:
    fill(south, 40)
    broker = south.platform.stack.kafka
    assert broker is not None
    paused = threading.Event()

    def pause(_: TenantReport) -> None:
        if not paused.is_set():
            paused.set()
            os.kill(broker.child.pid, signal.SIGSTOP)
            threading.Timer(4, os.kill, (broker.child.pid, signal.SIGCONT)).start()

    report = reprocess(south.settings, south.tenant, south.order(RENAME, reason="missing_field"), progress=pause)
    assert outcomes(report) == {"replayed": 34, "failed_again": 6}
    assert_each_once(south, 40)


@pytest.mark.usefixtures("_small")
def test_a_broker_that_stands_still_for_long_ends_the_run_and_nothing_is_half_done(
    south: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(south, 40)
    broker = south.platform.stack.kafka
    assert broker is not None
    monkeypatch.setattr(streaming.reprocess.transaction, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(streaming.reprocess.transaction, "_CALL_S", 0.5)

    def pause(_: TenantReport) -> None:
        os.kill(broker.child.pid, signal.SIGSTOP)

    try:
        with pytest.raises(ServiceUnavailableError, match="nothing half done, run again"):
            reprocess(south.settings, south.tenant, south.order(RENAME, reason="missing_field"), progress=pause)
    finally:
        os.kill(broker.child.pid, signal.SIGCONT)
    monkeypatch.undo()
    monkeypatch.setattr(streaming.reprocess.batch, "_MAX_LETTERS", 5)
    deadline = time.monotonic() + 60
    while True:
        try:
            south.run(RENAME, reason="missing_field")
            break
        except ServiceUnavailableError:
            assert time.monotonic() < deadline
    assert_each_once(south, 40)


def test_a_record_of_the_replays_topic_that_is_none_is_passed_over(south: Letters) -> None:
    fill(south, 10)
    for value in (b"", b"\xff", b"{}", b'{"run_id":7}'):
        south.producer.produce(TOPIC, value, south.tenant.dlq_topic)
    south.settle()
    with pytest.raises(ValueError, match="validation"):
        south.replays()
    assert outcomes(south.run(RENAME, reason="missing_field")) == {"replayed": 8, "failed_again": 2}


def test_what_a_commit_raises_is_raised_in_the_end() -> None:
    def refuse(_: streaming.reprocess.batch.Batch) -> None:
        raise ConfigurationError

    with pytest.raises(ConfigurationError), Committer(lambda _: None, refuse) as committer:
        committer.commit(streaming.reprocess.batch.Batch())
