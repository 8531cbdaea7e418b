"""Which metadata fields become fields of the schema: a pure function of their use by day.

Promoted is a field that was first seen ``first_seen_days`` before ``as_of`` and has been on ``min_presence`` of an
event type's events on every day of the window on which that type occurred, with one stable type. It mirrors the
metadata, is optional, and never goes or changes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from schemas.promoted import FieldType, PromotedField, name_problem, snake_case

MAX_PROMOTED = 200
"""Promoted fields of all vendors together. Each is a column for ever (PostgreSQL has 1,600 at most) and work for every
event; further ones are refused."""

# A field is near if it has half of what is needed.
_NEAR = 0.5


class Thresholds(NamedTuple):
    """When a field is promoted.

    Attributes:
        first_seen_days: Calendar days since it was first seen.
        window_days: Days before ``as_of`` that are looked at.
        min_presence: Share of an event type's events that have it, on every day on which the type occurred.
        min_events: Of that type in the window.
    """

    first_seen_days: int = 30
    window_days: int = 30
    min_presence: float = 0.95
    min_events: int = 1


class Usage(NamedTuple):
    """Use of a metadata field by an event type on a day: a row of ``metadata_field_usage``."""

    vendor: str
    event_type: str
    day: date
    field: str
    events: int
    longs: int
    doubles: int
    booleans: int
    strings: int
    jsons: int


class Seen(NamedTuple):
    """When a field was seen, of all days before the one that is judged by."""

    vendor: str
    field: str
    first: date
    last: date


Totals = Mapping[tuple[str, str, date], int]
"""Events of a vendor and event type on a day."""


class Verdict(StrEnum):
    """What is to become of a field, in the order in which people look for it."""

    PROMOTE = "promote"
    REFUSED = "refused"
    """Its type or name stands against it; a person can decide otherwise, where the reason says how."""
    WAIT = "wait"
    """It may qualify by itself later."""
    PROMOTED = "promoted"


class Evidence(NamedTuple):
    """A field, and why it is promoted or not.

    Attributes:
        key: Metadata key.
        name: Name that it has, or would get.
        type: Its type; None if it has no stable one.
        first_seen: First day.
        last_seen: Last day.
        event_types: Those in which it comes within the window.
        presence: By day of the window, share of events that have it, of the event type in which it is most constant.
        verdict: What is to become of it.
        reason: Why, for people.
    """

    key: str
    name: str
    type: FieldType | None
    first_seen: date
    last_seen: date
    event_types: tuple[str, ...]
    presence: Mapping[date, float]
    verdict: Verdict
    reason: str


class Proposal(NamedTuple):
    """What is to be promoted as of a day, and what came near; by verdict, then by name."""

    as_of: date
    thresholds: Thresholds
    evidence: tuple[Evidence, ...]

    @property
    def candidates(self) -> tuple[PromotedField, ...]:
        """The fields to be promoted."""
        return tuple(
            PromotedField(item.name, item.key, item.type)
            for item in self.evidence
            if item.verdict is Verdict.PROMOTE and item.type is not None
        )


def propose(
    seen: Iterable[Seen],
    usage: Iterable[Usage],
    totals: Totals,
    *,
    promoted: Sequence[PromotedField],
    taken: Collection[str],
    as_of: date,
    thresholds: Thresholds,
    names: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
) -> Proposal:
    """What is to be promoted.

    Args:
        seen: Every field; the order plays no part.
        usage: Rows of the window, at least; their order plays no part.
        totals: Events by type and day, of the window at least.
        promoted: Fields that are promoted already.
        taken: Names that no field may get: fields of the schema and columns of ``events``.
        as_of: The day; its own and later rows do not count.
        thresholds: When a field is promoted.
        names: Names given by a person, by metadata key.
        exclude: Patterns of metadata keys that are never promoted, as of :mod:`fnmatch`.
    """
    begin = as_of - timedelta(days=thresholds.window_days)
    window: dict[tuple[str, str], list[Usage]] = {}
    for row in usage:
        if begin <= row.day < as_of:
            window.setdefault((row.vendor, row.field), []).append(row)
    days: dict[tuple[str, str], dict[date, int]] = {}
    for (vendor, event_type, day), events in sorted(totals.items()):
        if begin <= day < as_of and events:
            days.setdefault((vendor, event_type), {})[day] = events
    known = {field.key: field for field in promoted}
    judged = [
        _judge(
            field, window.get((field.vendor, field.field), []), days, known.get(field.field), as_of, thresholds,
            (names or {}).get(field.field), exclude,
        )
        for field in seen
    ]  # fmt: skip
    decided = _within_bound(_without_clashes(judged, promoted, taken), MAX_PROMOTED - len(promoted))
    evidence = [item for item in decided if _is_near(item, as_of, thresholds)]
    order = list(Verdict)
    evidence.sort(key=lambda item: (order.index(item.verdict), item.name, item.key))
    return Proposal(as_of, thresholds, tuple(evidence))


def field_name(vendor: str, key: str) -> str:
    """``{vendor}_{snake_case_path}`` of a metadata key ``{vendor}.{path}``."""
    return snake_case(f"{vendor}.{key.removeprefix(f'{vendor}.')}")


def _judge(  # noqa: PLR0917 (all of it is needed, and only here)
    seen: Seen,
    window: list[Usage],
    days: Mapping[tuple[str, str], Mapping[date, int]],
    known: PromotedField | None,
    as_of: date,
    thresholds: Thresholds,
    name: str | None,
    exclude: Sequence[str],
) -> Evidence:
    key, vendor = seen.field, seen.vendor
    types = _types(window)
    stable = _stable(set(types.values()))
    event_type, events, presence = _most_constant(vendor, window, days, thresholds.min_events)
    evidence = Evidence(
        key=key,
        name=name or field_name(vendor, key),
        type=stable,
        first_seen=seen.first,
        last_seen=seen.last,
        event_types=tuple(sorted({row.event_type for row in window})),
        presence=presence,
        verdict=Verdict.PROMOTE,
        reason="",
    )
    if known is not None:
        return _promoted(evidence, known, stable)
    if any(fnmatchcase(key, pattern) for pattern in exclude):
        return evidence._replace(verdict=Verdict.REFUSED, reason="excluded")
    lacks = _lacks(evidence, event_type, events, as_of, thresholds)
    if lacks:
        return evidence._replace(verdict=Verdict.WAIT, reason=lacks)
    if stable is None:
        return evidence._replace(verdict=Verdict.REFUSED, reason=_conflict(types))
    least = min(presence.values())
    return evidence._replace(reason=f"on {least:.1%} or more of {event_type} on each of {len(presence)} days")


def _lacks(evidence: Evidence, event_type: str, events: int, as_of: date, thresholds: Thresholds) -> str:
    """What keeps a field from being promoted by now; empty if nothing."""
    first_seen, presence = evidence.first_seen, evidence.presence
    if first_seen > as_of - timedelta(days=thresholds.first_seen_days):
        return f"first seen {(as_of - first_seen).days} days ago, {thresholds.first_seen_days} are needed"
    if not presence:
        return f"has not come since {evidence.last_seen}"
    worst = min(presence, key=lambda day: (presence[day], day))
    if presence[worst] < thresholds.min_presence:
        share = f"on {presence[worst]:.1%} of {event_type} on {worst}"
        return f"{share}, {thresholds.min_presence:.0%} are needed on every day"
    if events < thresholds.min_events:
        return f"on {events} events of {event_type}, {thresholds.min_events} are needed"
    return ""


def _promoted(evidence: Evidence, known: PromotedField, stable: FieldType | None) -> Evidence:
    """Of a field that is promoted already: it stays what it is."""
    reason = "promoted"
    if not evidence.presence:
        reason = f"promoted; has not come since {evidence.last_seen}"
    elif stable != known.type and not (known.type == "double" and stable == "long"):
        reason = f"promoted as {known.type}; reads as {stable or 'several types'} now, what does not fit is null"
    return evidence._replace(name=known.name, type=known.type, verdict=Verdict.PROMOTED, reason=reason)


def _types(window: list[Usage]) -> dict[tuple[date, str], FieldType | str]:
    """What a field's values of a day and event type read as, taken together."""
    found: dict[tuple[date, str], FieldType | str] = {}
    for row in window:
        if row.jsons:
            kind: FieldType | str = "json"
        elif row.strings or (row.booleans and (row.longs or row.doubles)):
            kind = "string"
        elif row.booleans:
            kind = "boolean"
        else:
            kind = "double" if row.doubles else "long"
        found[row.day, row.event_type] = kind
    return found


