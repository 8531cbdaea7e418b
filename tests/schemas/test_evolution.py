"""Which fields are promoted, and what people are told of the others."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.evolution import Evidence, Proposal, Seen, Thresholds, Usage, Verdict, field_name, propose
from schemas.promoted import PromotedField

AS_OF = date(2026, 11, 1)
STARTED, ENDED = "conversation.started", "conversation.ended"


def day(ago: int) -> date:
    return AS_OF - timedelta(days=ago)


def use(
    key: str = "genesys.score",
    days: Iterable[int] = range(1, 31),
    *,
    event_type: str = STARTED,
    share: float = 1.0,
    kind: str = "longs",
    vendor: str = "genesys",
) -> list[Usage]:
    """The field on that share of 100 events a day, all of one kind."""
    count = round(share * 100)
    counts = dict.fromkeys(("longs", "doubles", "booleans", "strings", "jsons"), 0) | {kind: count}
    return [Usage(vendor, event_type, day(ago), key, count, **counts) for ago in days]


def totals(event_types: Iterable[str] = (STARTED, ENDED), days: Iterable[int] = range(40)) -> dict[Any, int]:
    kinds, ago = list(event_types), list(days)
    return {(vendor, kind, day(n)): 100 for vendor in ("genesys", "cxone") for kind in kinds for n in ago}


def proposed(usage: list[Usage], **more: Any) -> Proposal:
    defaults: dict[str, Any] = {"promoted": (), "taken": {"event_id", "queue_id"}, "as_of": AS_OF}
    defaults |= {"thresholds": Thresholds(), "totals": totals([STARTED])}
    given_ = defaults | more
    days: dict[tuple[str, str], list[date]] = {}
    for row in usage:
        if row.day < given_["as_of"]:
            days.setdefault((row.vendor, row.field), []).append(row.day)
    seen = [Seen(vendor, field, min(found), max(found)) for (vendor, field), found in days.items()]
    return propose(seen, usage, given_.pop("totals"), **given_)


def only(usage: list[Usage], **more: Any) -> Evidence:
    (evidence,) = proposed(usage, **more).evidence
    return evidence


def test_a_field_of_thirty_full_days_is_promoted() -> None:
    proposal = proposed(use())
    assert proposal.candidates == (PromotedField("genesys_score", "genesys.score", "long"),)
    (evidence,) = proposal.evidence
    assert (evidence.first_seen, evidence.last_seen, evidence.event_types) == (day(30), day(1), (STARTED,))
    assert len(evidence.presence) == 30


def test_the_thirtieth_day_decides() -> None:
    assert proposed(use(days=range(1, 30)), totals=totals([STARTED], range(1, 30))).candidates == ()
    evidence = only(use(days=range(1, 30)), totals=totals([STARTED], range(1, 30)))
    assert evidence.verdict is Verdict.WAIT
    assert evidence.reason == "first seen 29 days ago, 30 are needed"
    # Days before the window count for the first time it was seen, and for nothing else.
    assert proposed(use(days=[*range(1, 31), 35], kind="longs") + use(days=[36], kind="strings")).candidates


def test_the_day_itself_does_not_count() -> None:
    assert proposed(use(days=range(30)), totals=totals([STARTED], range(30))).candidates == ()
    assert proposed(use() + use(days=[0], kind="strings")).candidates


def test_presence_counts_on_every_day_on_which_the_type_occurred() -> None:
    assert proposed(use(share=0.95)).candidates
    assert proposed(use(days=[n for n in range(1, 31) if n != 9]) + use(days=[9], share=0.94)).candidates == ()
    evidence = only(use(days=[n for n in range(1, 31) if n != 9]) + use(days=[9], share=0.6))
    assert evidence.reason == f"on 60.0% of {STARTED} on {day(9)}, 95% are needed on every day"
    # Closed on Sundays: no event, no matter.
    some = [n for n in range(1, 31) if n % 7]
    assert proposed(use(days=some), totals=totals([STARTED], some)).candidates


def test_one_event_type_suffices() -> None:
    rare = use(event_type=ENDED, share=0.1)
    proposal = proposed(use() + rare, totals=totals())
    assert proposal.candidates == (PromotedField("genesys_score", "genesys.score", "long"),)
    assert proposal.evidence[0].event_types == (ENDED, STARTED)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("longs",), "long"),
        (("doubles",), "double"),
        (("booleans",), "boolean"),
        (("strings",), "string"),
        (("longs", "doubles"), "double"),
    ],
)
def test_the_type_is_that_of_all_days(kinds: tuple[str, ...], expected: str) -> None:
    usage = [row for ago in range(1, 31) for row in use(days=[ago], kind=kinds[ago % len(kinds)])]
    assert [field.type for field in proposed(usage).candidates] == [expected]


def test_within_a_day_text_makes_text() -> None:
    rows = [row._replace(longs=60, strings=40) for row in use()]
    assert [field.type for field in proposed(rows).candidates] == ["string"]
    rows = [row._replace(longs=60, booleans=40) for row in use()]
    assert [field.type for field in proposed(rows).candidates] == ["string"]


def test_a_type_that_changes_is_a_conflict() -> None:
    evidence = only(use(days=range(11, 31)) + use(days=range(1, 11), kind="strings"))
    assert (evidence.verdict, evidence.type) == (Verdict.REFUSED, None)
    assert evidence.reason == f"its type changes: long ({STARTED}, {day(30)}), string ({STARTED}, {day(10)})"
    across = only(use() + use(event_type=ENDED, kind="strings"), totals=totals())
    assert across.verdict is Verdict.REFUSED
    assert "its type changes" in across.reason


def test_objects_and_arrays_stay_in_the_metadata() -> None:
    evidence = only(use(days=range(2, 31), kind="strings") + use(days=[1], kind="jsons"))
    assert (evidence.verdict, evidence.reason) == (
        Verdict.REFUSED,
        "holds objects or arrays, which stay in the metadata",
    )


def test_a_field_that_stops_coming_waits_and_is_told_if_promoted() -> None:
    assert proposed(use(days=range(3, 34))).candidates == ()
    field = PromotedField("genesys_score", "genesys.score", "long")
    evidence = only(use(days=range(31, 40)), promoted=[field])
    assert (evidence.verdict, evidence.reason) == (
        Verdict.PROMOTED,
        f"promoted; has not come since {day(31)}",
    )
    assert proposed(use(days=range(31, 70))).candidates == ()


def test_what_is_promoted_stays_whatever_it_reads_as_now() -> None:
    field = PromotedField("genesys_number", "genesys.score", "long")
    proposal = proposed(use(kind="strings"), promoted=[field])
    (evidence,) = proposal.evidence
    assert proposal.candidates == ()
    assert (evidence.name, evidence.type, evidence.verdict) == ("genesys_number", "long", Verdict.PROMOTED)
    assert evidence.reason == "promoted as long; reads as string now, what does not fit is null"


def test_names_that_clash_are_promoted_by_nobody_until_a_person_names_them() -> None:
    usage = use("genesys.fooBar") + use("genesys.foo.bar") + use("genesys.other")
    proposal = proposed(usage)
    assert [field.key for field in proposal.candidates] == ["genesys.other"]
    refused = [item for item in proposal.evidence if item.verdict is Verdict.REFUSED]
    assert len(refused) == 2
    assert "genesys_foo_bar would be genesys.foo.bar and genesys.fooBar" in refused[0].reason
    named = proposed(usage, names={"genesys.fooBar": "genesys_foo_bar_2"})
    assert {field.name for field in named.candidates} == {"genesys_foo_bar", "genesys_foo_bar_2", "genesys_other"}


def test_two_vendors_that_come_to_one_name_clash_too() -> None:
    usage = use("a.b_c", vendor="a") + use("a_b.c", vendor="a_b")
    seen = {(vendor, STARTED, day(n)): 100 for vendor in ("a", "a_b") for n in range(1, 31)}
    proposal = proposed(usage, totals=seen)
    assert proposal.candidates == ()
    assert {item.verdict for item in proposal.evidence} == {Verdict.REFUSED}


def test_names_that_are_taken_or_none_are_refused() -> None:
    other = PromotedField("genesys_score", "genesys.else", "long")
    assert "is genesys.else already" in only(use(), promoted=[other]).reason
    assert "of every event" in only(use(), taken={"genesys_score"}).reason
    assert "does not begin with genesys_" in only(use(), names={"genesys.score": "queue_id"}).reason
    assert "no name" in only(use(), names={"genesys.score": "Score!"}).reason
    assert "longer than 63" in only(use("genesys." + "x" * 70)).reason


def test_excluded_keys_are_never_promoted() -> None:
    proposal = proposed(use("genesys.sessionId") + use("genesys.score"), exclude=["*.*Id"])
    assert [field.key for field in proposal.candidates] == ["genesys.score"]


def test_beyond_the_bound_those_seen_last_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.evolution.MAX_PROMOTED", 2)
    usage = use("genesys.b", days=range(1, 33)) + use("genesys.a", days=range(1, 32)) + use("genesys.c")
    there = PromotedField("genesys_old", "genesys.old", "long")
    assert [field.key for field in proposed(usage).candidates] == ["genesys.a", "genesys.b"]
    proposal = proposed(usage, promoted=[there])
    assert [field.key for field in proposal.candidates] == ["genesys.b"]
    assert {item.reason for item in proposal.evidence if item.verdict is Verdict.REFUSED} == {
        "2 fields are promoted at most: exclude some that matter less"
    }


def test_a_key_that_another_vendor_has_too_is_judged_by_each_ones_own_use() -> None:
    usage = use("genesys.score") + use("genesys.score", vendor="cxone", kind="strings", share=0.5)
    candidates = proposed(usage).candidates
    assert candidates == (PromotedField("genesys_score", "genesys.score", "long"),)


def test_too_few_events_wait() -> None:
    assert only(use(), thresholds=Thresholds(min_events=3_001)).reason == (
        f"on 3000 events of {STARTED}, 3001 are needed"
    )


def test_the_event_type_with_enough_events_decides() -> None:
    thresholds = Thresholds(min_events=1_000)
    rare = use(event_type=ENDED, days=[5], share=1.0)
    once = totals([STARTED]) | {("genesys", ENDED, day(5)): 100}
    assert proposed(use(share=0.96) + rare, totals=once, thresholds=thresholds).candidates


def test_one_bad_day_and_a_field_that_has_just_stopped_are_told() -> None:
    evidence = only(use(days=[n for n in range(1, 31) if n != 9]))
    assert (evidence.verdict, evidence.presence[day(9)]) == (Verdict.WAIT, 0.0)
    assert "on 0.0%" in only(use(days=range(4, 31))).reason


def test_of_excluded_fields_only_those_that_came_near_are_told() -> None:
    assert only(use(), exclude=["genesys.*"]).reason == "excluded"
    assert proposed(use(share=0.1), exclude=["genesys.*"]).evidence == ()


def test_only_what_came_near_is_told() -> None:
    assert proposed(use(share=0.1)).evidence == ()
    assert proposed(use(days=range(1, 10)), totals=totals([STARTED], range(1, 10))).evidence == ()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("genesys.participantId", "genesys_participant_id"),
        ("genesys.metadata.CorrelationId", "genesys_metadata_correlation_id"),
        ("genesys.HTTPStatus", "genesys_http_status"),
        ("genesys.a-b c", "genesys_a_b_c"),
        ("genesys.größe", "genesys_gr_e"),
        ("genesys.", "genesys"),
        ("genesys.v2Score3", "genesys_v2_score3"),
    ],
)
def test_names_are_snake_case(key: str, name: str) -> None:
    assert field_name("genesys", key) == name


KEYS = st.sampled_from(["genesys.a", "genesys.aB", "genesys.a.b", "cxone.a", "genesys.ü", "genesys." + "long" * 20])
ROWS = st.lists(
    st.tuples(KEYS, st.integers(0, 40), st.integers(1, 100), st.sampled_from(["longs", "strings", "jsons"])),
    max_size=60,
)


@given(ROWS, st.randoms(use_true_random=False))
def test_nothing_below_a_threshold_is_promoted_whatever_the_order(
    given_rows: list[tuple[str, int, int, str]], rng: random.Random
) -> None:
    rows = [
        row
        for key, ago, share, kind in {(key, ago): item for item in given_rows for key, ago in [item[:2]]}.values()
        for row in use(key, [ago], share=share / 100, kind=kind, vendor=key.partition(".")[0])
    ]
    # Few rows reach 30 days, so the thresholds are lower.
    thresholds = Thresholds(first_seen_days=2, window_days=2, min_presence=0.5)
    proposal = proposed(rows, thresholds=thresholds)
    for field in proposal.candidates:
        assert re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", field.name)
        own = {row.day: row for row in rows if row.field == field.key}
        assert min(own) <= day(2)
        assert all(own[day(n)].events >= 50 and not own[day(n)].jsons for n in (1, 2))
    assert len({field.name for field in proposal.candidates}) == len(proposal.candidates)
    shuffled = rows[:]
    rng.shuffle(shuffled)
    assert proposed(shuffled, thresholds=thresholds) == proposal
