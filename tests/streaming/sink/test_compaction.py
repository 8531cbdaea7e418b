"""Compaction: the same rows in fewer files, whatever interrupts it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest

from devstack.python import python_environment
from schemas.promoted import KEY_ATTRIBUTE, PromotedField
from streaming.errors import FencedError
from streaming.settings import Settings
from streaming.sink.compaction import Limits, Step, clean_up, compact
from streaming.sink.expiry import expire_files
from streaming.sink.landing import CLUSTER_KEY, OFFSETS_KEY, LandingZone
from streaming.sink.landing_lease import Held
from streaming.sink.manifest import MANIFESTS, Manifest, Number, newest_manifest, write_manifest
from streaming.sink.run_compaction import run_compaction
from streaming.sink.store import LocalStore, Store
from streaming.state import open_state
from tests.streaming.sink.files import DAY_MS, MONDAY_MS, Row, land, row, rows_in, table_of
from warehouse.landing import list_files, quarantine
from warehouse.windows import Window

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()
SCORE = PromotedField("genesys_score", "genesys.score", "long")


def compacted(store: Store, scratch: Path, epoch: int = 1, **limits: int) -> list[Step]:
    limits_ = Limits(**{"min_rows": 10, **limits})
    return list(compact(store, epoch, TOMORROW, limits=limits_, scratch=scratch / "s", is_ours=lambda: True))


def a_day(store: Store, files: int = 6) -> list[str]:
    """Two tenants with a lot, some with little, events of other days and of none."""
    names = []
    for number in range(files):
        rows: list[Row] = []
        for offset in range(10 * number, 10 * number + 10):
            rows += [
                row(offset, tenant="north"),
                row(offset, tenant="south", partition=1, at=MONDAY_MS + DAY_MS * (offset % 2)),
            ]
        rows += [row(number, tenant=f"small-{number % 3}"), row(number, tenant="late", at=MONDAY_MS - 9 * DAY_MS)]
        rows += [row(number, tenant="odd", at=random.Random(number).choice([-5, 2**62, 4_070_908_800_000]))]
        rows += [row(100 + number, tenant="odd", tenant_id="../../x y")]
        names.append(land(store, rows))
    return names


def folders(store: Store) -> dict[str, int]:
    """Rows by folder."""
    found: Counter[str] = Counter()
    for file in newest_manifest(store).files:
        folder = file.name.rpartition("/")[0].removeprefix("compacted/")
        assert len(table_of(store, file.name)) == file.rows
        found[folder] += file.rows
    return dict(found)


def test_rows_move_to_their_tenants_and_days(store: Store, tmp_path: Path) -> None:
    raw = a_day(store)
    before = rows_in(store)
    (step,) = compacted(store, tmp_path)
    assert rows_in(store) == before
    assert sorted(step.sources) == sorted(raw)
    assert set(list_files(store, set())) == {file.name for file in step.files}
    assert folders(store) == {
        "vendor=genesys/tenant_id=north/date=2026-11-23": 60,
        "vendor=genesys/tenant_id=south/date=2026-11-23": 30,
        "vendor=genesys/tenant_id=south/date=2026-11-24": 30,
        "vendor=_several/tenant_id=_several/date=_several": 24,
    }
    assert compacted(store, tmp_path, epoch=2) == []
    assert rows_in(store) == before


def test_small_tenants_of_a_day_share_a_file_if_they_are_enough_together(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    for part in range(2):
        land(store, [row(part, tenant=f"t{number}") for number in range(8)])
    compacted(store, tmp_path)
    assert folders(store) == {"vendor=genesys/tenant_id=_several/date=2026-11-23": 16}


def test_a_thousand_tenants_make_no_thousand_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    chance = random.Random(1)
    total = 0
    for part in range(5):
        rows = [
            row(part, tenant=f"t{number}", at=MONDAY_MS + chance.randrange(-3000, 3000) * DAY_MS)
            for number in range(1000)
        ]
        total += len(rows)
        land(store, rows)
    before = rows_in(store)
    compacted(store, tmp_path, min_rows=100, file_rows=2000)
    assert rows_in(store) == before
    assert len(newest_manifest(store).files) <= 2 * total / 100 + 1 + total / 2000


def test_a_file_has_about_so_many_rows_at_most(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    for part in range(3):
        land(store, [row(60_000 * part + number, payload=[]) for number in range(60_000)])
    (step,) = compacted(store, tmp_path, file_rows=100_000)
    assert sum(file.rows for file in step.files) == 180_000
    assert all(file.rows < 150_000 for file in step.files)
    offsets = [table_of(store, file.name)["_offset"].to_pylist() for file in step.files]
    assert sorted(chain.from_iterable(offsets)) == list(range(180_000))
    assert all(part == sorted(part) for part in offsets)


def test_steps_are_bounded_and_each_counts_by_itself(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store, 7)
    before = rows_in(store)
    steps = compact(store, 1, TOMORROW, limits=Limits(10, step_files=3), scratch=tmp_path, is_ours=lambda: True)
    seen = []
    for step in steps:
        seen.append(len(step.sources))
        assert rows_in(store) == before
    assert seen == [3, 3]  # one file alone is left as it is
    land(store, [row(1000)])
    assert [len(step.sources) for step in compacted(store, tmp_path, epoch=2)] == [2]


def test_today_is_left_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    today = datetime.now(UTC).date()
    assert list(compact(store, 1, today, limits=Limits(), scratch=tmp_path, is_ours=lambda: True)) == []


def test_promoted_columns_go_along(store: Store, tmp_path: Path) -> None:
    land(store, [row(0)])
    land(store, [row(1, genesys_score=7), row(2, genesys_score=None)], [SCORE])
    before = rows_in(store)
    (step,) = compacted(store, tmp_path)
    assert rows_in(store) == before
    field = table_of(store, step.files[0].name).schema.field("genesys_score")
    assert field.metadata == {KEY_ATTRIBUTE.encode(): SCORE.key.encode()}


def test_what_can_t_be_read_or_has_other_columns_stays_raw(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store, 3)
    typed = land(store, [row(500, genesys_score=7)], [SCORE])
    other = land(store, [row(501, genesys_score="7")], [SCORE._replace(type="string")])
    broken = land(store, [row(502)])
    (store.folder / broken).write_bytes((store.folder / broken).read_bytes()[:-9])
    page = land(store, [row(number) for number in range(600, 700)])
    content = bytearray((store.folder / page).read_bytes())
    content[40:400] = bytes(360)
    (store.folder / page).write_bytes(content)
    (step,) = compacted(store, tmp_path)
    assert (typed in step.sources, other in step.sources) in ((True, False), (False, True))
    assert not {broken, page} & set(step.sources)
    assert {broken, page} < set(list_files(store, set()))


def test_what_was_replaced_goes_after_the_grace_period(store: Store, tmp_path: Path) -> None:
    raw = a_day(store)
    before = rows_in(store)
    old = list_files(store, set())
    compacted(store, tmp_path)
    assert clean_up(store, timedelta(hours=1)) == []
    assert rows_in(store, old) == before  # a load that began before goes on
    assert sorted(clean_up(store, timedelta(seconds=-5))) == sorted(raw)
    assert store.entries("raw") == []
    assert rows_in(store) == before
    assert [entry.name.rpartition("/")[0] for entry in store.entries(MANIFESTS)] == [MANIFESTS]
    land(store, [row(700)])
    land(store, [row(701)])
    compacted(store, tmp_path, epoch=2)
    assert set(newest_manifest(store).covered) & set(raw) == set()


def test_offsets_of_compacted_files_are_known(store: Store, tmp_path: Path) -> None:
    a_day(store)
    land(store, [row(9_000)], cluster="another")
    compacted(store, tmp_path)
    clean_up(store, timedelta(seconds=-5))
    land(store, [row(60), row(61)])
    zone = LandingZone(store, "k")
    zone.scan()
    assert zone.landed("ccaaus.events.genesys.north", 0) == 61
    assert zone.landed("ccaaus.events.genesys.south", 1) == 59
    assert zone.landed("ccaaus.events.genesys.other", 0) is None


def test_offsets_of_a_topic_that_was_made_anew_do_not_count(store: Store, tmp_path: Path) -> None:
    """Nor where they were compacted; those of files without an id count for each."""
    topic = "ccaaus.events.genesys.north"
    for incarnation, last in ((f"{topic}@first", 900), (f"{topic}@second", 30), (topic, 7)):
        land(store, [row(last - 1), row(last)], incarnations={topic: incarnation})
    for compacts in (False, True):
        if compacts:
            compacted(store, tmp_path)
            clean_up(store, timedelta(seconds=-5))
        zone = LandingZone(store, "k")
        zone.scan()
        landed = {life: zone.landed(f"{topic}@{life}", 0) for life in ("first", "second", "third")}
        assert landed == {"first": 900, "second": 30, "third": 7}
        assert zone.landed_before(f"{topic}@second", 0) == 900
        assert zone.landed_before(f"{topic}@first", 0) == 30


def test_offsets_are_in_the_file_once_and_those_of_earlier_files_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    name = land(store, [row(4)])
    table = table_of(store, name)
    with store.open(name) as file:
        metadata = pq.read_metadata(file).metadata
    assert orjson.loads(metadata[OFFSETS_KEY]) == {row(4)["_topic"]: {"0": [4, 4]}}
    assert table.schema.metadata is None
    earlier = table.replace_schema_metadata({key: metadata[key] for key in (OFFSETS_KEY, CLUSTER_KEY)})
    with store.create(f"{name}.parquet") as file:
        pq.write_table(earlier, file)
    store.delete(name)
    land(store, [row(2)])
    zone = LandingZone(store, "k")
    zone.scan()
    assert zone.landed(row(4)["_topic"], 0) == 4
    (step,) = compacted(store, tmp_path)
    assert len(step.sources) == 2
    assert newest_manifest(store).offsets == {"k": {row(4)["_topic"]: {0: 4}}}


def test_files_that_expired_are_named_no_longer_and_those_set_aside_are(store: Store, tmp_path: Path) -> None:
    a_day(store)
    (step,) = compacted(store, tmp_path)
    expired, broken, *_ = (file.name for file in step.files)
    store.delete(expired)
    aside = quarantine(store, broken, "test")
    for number in range(2):
        land(store, [row(800 + number)])
    (later,) = compacted(store, tmp_path, epoch=2)
    named = {file.name for file in newest_manifest(store).files}
    assert named == {file.name for file in (*step.files, *later.files)} - {expired}
    store.move(aside, broken)
    clean_up(store, timedelta(seconds=-5))
    assert broken in list_files(store, set())


def test_a_writer_that_was_held_up_changes_nothing(tmp_path: Path) -> None:
    """Its lease ended while it was still at work; the next holder's manifest counts, whichever is written last."""
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    before = rows_in(store)
    is_ours = iter([False])
    slow = compact(store, 1, TOMORROW, limits=Limits(10), scratch=tmp_path / "1", is_ours=lambda: next(is_ours))
    with pytest.raises(FencedError):
        next(slow)
    assert newest_manifest(store) == Manifest()
    compacted(store, tmp_path, epoch=2)
    write_manifest(store, Manifest(Number(1, 9)))
    assert rows_in(store) == before
    assert clean_up(store, timedelta(hours=1)) == []
    assert rows_in(store) == before