def _stable(kinds: set[FieldType | str]) -> FieldType | None:
    """The one type of all days and event types; whole numbers are doubles among doubles."""
    if kinds == {"long", "double"}:
        return "double"
    only = next(iter(kinds)) if len(kinds) == 1 else None
    match only:
        case "long" | "double" | "boolean" | "string":
            return only
    return None


def _conflict(types: Mapping[tuple[date, str], FieldType | str]) -> str:
    if "json" in types.values():
        return "holds objects or arrays, which stay in the metadata"
    first = {kind: min(place for place, other in types.items() if other == kind) for kind in set(types.values())}
    told = ", ".join(
        f"{kind} ({event_type}, {day})" for kind, (day, event_type) in sorted(first.items(), key=lambda item: item[1])
    )
    return f"its type changes: {told}"


def _most_constant(
    vendor: str, window: list[Usage], days: Mapping[tuple[str, str], Mapping[date, int]], min_events: int
) -> tuple[str, int, dict[date, float]]:
    """The event type in which a field is least absent, of those with enough events if there are any.

    Returns:
        The type, its events with the field, and their share by day, 0 on a day without.
    """
    found: dict[str, tuple[int, dict[date, float]]] = {}
    for event_type in {row.event_type for row in window}:
        counts: Counter[date] = Counter()
        for row in window:
            if row.event_type == event_type:
                counts[row.day] += row.events
        found[event_type] = (
            counts.total(),
            {day: counts[day] / total for day, total in days.get((vendor, event_type), {}).items()},
        )

    def rank(event_type: str) -> tuple[bool, float, float, str]:
        events, presence = found[event_type]
        return events >= min_events, min(presence.values(), default=0.0), _mean(presence), event_type

    if not found:
        return "", 0, {}
    best = max(found, key=rank)
    return best, *found[best]


