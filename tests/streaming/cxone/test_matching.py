"""Expected against seen, by number alone: pairs, ways, and what explains a gap."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.canonical import CanonicalEvent, EventType, event_id
from streaming.vendors.cxone.expected import Native
from streaming.vendors.cxone.matching import BadRow, Matching, Source

NINE_MS = 1_795_424_400_000


def event(kind: EventType, ms: int, contact: str = "c", **payload: str) -> CanonicalEvent:
    values = {"conversation_id": contact, **payload}
    return {
        "event_id": event_id("cxone", "t", kind, NINE_MS + ms, values), "vendor": "cxone", "tenant_id": "t",
        "timestamp": NINE_MS + ms, "event_type": str(kind), "payload": values, "metadata": {},
    }  # fmt: skip


def queued(ms: int, **more: Any) -> CanonicalEvent:
    return event(EventType.QUEUED, ms, queue_id="PS", **more)


@pytest.fixture
def matching() -> Iterator[Matching]:
    made = Matching(5000)
    yield made
    made.close()


def expect(matching: Matching, *natives: Native, contact: str = "c") -> None:
    matching.add_contacts([(contact, {"contactId": contact})])
    number = {row["contactId"]: number for number, row, _ in matching.contacts()}[contact]
    matching.expect(number, list(natives), 0)


def most(wanted: list[int], there: list[int]) -> int:
    """Pairs that can be made, by trying all."""
    if not wanted:
        return 0
    head, *rest = wanted
    options = [1 + most(rest, [ms for ms in there if ms != other]) for other in there if abs(other - head) <= 5000]
    return max(most(rest, there), *options, 0)


@pytest.mark.parametrize("seed", range(40))
def test_as_many_are_found_as_can_be(matching: Matching, seed: int) -> None:
    chance = random.Random(seed)
    wanted = sorted(chance.sample(range(0, 30_000, 1000), chance.randint(1, 5)))
    there = sorted(ms + chance.randrange(1000) for ms in chance.sample(range(0, 30_000, 1000), chance.randint(0, 5)))
    expect(matching, *(Native("QUEUE_ENTERED", [queued(ms)]) for ms in wanted))
    for ms in there:  # each twice, and by several ways
        matching.see([queued(ms), queued(ms)], Source.PUSHED)
        matching.see([queued(ms)], Source.SPOOL)

    tally = matching.settle()

    assert tally.found[Source.PUSHED]["conversation.queued"] == most(wanted, there)
    assert tally.missing["conversation.queued"] == len(wanted) - most(wanted, there)
    assert tally.found[Source.SPOOL].total() == 0


def test_another_queue_or_contact_is_another_event(matching: Matching) -> None:
    expect(matching, Native("QUEUE_ENTERED", [queued(0)]))
    matching.see([queued(0, contact="d"), event(EventType.QUEUED, 0, queue_id="NW")], Source.PUSHED)
    assert matching.settle().missing.total() == 1


def test_start_and_end_match_whatever_their_time(matching: Matching) -> None:
    expect(matching, Native("CALL_STARTED", [event(EventType.STARTED, 0)]))
    matching.see([event(EventType.STARTED, 3_600_000)], Source.PUSHED)
    assert matching.settle().missing.total() == 0


def test_many_contacts_come_back_with_what_they_lack(matching: Matching) -> None:
    """More than one chunk of everything."""
    rows = [(f"c{number}", {"contactId": f"c{number}"}) for number in range(12_000)]
    matching.add_contacts(rows)
    for number, row, _ in matching.contacts():
        contact = row["contactId"]
        natives = [Native("CALL_STARTED", [event(EventType.STARTED, 0, contact)])]
        natives.append(Native("QUEUE_ENTERED", [queued(0, contact=contact)]))
        matching.expect(number, natives, 0)
    matching.see((queued(0, contact=contact) for contact, _ in rows[:-2]), Source.PUSHED)

    tally = matching.settle()

    assert tally.expected.total() == 24_000
    assert tally.missing == {"conversation.started": 12_000, "conversation.queued": 2}
    lacking = {row["contactId"]: places for row, _, places in matching.missing()}
    assert len(lacking) == 12_000
    assert lacking["c0"] == {(0, 0)}
    assert lacking["c11999"] == {(0, 0), (1, 0)}


@pytest.mark.parametrize(
    ("source", "missing"), [(Source.PUSHED, 0), (Source.SPOOL, 0), (Source.DEFERRED, 1), (Source.RECONCILED, 1)]
)
def test_the_vendors_own_message_is_believed(matching: Matching, source: Source, missing: int) -> None:
    ended, wrapup = event(EventType.ENDED, 0), event(EventType.WRAPUP, 0, queue_id="PS", agent_id="A")
    expect(matching, Native("CALL_ENDED", [wrapup, ended]))
    matching.see([ended], source)
    tally = matching.settle()
    assert tally.missing.total() == missing
    assert tally.expected.total() == 1 + missing


def test_a_dead_letter_that_came_twice_stands_for_one_event(matching: Matching) -> None:
    expect(matching, Native("QUEUE_ENTERED", [queued(0)]), Native("QUEUE_ENTERED", [queued(20_000)]))
    for body in (b"a", b"a"):
        matching.see_dead("c", "QUEUE_ENTERED", body)
    tally = matching.settle()
    assert (tally.dead.total(), tally.missing.total()) == (1, 1)


def test_a_row_is_bad_once(matching: Matching) -> None:
    bad = BadRow(b"{}", "m", "r", "p")
    matching.add_bad([bad, bad, BadRow(b"[]", "m", "r", "p")])
    matching.know_bad(b"[]")
    assert list(matching.new_bad()) == [bad]
