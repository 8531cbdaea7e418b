"""A caller's data is gone everywhere, figures stay, and no load brings it back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from schemas.canonical import RECOVERED_KEY, EventType
from schemas.promoted import PromotedField
from streaming.erasure.personal import PSEUDONYM, ErasureKey, Mode, Owner, Rule, normal_address
from streaming.errors import ConfigurationError, FencedError
from streaming.instants import to_ms
from streaming.sink.compaction import Limits, compact
from streaming.sink.landing import footer
from streaming.sink.landing_lease import Held
from tests.s3 import s3_server
from tests.warehouse.events import (
    Event,
    abandoned,
    assigned,
    at,
    event,
    everything,
    handled,
    land,
    numbered,
    queued,
    wrapup,
)
from warehouse import tables
from warehouse.callers import Request
from warehouse.compacted import note_compacted
from warehouse.engine import Warehouse, writer
from warehouse.erasure import Erasure, Places, apply_list, erase
from warehouse.load_conversations import load_conversations
from warehouse.load_events import load_events, load_events_window
from warehouse.load_intervals import load_wfm_intervals
from warehouse.promoted import add_promoted
from warehouse.suppression import ADDRESS, Entry, put_on_list
from warehouse.windows import Window

BANK = Owner("genesys", "bank-north")
DIGITS = "493099887766"
ASKED = "+49 (30) 9988-7766"
NAME = "Alma Mustermann"
SECRETS = (DIGITS, "9988", NAME)
WRITTEN = (NAME, f"tel:+{DIGITS}", f"00{DIGITS}", "+49 30 99887766", "+49 30 9988 7766")
"""As bytes in files; another tenant has the digits alone, and keeps them."""
DAY = Window(at("00:00:00"), at("00:00:00", day=5))
KEY = SecretStr("0123456789abcdef" * 4)
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()
NOTE = PromotedField("genesys_note", "genesys.note", "string")


def calls() -> list[Event]:
    """The caller's, written in several ways; what came of it without an address; and others'."""
    told = {"ccaas.native_type": "test", "genesys.note": f"{NAME} called"}
    own = [
        replace(queued("09:00:00", "c1", ani=f"tel:+{DIGITS}", dnis="+49 30 5000"), metadata=told),
        assigned("09:00:10", "c1", wait_ms=10_000),
        handled("09:03:10", "c1", talk_ms=180_000, end_reason="done"),
        replace(wrapup("09:03:40", "c1", acw_ms=30_000, wrapup_code=f"call 00{DIGITS} back"), metadata=told),
        replace(queued("09:04:00", "c1-consult", queue="NE", parent_conversation_id="c1"), metadata=told),
        abandoned("09:04:30", "c1-consult", queue="NE"),
        queued("11:00:00", "c2", ani="+49 30 99887766"),
        abandoned("11:00:40", "c2", wait_ms=40_000),
        # What only REST knew of.
        replace(queued("12:00:00", "c3", ani=f"00{DIGITS}"), metadata={RECOVERED_KEY: "reconciled", "cxone.x": NAME}),
        abandoned("12:00:20", "c3"),
    ]
    others = [
        queued("09:00:00", "o1", ani="+4930111"),
        assigned("09:00:30", "o1", agent="BEN"),
        handled("09:02:00", "o1", agent="BEN", talk_ms=90_000),
        replace(queued("09:05:00", "o2", ani=DIGITS), tenant_id="bank-west"),
    ]
    # Not loaded yet: only landing files know whose it is.
    landed = [queued("14:00:00", "c4", ani=f"+{DIGITS}"), replace(assigned("14:00:05", "c4"), metadata=told)]
    return numbered([*own, *others, *landed])


def load_all(warehouse: Warehouse) -> None:
    load_events(warehouse, run_id="r")
    load_conversations(warehouse, run_id="r")
    load_wfm_intervals(warehouse, DAY, run_id="r")


def fill(warehouse: Warehouse, scratch: Path) -> None:
    """Compacted files, the raw ones that they replaced, one set aside, one not loaded; a dead letter."""
    with writer(warehouse) as connection, connection.begin():
        add_promoted(connection, [NOTE], 2)
        failed = {column.name: "x" for column in tables.failed_events.c if isinstance(column.type, sa.Text)}
        counts = dict.fromkeys(("events", "replayed", "failed_again", "parked", "attempt"), 1)
        times = dict.fromkeys(("hour", "first_seen", "last_seen"), at("09:00:00"))
        mine = {**failed, **BANK._asdict(), **counts, **times, "sample_partition": 0, "sample_offset": 0}
        for path, sample in (("a", f'{{"from": "+49 30 9988 7766", "name": "{NAME}'), ("b", '{"from": "+4930111"')):
            connection.execute(sa.insert(tables.failed_events), {**mine, "path": path, "sample": sample})
    events = calls()
    land(warehouse.landing_dir, *events[:6])
    land(warehouse.landing_dir, *events[6:12])
    load_all(warehouse)
    steps = compact(warehouse.store, 1, TOMORROW, limits=Limits(min_rows=3), scratch=scratch, is_ours=lambda: True)
    note_compacted(warehouse, steps, [])
    aside = land(warehouse.landing_dir, *events[:2])
    warehouse.store.move(aside.relative_to(warehouse.landing_dir).as_posix(), f"quarantine/{aside.name}")
    land(warehouse.landing_dir, *events[12:], *events[6:8])


@contextmanager
def nobody_else() -> Iterator[Held]:
    yield Held(1, lambda: True)


PLACES = Places(nobody_else, lambda *_: 0)


def run(warehouse: Warehouse, mode: Mode = "erase", **more: Any) -> Erasure:
    request = Request(owner=BANK, address=ASKED, mode=mode)
    return erase(warehouse, request, more.pop("places", PLACES), run_id="run", **more)


def texts_of(warehouse: Warehouse) -> str:
    """All that the tables and the landing files of a tenant hold, and what lies in files as it is."""
    found = []
    with writer(warehouse) as connection:
        for table in tables.metadata.sorted_tables:
            rows = connection.execute(sa.text(f"SELECT * FROM {table.name}")).mappings()
            found += [str(dict(row)) for row in rows if row.get("tenant_id") != "bank-west"]
    for path in warehouse.landing_dir.rglob("*.parquet"):
        rows = pq.read_table(path, partitioning=None).to_pylist()
        found += [str(row) for row in rows if row["tenant_id"] != "bank-west"]
    return "\n".join(found)


def assert_gone(warehouse: Warehouse) -> None:
    texts = texts_of(warehouse)
    assert [secret for secret in SECRETS if secret in texts] == []
    # Other callers' data is there.
    assert "+4930111" in texts
    if warehouse.database:
        files = [path for path in warehouse.database.parent.glob("*") if path.is_file()]
        assert warehouse.read_copy in files
        assert not [path for path in files for secret in WRITTEN if secret.encode() in path.read_bytes()]


def figures(warehouse: Warehouse) -> dict[str, list[dict[str, Any]]]:
    """Everything but what is personal."""
    personal = {"ani", "dnis", "payload", "metadata", "wrapup_code", NOTE.name}
    return {
        name: [{key: value for key, value in row.items() if key not in personal} for row in rows]
        for name, rows in everything(warehouse).items()
    }


def until_one(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Queue cells before those of what a test adds."""
    return [row for row in figures(warehouse)["queue_intervals"] if row["interval_start"] < at("13:00:00")]