def test_what_has_expired_stays_so_when_an_earlier_compaction_goes_on(tmp_path: Path) -> None:
    """It was held up between its last look at the lease and its manifest."""
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    far = datetime.now(UTC) + timedelta(days=2)
    expired: list[int] = []

    def held_up() -> bool:
        due = expire_files(store, far, lambda _: True, timedelta(hours=1), Held(8, lambda: True))
        expired.append(due.files)
        return True

    next(compact(store, 7, TOMORROW, limits=Limits(10), scratch=tmp_path / "s", is_ours=held_up))
    assert expired == [6]
    assert list_files(store, set()) == []


def test_an_expiry_that_was_held_up_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    before = rows_in(store)

    def held_up() -> bool:
        compacted(store, tmp_path, epoch=8)
        return True

    far = datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(FencedError, match="run again"):
        expire_files(store, far, lambda _: True, timedelta(hours=1), Held(7, held_up))
    assert rows_in(store) == before
    with pytest.raises(FencedError, match="at the landing files now"):
        expire_files(store, far, lambda _: True, timedelta(hours=1), Held(7, lambda: False))
    assert rows_in(store) == before


def test_a_lost_state_database_makes_no_manifest_that_nobody_reads(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    compacted(store, tmp_path, epoch=7)
    names = [land(store, [row(800)]), land(store, [row(801)])]
    (step,) = compacted(store, tmp_path, epoch=1)
    assert list(step.sources) == sorted(names)
    assert newest_manifest(store).number.epoch == 8


def test_a_window_leaves_out_what_has_none_of_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    compacted(store, tmp_path)
    raw = land(store, [row(900)])
    tuesday = datetime(2026, 11, 24, tzinfo=UTC)
    found = list_files(store, set(), Window(tuesday, tuesday + timedelta(days=1)))
    assert raw in found
    assert {name.split("/")[3] for name in found[:-1]} == {"date=2026-11-24", "date=_several"}


def test_folders_are_read_by_duckdb_as_they_are(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    compacted(store, tmp_path)
    query = "SELECT count(*) FROM read_parquet($1, hive_partitioning => true) WHERE date = '2026-11-24'"
    assert duckdb.execute(query, [f"{store.folder}/compacted/*/*/*/*.parquet"]).fetchall() == [(30,)]


_KILLED = """
import os, sys
from datetime import date, timedelta
from pathlib import Path
from streaming.sink import store as stores
from streaming.sink.compaction import Limits, clean_up, compact

left = int(sys.argv[3])

def step():
    global left
    if left == 0:
        os._exit(9)
    left -= 1

class Dying(stores.LocalStore):
    def create(self, name):
        step()
        block = super().create(name)
        class Block:
            def __enter__(self):
                self.file = block.__enter__()
                return self.file
            def __exit__(self, *error):
                self.file.flush()
                step()
                try:
                    return block.__exit__(*error)
                finally:
                    step()
        return Block()

    def delete(self, name):
        step()
        super().delete(name)

store = Dying(Path(sys.argv[1]))
clean_up(store, timedelta(seconds=float(sys.argv[4])))
list(compact(store, int(sys.argv[5]), date.fromisoformat(sys.argv[6]), limits=Limits(10, step_files=3),
             scratch=Path(sys.argv[2]), is_ours=lambda: True))
"""


def _run_until(store: LocalStore, scratch: Path, steps: int, grace_s: float, epoch: int) -> int:
    arguments = [store.folder, scratch, steps, grace_s, epoch, TOMORROW]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, arguments)],
        env=python_environment(),
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