def _without_clashes(
    judged: list[Evidence], promoted: Sequence[PromotedField], taken: Collection[str]
) -> list[Evidence]:
    """A name belongs to one field: whoever would share one, or get none, is not promoted."""
    owners = {field.name: field.key for field in promoted}
    wanted: dict[str, list[str]] = {}
    for item in judged:
        if item.verdict is Verdict.PROMOTE:
            wanted.setdefault(item.name, []).append(item.key)
    checked = []
    for item in judged:
        problem = ""
        if item.verdict is Verdict.PROMOTE:
            problem = _name_problem(item, wanted[item.name], owners, taken)
        if problem:
            reason = f'{problem}; give a name of its own, names = {{"{item.key}": "…"}}'
            checked.append(item._replace(verdict=Verdict.REFUSED, reason=reason))
        else:
            checked.append(item)
    return checked


def _within_bound(judged: list[Evidence], most: int) -> list[Evidence]:
    """As many as may be promoted yet, those first that have been seen the longest."""
    wanted = sorted((item.first_seen, item.key) for item in judged if item.verdict is Verdict.PROMOTE)
    over = {key for _, key in wanted[max(most, 0) :]}
    reason = f"{MAX_PROMOTED} fields are promoted at most: exclude some that matter less"
    return [item._replace(verdict=Verdict.REFUSED, reason=reason) if item.key in over else item for item in judged]


def _name_problem(item: Evidence, keys: Sequence[str], owners: Mapping[str, str], taken: Collection[str]) -> str:
    """What keeps a name from being the field's that wants it; empty if nothing."""
    name = item.name
    if problem := name_problem(name, item.key):
        return problem
    if name in owners:
        return f"{name} is {owners[name]} already"
    if name in taken:
        return f"{name} is a field or column of every event"
    return f"{name} would be {' and '.join(sorted(keys))}" if len(keys) > 1 else ""


def _is_near(item: Evidence, as_of: date, thresholds: Thresholds) -> bool:
    """Whether people want to read of it."""
    if item.verdict in {Verdict.PROMOTE, Verdict.PROMOTED}:
        return True
    is_old = (as_of - item.first_seen).days >= thresholds.first_seen_days * _NEAR
    # On average, so that one bad day is told and a field that stopped within the window too.
    return is_old and _mean(item.presence) >= thresholds.min_presence * _NEAR


def _mean(presence: Mapping[date, float]) -> float:
    return sum(presence.values()) / len(presence) if presence else 0.0