@pytest.fixture
def keyed(make_warehouse: Callable[..., Warehouse]) -> Warehouse:
    return make_warehouse(erasure_key=KEY)


def test_erased_everywhere_and_figures_stay(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    before, texts = figures(keyed), texts_of(keyed)
    assert all(secret in texts for secret in SECRETS)
    landed = {path: pq.read_table(path, partitioning=None) for path in keyed.landing_dir.rglob("*.parquet")}
    origins = {path: footer(keyed.store, path.relative_to(keyed.landing_dir).as_posix()) for path in landed
               if "compacted" not in path.parts}  # fmt: skip

    would = run(keyed, dry_run=True)
    assert (would.erasure_id, texts_of(keyed)) == (None, texts)
    done = run(keyed)
    assert done.counts == would.counts
    assert done.counts["events"] == 10
    assert done.conversations == 5
    assert_gone(keyed)
    assert figures(keyed) == before
    for path, table in landed.items():
        now = pq.read_table(path, partitioning=None)
        same = [name for name in table.schema.names if name not in {"payload", "metadata"}]
        assert now.select(same).equals(table.select(same))
    assert origins == {path: footer(keyed.store, path.relative_to(keyed.landing_dir).as_posix()) for path in origins}

    assert {count for place, count in run(keyed).counts.items()} == {0}
    with writer(keyed) as connection:
        rows = connection.execute(sa.select(tables.erasures).order_by(tables.erasures.c.started_at)).mappings().all()
    assert [(row["status"], row["mode"]) for row in rows] == [("finished", "erase")] * 2
    assert orjson.loads(rows[0]["counts"]) == done.counts


def test_no_load_brings_it_back(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    load_all(keyed)
    before = until_one(keyed)
    run(keyed)
    # As the bus tells it again: into an emptied warehouse, by window, and an event that comes late.
    land(keyed.landing_dir, *calls())
    note = {"genesys.note": NAME}
    land(keyed.landing_dir, replace(assigned("13:00:10", "c9"), offset=98, metadata=note))
    with writer(keyed) as connection, connection.begin():
        for table in (tables.events, tables.reconciled_events, tables.landed_files):
            connection.execute(sa.delete(table))
    load_all(keyed)
    load_events_window(keyed, DAY, run_id="r")
    # A conversation is known by its address only late: what is there of it, and what comes, is cleaned too.
    land(keyed.landing_dir, replace(queued("13:00:00", "c9", ani=f"sip:+{DIGITS}@host;user=phone"), offset=99))
    load_events(keyed, run_id="r")
    land(keyed.landing_dir, replace(handled("13:00:20", "c9"), offset=101, metadata=note))
    # A call after the erasure is a new one.
    new = replace(queued("13:00:00", "c10", ani=f"+{DIGITS}"), time=datetime.now(UTC) + timedelta(hours=1), offset=100)
    land(keyed.landing_dir, new)
    load_all(keyed)
    with writer(keyed) as connection:
        e = tables.events.c
        query = sa.select(e.conversation_id, e.ani, e.payload, e.metadata).where(e.tenant_id == BANK.tenant_id)
        rows = {row for row in connection.execute(query) if any(secret in str(row) for secret in SECRETS)}
    assert {row.conversation_id for row in rows} == {"c10"}
    assert until_one(keyed) == before
    # What lies in the landing zone anew goes when the list is applied again; c10's address is on no list any more.
    again = apply_list(keyed, PLACES)
    assert again.counts["landing rows"] > 0
    kept = [path for path in keyed.landing_dir.rglob("*.parquet") if NAME in str(pq.read_table(path).to_pylist())]
    assert kept == []


def test_a_pseudonym_is_the_same_for_the_same_caller(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    load_all(keyed)
    before = figures(keyed)
    run(keyed, "pseudonymise")
    assert_gone(keyed)
    assert figures(keyed) == before

    def callers_of() -> dict[str, str | None]:
        with writer(keyed) as connection:
            c = tables.conversations.c
            query = sa.select(c.conversation_id, c.ani).where(c.tenant_id == BANK.tenant_id)
            return dict(connection.execute(query).tuples().all())

    token = ErasureKey(KEY).pseudonym(BANK, ASKED)
    named = callers_of()
    assert [named[id_] for id_ in ("c1", "c2", "c3", "o1")] == [token, token, token, "+4930111"]
    assert ErasureKey(KEY).pseudonym(BANK._replace(tenant_id="bank-west"), ASKED) != token
    # The rows that a load makes again have it too.
    load_events_window(keyed, DAY, run_id="r")
    load_conversations(keyed, DAY, run_id="r")
    assert callers_of() == named
    # Erased after all, by the same address, and not undone by asking for less.
    run(keyed)
    run(keyed, "pseudonymise")
    assert PSEUDONYM not in texts_of(keyed)
    assert callers_of()["c1"] is None


class _KilledError(Exception):
    pass


def test_killed_at_any_step_the_next_run_finishes(make_warehouse: Callable[..., Warehouse], tmp_path: Path) -> None:
    for step in ("warehouse", "landing files"):
        warehouse = make_warehouse(erasure_key=KEY)
        fill(warehouse, tmp_path)

        def stop(done: str, at_step: str = step) -> None:
            if done == at_step:
                raise _KilledError

        with pytest.raises(_KilledError):
            run(warehouse, on_step=stop)
        load_all(warehouse)  # a load comes between
        between = figures(warehouse)
        run(warehouse)
        assert_gone(warehouse)
        assert figures(warehouse) == between, step
        with writer(warehouse) as connection:
            status = connection.execute(sa.select(tables.erasures.c.status)).scalars().all()
        assert sorted(status) == ["finished", "superseded"]


_PROCESS = """
import sys
from pathlib import Path
from tests.warehouse.test_erasure import KEY, run
from warehouse.engine import Warehouse
run(Warehouse(url=sys.argv[1], landing_dir=Path(sys.argv[2]), erasure_key=KEY), on_step=lambda s: print(s, flush=True))
"""


@pytest.mark.parametrize("engine", ["duckdb"])
def test_kill_9_in_the_midst_of_the_database_work(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, keyed.url, str(keyed.landing_dir)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == "landing files read"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=30)
    load_all(keyed)
    run(keyed)
    assert_gone(keyed)


@pytest.mark.parametrize("engine", ["duckdb"])
def test_a_lease_that_is_lost_at_any_look_leaves_no_file_half_done(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    before = {path: path.read_bytes() for path in keyed.landing_dir.rglob("*.parquet")}
    done = 0
    for looks in range(100):
        answers = iter([True] * looks)

        @contextmanager
        def lost(answers: Iterator[bool] = answers) -> Iterator[Held]:
            yield Held(1, lambda: next(answers, False))

        try:
            run(keyed, places=Places(lost, lambda *_: 0))
        except FencedError:
            now = {path: path.read_bytes() for path in keyed.landing_dir.rglob("*.parquet")}
            changed = sum(content != before[path] for path, content in now.items())
            assert now.keys() == before.keys()
            # Two looks a file, the last before it takes the old one's place; what is done needs none.
            assert changed == done + looks // 2
            done = changed
        else:
            break
    assert done > 2
    assert_gone(keyed)
    # A look at the end: a compaction may have copied old rows meanwhile.
    with pytest.raises(FencedError):
        run(keyed, places=Places(lambda: nullcontext(Held(1, lambda: False)), lambda *_: 0))


def test_two_at_once(keyed: Warehouse, tmp_path: Path) -> None:
    fill(keyed, tmp_path)
    load_all(keyed)
    before = figures(keyed)
    lock = threading.Lock()

    @contextmanager
    def one_by_one() -> Iterator[Held]:
        with lock:
            yield Held(1, lambda: True)

    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(keyed, places=Places(one_by_one, lambda *_: 0))
        except BaseException as error:  # noqa: BLE001 (told below)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert_gone(keyed)
    assert figures(keyed) == before
    with writer(keyed) as connection:
        list_ = connection.execute(sa.select(tables.suppressed.c.kind, tables.suppressed.c.digest)).all()
    assert len(list_) == len(set(list_)) == 6


def test_the_list_keeps_the_stronger_mode_and_the_later_end(keyed: Warehouse) -> None:
    """Of two erasures of one address the one that began first may end last."""
    key = ErasureKey(KEY)
    rules = {
        "a": (Rule("erase", 2_000), Rule("pseudonymise", 1_000)),
        "b": (Rule("pseudonymise", 1_000), Rule("pseudonymise", 2_000)),
        "c": (Rule("pseudonymise", None), Rule("pseudonymise", 1_000)),
        "d": (Rule("pseudonymise", 1_000), Rule("erase", None)),
    }
    with writer(keyed) as connection, connection.begin():
        for turn in range(2):
            entries = [Entry(ADDRESS, digest, pair[turn]) for digest, pair in rules.items()]
            put_on_list(connection, BANK, entries, key, str(turn))
        listed = connection.execute(sa.select(tables.suppressed)).all()
    assert {row.digest: Rule(row.mode, None if row.until is None else to_ms(row.until)) for row in listed} == {
        "a": Rule("erase", 2_000),
        "b": Rule("pseudonymise", 2_000),
        "c": Rule("pseudonymise", None),
        "d": Rule("erase", None),
    }


@pytest.mark.parametrize("engine", ["duckdb"])
def test_files_in_an_object_store(make_warehouse: Callable[..., Warehouse]) -> None:
    with s3_server() as server:
        remote = make_warehouse(erasure_key=KEY, landing=server.new_folder())
        path = land(remote.landing_dir, *calls())
        name = path.relative_to(remote.landing_dir).as_posix()
        with remote.store.create(name) as file:
            file.write(path.read_bytes())
        origin = footer(remote.store, name)
        done = run(remote)
        assert (done.counts["landing files"], done.counts["landing rows"]) == (1, 12)
        assert footer(remote.store, name) == origin
        assert load_events(remote, run_id="r").files == 1
        assert run(remote).counts["landing files"] == 0
        path.write_bytes(remote.store.read(name))
    assert_gone(remote)


def test_without_its_key_nothing_is_loaded(make_warehouse: Callable[..., Warehouse]) -> None:
    keyless = make_warehouse()
    land(keyless.landing_dir, *calls())
    with pytest.raises(ConfigurationError, match=r"erasure\.key is missing .*token_hex"):
        run(keyless)
    load_events(keyless, run_id="r")  # with nobody on the list no key is needed
    run(replace(keyless, erasure_key=KEY))
    land(keyless.landing_dir, *calls())
    with pytest.raises(ConfigurationError, match=r"erasure\.key is missing"):
        load_events(keyless, run_id="r")
    other = replace(keyless, erasure_key=SecretStr("f" * 64))
    for work in (lambda: load_events(other, run_id="r"), lambda: run(other)):
        with pytest.raises(ConfigurationError, match="not the one by which"):
            work()


def test_what_can_not_be_done_is_said(keyed: Warehouse) -> None:
    land(keyed.landing_dir, *[queued("09:00:00", f"n{number}", ani="+4930 5000") for number in range(4)])
    broken = keyed.landing_dir / "raw" / "dt=2026-01-01" / "0-1-x.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1 and no more")
    odd = keyed.landing_dir / "quarantine"
    odd.mkdir()
    for column in ("timestamp", "payload", "metadata"):  # what loads set aside
        file = land(keyed.landing_dir, queued("09:00:00", "n0", ani="+4930 5000"))
        rows = pq.read_table(file, partitioning=None)
        place, kind = rows.schema.get_field_index(column), rows.schema.field(column).type
        without = rows.set_column(place, pa.field(column, kind), pa.nulls(len(rows), kind))
        pq.write_table(without, odd / f"{column}.parquet")
        file.unlink()
    request = Request(owner=BANK, address="+49305000", most_conversations=3)
    with pytest.raises(ConfigurationError, match="most_conversations"):
        erase(keyed, request, PLACES, run_id="run")

    @contextmanager
    def lost() -> Iterator[Held]:
        yield Held(1, lambda: False)

    with pytest.raises(FencedError, match="run again"):
        erase(keyed, replace(request, most_conversations=4), Places(lost, lambda *_: 0), run_id="run")
    done = erase(keyed, replace(request, most_conversations=4), PLACES, run_id="run")
    assert done.unreadable == (
        "raw/dt=2026-01-01/0-1-x.parquet",
        *(f"quarantine/{column}.parquet" for column in ("metadata", "payload", "timestamp")),
    )
    with writer(keyed) as connection:
        status = connection.execute(sa.select(tables.erasures.c.status)).scalars().all()
    assert sorted(status) == ["incomplete", "superseded"]


def test_every_column_that_may_be_personal_is_known() -> None:
    """A new table with a caller's address or with free text has to be cleaned too."""
    names = {"ani", "dnis", "payload", "metadata", "sample_topic"}
    found = {table.name for table in tables.metadata.sorted_tables if names & set(table.c.keys())}
    assert found == {"events", "reconciled_events", "conversations", "failed_events"}


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("tel:+49 (30) 99.88-77/66", DIGITS),
        (f"00{DIGITS}", DIGITS),
        (f"SIP:+{DIGITS}@voice.example;user=phone", DIGITS),
        (" Alma@Example.com ", "alma@example.com"),
        ("mailto:alma@example.com?subject=x", "alma@example.com"),
        ("030 99887766", "03099887766"),
        ("sip:alma@voice.example", "alma@voice.example"),
        ("tel: ", ""),
    ],
)
def test_forms_of_an_address(written: str, normal: str) -> None:
    assert normal_address(written) == normal


def test_a_started_event_of_an_unknown_type_of_row_keeps_its_facts(keyed: Warehouse) -> None:
    """Numbers and ids stay as they are even where an address is short."""
    land(keyed.landing_dir, *numbered([event(EventType.QUEUED, "09:00:00", "c1", queue="PS 1", ani="1", wait_ms=121)]))
    load_events(keyed, run_id="r")
    erase(keyed, Request(owner=BANK, conversation_ids=["c1"]), PLACES, run_id="run")
    with writer(keyed) as connection:
        row = connection.execute(sa.select(tables.events)).mappings().one()
    assert (row["ani"], row["queue_id"], row["wait_ms"]) == (None, "PS 1", 121)
    assert orjson.loads(row["payload"]) == {"conversation_id": "c1", "queue_id": "PS 1", "wait_ms": "121"}
