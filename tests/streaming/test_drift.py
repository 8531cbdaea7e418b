"""What services notice, and how it is told, on a real state database of either kind."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import streaming.announce
import streaming.drift
import streaming.drift_store
from devstack.postgres import temporary_postgres
from schemas.canonical import CanonicalEvent
from streaming.announce import Announcement, Announcer, announcing, shown_tenants
from streaming.deadletter import dead_letter_headers
from streaming.drift import DriftWatch, dropped
from streaming.drift_store import MORE, DriftKind, DriftStore, Finding
from streaming.errors import BadEventError
from streaming.instants import HOUR_MS
from streaming.settings import Settings, Tenant
from streaming.state import drift, open_state
from tests.processes import until

NORTH = Tenant(tenant_id="north", vendor="genesys")
EAST = Tenant(tenant_id="east", vendor="genesys")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with temporary_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    url = sa.make_url(request.getfixturevalue("postgresql")).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"s{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def engine(state_url: str) -> Iterator[sa.Engine]:
    made = open_state(state_url)
    yield made
    made.dispose()


def event(*fields: str, native: str = "v2.x") -> CanonicalEvent:
    return {
        "event_id": "e", "vendor": "genesys", "tenant_id": "north", "timestamp": 1, "event_type": "conversation.queued",
        "payload": {}, "metadata": {"ccaas.native_type": native, **{f"genesys.{field}": "v" for field in fields}},
    }  # fmt: skip


def fail(
    watch: DriftWatch, path: str = "queueId", *, tenant: Tenant = NORTH, reason: str = "missing_field",
    value: bytes | None = b"{}",
) -> None:  # fmt: skip
    headers = dead_letter_headers(
        BadEventError(f"{path}: no", reason=reason, path=path), stage="normalise", transport="sse"
    )
    watch.see_dead_letter(tenant, value, headers)


def rows(engine: sa.Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(drift.c.tenant_id, drift.c.kind, drift.c.what))
        return sorted((tenant_id, kind, what) for tenant_id, kind, what in found)


def finding(
    what: str,
    tenant: str = "north",
    vendor: str = "genesys",
    ago_ms: int = 0,
    kind: DriftKind = DriftKind.FAILURE,
) -> Finding:
    noticed = time.time_ns() // 1_000_000 - ago_ms
    return Finding(vendor, tenant, kind, what, noticed - noticed % HOUR_MS, "{}", noticed)


@pytest.fixture
def same_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test at the turn of the hour would see two hours: an hour without end makes it one."""
    monkeypatch.setattr(streaming.drift, "HOUR_S", 10**9)
    monkeypatch.setattr(streaming.drift_store, "HOUR_MS", 10**12)


def test_the_first_event_with_a_field_is_noticed_once(state_url: str, engine: sa.Engine) -> None:
    watch = DriftWatch(state_url)
    for _ in range(3):
        watch.see_event(NORTH, event("a", "b"))
        watch.see_event(NORTH, event("b"))
        watch.see_event(EAST, event("a"))
    watch.close()
    after_restart = DriftWatch(state_url)
    after_restart.see_event(NORTH, event("b", "c"))
    after_restart.close()
    assert rows(engine) == [
        ("east", "unmapped_field", "genesys.a"),
        ("north", "unmapped_field", "genesys.a"),
        ("north", "unmapped_field", "genesys.b"),
        ("north", "unmapped_field", "genesys.c"),
    ]
    (sample,) = {row.sample for row in DriftStore(engine).untold(10)}
    assert sample == '{"native_type":"v2.x"}', "a value may be a person's"


def test_the_first_failure_of_a_kind_within_an_hour_is_noticed(
    state_url: str, engine: sa.Engine, same_hour: None
) -> None:
    watch = DriftWatch(state_url)
    for number in range(50):
        fail(watch, f"[{number}].contactId")
        fail(watch, "queueId", value=b'{"topicName": "v2.users.x.y"}')
        fail(watch, "queueId", tenant=EAST, value=None)
        fail(watch, "", reason="unparsable")
        fail(watch, "nul\x00", value=b"\xff")
    watch.close()
    assert rows(engine) == [
        ("east", "failure", "normalise missing_field queueId"),
        ("north", "failure", "normalise missing_field [].contactId"),
        ("north", "failure", "normalise missing_field nul"),
        ("north", "failure", "normalise missing_field queueId"),
        ("north", "failure", "normalise unparsable"),
    ]


