from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from devstack.postgres import temporary_postgres
from streaming.lease import LeaseKeeper
from streaming.state import CursorMove, CursorStore, metadata, open_state

TTL = 0.6


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with temporary_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    is_sqlite = request.param == "sqlite"
    engine = open_state(f"sqlite:///{tmp_path}/state.db" if is_sqlite else request.getfixturevalue("postgres_url"))
    yield engine
    metadata.drop_all(engine)
    engine.dispose()


def until(condition: Callable[[], object], seconds: float = 6.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def keeper(engine: sa.Engine, *names: str, at_most: int | None = None, inherits: bool = False) -> LeaseKeeper:
    made = LeaseKeeper(engine, names, ttl=TTL, at_most=at_most, inherits=inherits)
    made.start()
    return made


def test_one_holds_and_the_other_takes_over_after_silence(engine: sa.Engine) -> None:
    first = keeper(engine, "a")
    until(lambda: first.epoch("a") == 1)
    second = keeper(engine, "a")
    time.sleep(2 * TTL)
    assert first.epoch("a") == 1
    assert second.epoch("a") is None
    first._stop.set()  # as a killed process: it stops renewing and gives nothing back
    until(lambda: second.epoch("a") == 2)
    until(lambda: first.epoch("a") is None)
    second.close()


def test_a_lease_given_back_is_taken_at_once(engine: sa.Engine) -> None:
    first, second = keeper(engine, "a"), keeper(engine, "a")
    until(lambda: first.held() or second.held())
    holder, other = (first, second) if first.held() else (second, first)
    holder.close()
    until(lambda: other.epoch("a") == 2)
    other.close()


def test_members_get_different_slots_and_one_too_many_stands_by(engine: sa.Engine) -> None:
    members = [keeper(engine, "slot/0", "slot/1", at_most=1) for _ in range(3)]
    until(lambda: sum(len(member.held()) for member in members) == 2)
    time.sleep(2 * TTL)
    held = [name for member in members for name in member.held()]
    assert sorted(held) == ["slot/0", "slot/1"]
    for member in members:
        member.close()


def test_the_slot_of_a_killed_member_goes_before_one_that_nobody_had(engine: sa.Engine) -> None:
    slots = [f"slot/{number}" for number in range(4)]
    first = keeper(engine, *slots, at_most=1, inherits=True)
    until(lambda: first.held() == {"slot/0": 1})
    second = keeper(engine, *slots, at_most=1, inherits=True)
    until(lambda: second.held() == {"slot/1": 1})
    first._stop.set()  # as a killed process
    third = keeper(engine, *slots, at_most=1, inherits=True)
    until(lambda: third.held() == {"slot/0": 2})
    fourth = keeper(engine, *slots, at_most=1, inherits=True)
    until(lambda: fourth.held() == {"slot/2": 1})
    assert (second.held(), third.held()) == ({"slot/1": 1}, {"slot/0": 2})
    for member in (second, third, fourth):
        member.close()


def test_a_cursor_is_written_only_under_the_current_epoch(engine: sa.Engine) -> None:
    holder = keeper(engine, "a")
    until(lambda: holder.epoch("a") == 1)
    cursors = CursorStore(engine, "genesys")
    assert cursors.read("t", "sse") is None
    assert cursors.write([CursorMove("t", "sse", "5", "a", 1)]) == set()
    assert cursors.write([CursorMove("t", "sse", "6", "a", 1)]) == set()
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE lease SET epoch = 2, holder = 'other' WHERE name = 'a'"))
    assert cursors.write([CursorMove("t", "sse", "7", "a", 1)]) == {"t"}
    assert cursors.read("t", "sse") == "6"
    holder.close()
