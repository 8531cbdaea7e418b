"""A state does not depend on the order of events, on repetitions, or on who folds what."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.simulators.crm_log import Call, Effect, EffectLog
from devstack.simulators.crm_log import Entity as CrmEntity
from schemas.canonical import CanonicalEvent, EventType
from streaming.crm.fold import Change, fold
from streaming.errors import BadEventError
from tests.streaming.crm.support import plain

_VALUES = st.sampled_from(["a", "b", "c"])


@st.composite
def events(draw: st.DrawFn) -> CanonicalEvent:
    """Few conversations, agents and instants, so that all meet; two copies of an id may even differ."""
    event_type = draw(st.sampled_from([*EventType, "conversation.unheard_of"]))
    name = "agent_id" if event_type.startswith("agent.") else "conversation_id"
    keys = st.sampled_from(["queue_id", "agent_status", "outcome", "wait_ms", "talk_ms", "end_reason", "media_type"])
    return {
        "event_id": f"e-{draw(st.integers(0, 5))}", "vendor": "genesys", "tenant_id": "t",
        "timestamp": draw(st.integers(0, 3)), "event_type": event_type,
        "payload": {**draw(st.dictionaries(keys, _VALUES)), name: draw(_VALUES)}, "metadata": {},
    }  # fmt: skip


@given(st.lists(events(), max_size=12), st.randoms(use_true_random=False))
def test_order_repetitions_and_members_do_not_matter(given_events: list[CanonicalEvent], chance: random.Random) -> None:
    changes = [Change.of(event) for event in given_events]
    whole = fold(changes)
    shuffled = [*changes, *chance.choices(changes, k=4)] if changes else []
    chance.shuffle(shuffled)
    assert fold(shuffled) == whole
    # Two members that each see some of a conversation's events; who reads both of their records has the whole.
    half = [change for change in shuffled if chance.random() < 0.5]
    rest = [change for change in shuffled if change not in half]
    assert fold([*rest, *half]) == whole


@given(st.lists(events(), max_size=12))
def test_what_is_written_is_what_is_read(given_events: list[CanonicalEvent]) -> None:
    changes = [Change.of(event) for event in given_events]
    assert [Change.read(change.document()) for change in changes] == changes


def _rule(changes: list[Change]) -> dict[tuple[str, ...], dict[str, str]]:
    """The rule as one would say it: of each field the newest value."""
    states: dict[tuple[str, ...], dict[str, str]] = {}
    for change in sorted(changes, key=lambda change: (change.version, sorted(change.fields.items()))):
        if change.fields:
            states.setdefault(tuple(change.entity), {}).update(change.fields)
    return states


@given(st.lists(events(), max_size=12, unique_by=lambda event: event["event_id"]))
def test_the_newest_wins_field_by_field(given_events: list[CanonicalEvent]) -> None:
    changes = [Change.of(event) for event in given_events]
    assert plain(fold(changes)) == _rule(changes)


@given(st.lists(events(), max_size=10, unique_by=lambda event: event["event_id"]))
def test_the_simulated_crm_folds_alike(
    tmp_path_factory: pytest.TempPathFactory, given_events: list[CanonicalEvent]
) -> None:
    changes = [Change.of(event) for event in given_events]
    file = tmp_path_factory.mktemp("fold") / "crm.db"
    with EffectLog(file) as log:
        effects = [
            Effect(
                CrmEntity(*change.entity),
                change.event_type,
                change.version.timestamp,
                change.version.step,
                change.fields,
            )
            for change in changes
        ]
        keys = [change.version.event_id for change in changes]
        log.write([Call(key, effect) for key, effect in zip(keys, effects, strict=True)])
        assert {tuple(entity): fields for entity, fields in log.states().items()} == plain(fold(changes))


def event(event_type: EventType, timestamp: int, id_: str, **payload: str) -> CanonicalEvent:
    return {
        "event_id": id_, "vendor": "cxone", "tenant_id": "t", "timestamp": timestamp, "event_type": event_type,
        "payload": {"conversation_id": "c", **payload}, "metadata": {},
    }  # fmt: skip


def state(*given_events: CanonicalEvent) -> dict[str, str]:
    (found,) = plain(fold(map(Change.of, given_events))).values()
    return found


def test_of_one_instant_the_later_step_of_a_contact_wins() -> None:
    """Times are often whole seconds: queued and assigned at once, handled and ended at once."""
    queued = event(EventType.QUEUED, 1000, "z", queue_id="q")
    assigned = event(EventType.ASSIGNED, 1000, "y", queue_id="q", agent_id="a", wait_ms="0")
    assert state(assigned, queued)["status"] == "assigned"
    ended = event(EventType.ENDED, 1000, "a", end_reason="CLIENT")
    assert state(ended, assigned, queued)["status"] == "ended"


def test_work_after_the_call_leaves_it_ended() -> None:
    ended = event(EventType.ENDED, 1000, "a")
    wrapup = event(EventType.WRAPUP, 9000, "b", acw_ms="8000", agent_id="a")
    assert state(wrapup, ended) == {
        "status": "ended", "ended_at": "1000", "wrapup_at": "9000", "acw_ms": "8000", "agent_id": "a",
    }  # fmt: skip


def test_an_agent_has_the_newest_status() -> None:
    said: list[CanonicalEvent] = [
        {**event(EventType.STATUS_CHANGED, at, status), "payload": {"agent_id": "a", "agent_status": status}}
        for at, status in ((2000, "IDLE"), (1000, "INTERACTING"))
    ]
    assert state(*said) == {"status": "IDLE", "status_since": "2000"}


@pytest.mark.parametrize("payload", [{}, {"conversation_id": ""}, {"agent_id": "a"}])
def test_an_event_of_nobody_is_bad(payload: dict[str, str]) -> None:
    bad: CanonicalEvent = {**event(EventType.QUEUED, 1, "e"), "payload": payload}
    with pytest.raises(BadEventError, match=r"payload\.conversation_id: missing") as error:
        Change.of(bad)
    assert (error.value.reason, error.value.path) == ("missing_field", "payload.conversation_id")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"vendor": "v"}', b"null", b'{"version": 1}'])
def test_what_is_no_change_is_not_read(text: bytes) -> None:
    with pytest.raises(ValueError, match="no state change"):
        Change.read(text)


def test_states_of_two_tenants_are_apart() -> None:
    one, other = event(EventType.STARTED, 1, "a"), event(EventType.STARTED, 2, "b")
    assert len(fold([Change.of(one), Change.of({**other, "tenant_id": "u"})])) == 2