def test_the_next_hour_it_is_noticed_again(state_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = DriftWatch(state_url)
    fail(watch)
    monkeypatch.setattr(streaming.drift, "HOUR_S", 60)
    fail(watch)
    watch.close()
    assert len(rows(engine)) == 2


def test_ids_as_field_names_flood_nothing(state_url: str, engine: sa.Engine, same_hour: None) -> None:
    watch = DriftWatch(state_url)
    before = dropped._value.get()
    for number in range(10_000):
        watch.see_event(NORTH, event(f"id{number}"))
        fail(watch, f"path{number}")
    watch.close()
    found = rows(engine)
    assert len([what for _, kind, what in found if kind == "unmapped_field" and what != MORE]) == 50
    assert len([what for _, kind, what in found if kind == "failure" and what != MORE]) == 20
    assert [(kind, what) for _, kind, what in found if what == MORE] == [("failure", MORE), ("unmapped_field", MORE)]
    assert dropped._value.get() > before, "the queue is bounded"


def test_what_found_no_room_is_noticed_later(
    state_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, same_hour: None
) -> None:
    monkeypatch.setattr(streaming.drift, "_WRITE_EVERY_S", 0.05)
    watch = DriftWatch(state_url)
    for number in range(60):
        watch.see_event(NORTH, event(f"f{number}"))
    until(lambda: len(rows(engine)) == 51, 10, "as many as an hour takes")
    monkeypatch.setitem(streaming.drift_store._PER_HOUR, DriftKind.UNMAPPED_FIELD, 100)

    def all_noticed() -> bool:
        watch.see_event(NORTH, event(*[f"f{number}" for number in range(60)]))
        return len(rows(engine)) == 61

    until(all_noticed, 10, "the rest is noticed when it recurs")
    watch.close()


def test_a_tenants_fields_are_bounded_for_ever(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.drift_store, "_MAX_FIELDS", 3)
    store = DriftStore(engine)
    now = time.time_ns() // 1_000_000
    fields = [
        Finding("genesys", "north", DriftKind.UNMAPPED_FIELD, f"f{number}", 0, "{}", now - number * HOUR_MS)
        for number in range(5)
    ]
    for field in fields:
        store.note([field])
    assert len([row for row in rows(engine) if row[2] != MORE]) == 3


def test_with_the_database_down_findings_wait(
    state_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming.drift, "_WRITE_EVERY_S", 0.05)
    hidden = "drift_elsewhere"
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE drift RENAME TO {hidden}"))
        # In the way, so that it is not made anew.
        connection.execute(sa.text("CREATE TABLE drift (unlike TEXT)"))
    watch = DriftWatch(state_url)
    watch.see_event(NORTH, event("a"))
    tried = threading.Event()
    write = watch._write

    def write_and_say() -> None:
        write()
        tried.set()

    monkeypatch.setattr(watch, "_write", write_and_say)
    until(tried.is_set, 10, "it was tried")
    assert len(watch._waiting) == 1
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE drift"))
        connection.execute(sa.text(f"ALTER TABLE {hidden} RENAME TO drift"))
    until(lambda: len(rows(engine)) == 1, 10, "it is written once it can be")
    watch.close()


class Listener:
    """Hears what is told; deaf on request."""

    def __init__(self) -> None:
        self.heard: list[Announcement] = []
        self.is_deaf = False

    def __call__(self, announcement: Announcement) -> None:
        if self.is_deaf:
            raise ConnectionError
        self.heard.append(announcement)


def test_one_message_for_all_tenants_and_none_again_within_the_hour(engine: sa.Engine) -> None:
    store, listener = DriftStore(engine), Listener()
    store.note([finding("k", tenant) for tenant in ("south", "north", "east")])
    announcer = Announcer(engine, listener)
    assert announcer.step() == 1
    (told,) = listener.heard
    assert (told.vendor, told.kind, told.what, told.tenants) == ("genesys", "failure", "k", ("east", "north", "south"))
    assert announcer.step() == 0
    store.note([finding("k", "west"), finding("k", "north", ago_ms=-HOUR_MS)])
    assert Announcer(engine, listener).step() == 0, "tenants that follow are part of it, also after a restart"
    assert store.untold(10) == []
    store.note([finding("other")])
    assert announcer.step() == 1


def test_after_an_hour_it_is_told_again(engine: sa.Engine) -> None:
    store, listener = DriftStore(engine), Listener()
    first = finding("k", ago_ms=2 * HOUR_MS)
    store.note([first])
    store.mark_told([first], first.noticed_ms)
    # A row that joined the message later does not keep the next one back.
    joined = finding("k", ago_ms=HOUR_MS)
    store.note([joined])
    store.mark_told([joined], first.noticed_ms)
    store.note([finding("k")])
    assert Announcer(engine, listener).step() == 1


def test_ten_messages_an_hour_and_one_that_there_are_more(engine: sa.Engine) -> None:
    store, listener = DriftStore(engine), Listener()
    store.note([finding(f"k{number}", f"t{number % 3}", ago_ms=1_000 - number) for number in range(15)])
    store.note([finding("k", vendor="cxone")])
    assert Announcer(engine, listener).step() == 12
    assert [told.what for told in listener.heard if told.vendor == "genesys"] == [f"k{n}" for n in range(10)] + [MORE]
    assert [told.kind for told in listener.heard if told.what == MORE] == ["more"]
    store.note([finding("yet another")])
    assert Announcer(engine, listener).step() == 0
    assert store.untold(10) == []


def test_fields_that_come_together_are_one_message_and_keep_no_failure_back(engine: sa.Engine) -> None:
    store, listener = DriftStore(engine), Listener()
    fields = [finding(f"genesys.f{n:02}", kind=DriftKind.UNMAPPED_FIELD, ago_ms=1_000 - n) for n in range(25)]
    store.note([*fields, finding("k")])
    announcer = Announcer(engine, listener)
    assert announcer.step() == 2
    by_kind = {told.kind: told.what for told in listener.heard}
    named = ", ".join(f"genesys.f{number:02}" for number in range(10))
    assert by_kind == {"unmapped_field": f"{named} and 15 more", "failure": "k"}
    for number in range(12):
        store.note([finding(f"genesys.later{number}", kind=DriftKind.UNMAPPED_FIELD)])
        announcer.step()
    told = [item for item in listener.heard if item.kind != "failure"]
    assert [item.what for item in told[1:]] == [f"genesys.later{number}" for number in range(9)] + [MORE]
    store.note([finding("another")])
    assert announcer.step() == 1


def test_what_was_not_heard_is_told_again_as_the_same_message(engine: sa.Engine) -> None:
    store, listener = DriftStore(engine), Listener()
    store.note([finding("k")])
    announcer = Announcer(engine, listener)
    listener.is_deaf = True
    with pytest.raises(ConnectionError):
        announcer.step()
    assert len(store.untold(10)) == 1
    listener.is_deaf = False
    # Killed between the telling and its note: both messages are one event.
    marked = store.untold(10)
    announcer.step()
    with engine.begin() as connection:
        connection.execute(sa.update(drift).values(told_ms=None))
    store.note([marked[0]._replace(tenant_id="south", noticed_ms=marked[0].noticed_ms + 1)])
    Announcer(engine, listener).step()
    first, again = listener.heard
    assert first.id == again.id
    assert again.tenants == ("north", "south")


def test_two_processes_tell_once(state_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.announce, "_EVERY_S", 0.05)
    monkeypatch.setattr(streaming.announce, "_LEASE_TTL_S", 1.0)
    listener = Listener()
    settings = Settings(state={"url": state_url})
    store = DriftStore(engine)
    with announcing(settings, listener), announcing(settings, listener):
        for number in range(9):
            store.note([finding(f"k{number}")])
            until(lambda: store.untold(1) == [], 20, "told")
    assert sorted(told.what for told in listener.heard) == [f"k{number}" for number in range(9)]


def test_telling_goes_on_after_a_failure(state_url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.announce, "_EVERY_S", 0.05)
    listener = Listener()
    listener.is_deaf = True
    DriftStore(engine).note([finding("k")])
    deaf = threading.Event()

    def tell(announcement: Announcement) -> None:
        try:
            listener(announcement)
        finally:
            deaf.set()

    with announcing(Settings(state={"url": state_url}), tell):
        until(deaf.is_set, 20, "it was tried")
        listener.is_deaf = False
        until(lambda: len(listener.heard) == 1, 20, "told after all")


def test_old_failures_are_deleted_and_fields_stay(engine: sa.Engine) -> None:
    store = DriftStore(engine)
    month = 31 * 24 * HOUR_MS
    field = finding("f", ago_ms=month)._replace(kind=DriftKind.UNMAPPED_FIELD, hour_ms=0)
    store.note([finding("old", ago_ms=month), finding("new"), field])
    Announcer(engine, Listener()).step()
    assert [what for _, _, what in rows(engine)] == ["new", "f"]


@pytest.mark.parametrize(("tenants", "shown"), [(20, 20), (21, 21), (50, 21)])
def test_many_tenants_are_a_count(tenants: int, shown: int) -> None:
    names = tuple(f"t{number:02}" for number in range(tenants))
    told = Announcement(uuid.uuid4(), "genesys", "failure", "k", names, 1, {})
    found = shown_tenants(told)
    assert len(found) == shown
    assert (found[-1] == f"and {tenants - 20} more") == (tenants > 20)


def test_what_was_seen_costs_no_more_than_a_look_up() -> None:
    """No state database and no thread is touched by events whose fields are known."""
    watch = DriftWatch("sqlite:////nowhere/state.db")
    known: Callable[[], None] = lambda: watch.see_event(NORTH, event())  # noqa: E731
    for _ in range(3):
        known()
    assert watch._thread is None