def _points(store: LocalStore, scratch: Path) -> Iterator[int]:
    """Killed at the first step, then at the second, and so on, until it is not killed any more."""
    for steps in range(100):
        yield steps
        if _run_until(store, scratch, steps, 3600, steps + 1) == 0:
            return


def test_killed_at_any_point_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "zone")
    a_day(store)
    before = rows_in(store)
    points = 0
    for _ in _points(store, tmp_path):
        assert rows_in(store) == before
        points += 1
    assert points > 10
    assert rows_in(store) == before
    # Deletion too, of what the killed ones left and of what was replaced.
    epoch = 1000
    while _run_until(store, tmp_path, 2, -5, epoch) != 0:
        assert rows_in(store) == before
        epoch += 1
    assert rows_in(store) == before
    assert store.entries("raw") == []
    counting = {file.name for file in newest_manifest(store).files}
    assert {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*.parquet")} == counting


def test_two_at_once_under_one_lease(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, sink={"compact_min_rows": 10}, state={"lease_ttl_seconds": 1})
    store = LocalStore(tmp_path / "landing")
    raw = a_day(store)
    before = rows_in(store)
    open_state(settings.state_url).dispose()
    with ThreadPoolExecutor(3) as runs:
        done = list(runs.map(lambda _: run_compaction(settings, TOMORROW), range(3)))
    sources = [name for found in done if found for step in found.steps for name in step.sources]
    assert sorted(sources) == sorted(raw)
    assert rows_in(store) == before
    assert not list((tmp_path / "scratch").glob("*"))
