"""Fix-ups: what each does, what it refuses, and that no JSON makes them raise anything else."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.errors import ConfigurationError
from streaming.reprocess.fixups import MOST, FixUps, RefusedError

KEYS = st.sampled_from(["a", "b", "c", "x.y", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["12", "1.0", "-7e3", "true", "FALSE"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
PATHS = st.lists(KEYS, min_size=1, max_size=3)
WHENS = st.fixed_dictionaries(
    {"path": PATHS},
) .flatmap(
    lambda when: st.one_of(
        st.builds(lambda v: when | {"equals": v}, st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2)),
        st.builds(lambda v: when | {"exists": v}, st.booleans()),
        st.builds(
            lambda v: when | {"type": v},
            st.sampled_from(["string", "number", "boolean", "object", "array", "null"]),
        ),
    )
)  # fmt: skip
OPS = st.one_of(
    st.builds(lambda p, v: {"op": "set", "path": p, "value": v}, PATHS, JSON),
    st.builds(lambda p, t: {"op": "rename", "path": p, "to": t}, PATHS, PATHS),
    st.builds(
        lambda p, t: {"op": "cast", "path": p, "type": t},
        PATHS,
        st.sampled_from(["string", "integer", "number", "boolean"]),
    ),
    st.builds(lambda p: {"op": "drop", "path": p}, PATHS),
)
FIXUPS = st.builds(lambda op, when: op | ({"when": when} if when else {}), OPS, st.none() | WHENS)


def mended(document: Any, *fixups: dict[str, Any]) -> Any:
    copied = copy.deepcopy(document)
    FixUps(fixups).apply(copied)
    return copied


@given(JSON, st.lists(FIXUPS, max_size=4))
def test_any_fix_up_on_any_json_changes_it_or_is_refused(document: Any, given_: list[dict[str, Any]]) -> None:
    try:
        fixups = FixUps(given_)
    except ConfigurationError as error:
        assert "fix-up" in str(error)
        return
    with suppress(RefusedError):
        fixups.apply(copy.deepcopy(document))


@given(JSON, PATHS, PATHS)
def test_a_rename_and_its_inverse_are_the_identity(document: Any, path: list[str], to: list[str]) -> None:
    one, other = {"op": "rename", "path": path, "to": to}, {"op": "rename", "path": to, "to": path}
    try:
        there = mended(document, one)
    except (ConfigurationError, RefusedError):
        return
    if there == document:  # the field is not there, whatever lies at the other path
        return
    assert mended(there, other) == document


@given(JSON, st.lists(FIXUPS, min_size=1, max_size=4))
def test_a_value_that_is_set_is_nobody_elses(document: Any, given_: list[dict[str, Any]]) -> None:
    """What later fix-ups do inside it, they do not do to the next record's."""
    try:
        fixups = FixUps(({"op": "set", "path": ["a"], "value": {"b": {"c": 1}}}, *given_))
        first, second = copy.deepcopy(document), copy.deepcopy(document)
        fixups.apply(first)
        fixups.apply(second)
    except (ConfigurationError, RefusedError):
        return
    assert first == second


@pytest.mark.parametrize(
    ("fixup", "before", "after"),
    [
        ({"op": "set", "path": "a", "value": 1}, {}, {"a": 1}),
        ({"op": "set", "path": "o.a", "value": [1]}, {"o": {"a": 2}}, {"o": {"a": [1]}}),
        ({"op": "set", "path": "o.a", "value": 1}, {}, {}),
        ({"op": "rename", "path": "o.a", "to": "b"}, {"o": {"a": 1}}, {"o": {}, "b": 1}),
        ({"op": "rename", "path": ["x.y"], "to": "b"}, {"x.y": 1}, {"b": 1}),
        ({"op": "rename", "path": "a", "to": "b"}, {"b": 1}, {"b": 1}),
        ({"op": "drop", "path": "a"}, {"a": None, "b": 1}, {"b": 1}),
        ({"op": "cast", "path": "a", "type": "string"}, {"a": 7}, {"a": "7"}),
        ({"op": "cast", "path": "a", "type": "string"}, {"a": True}, {"a": "true"}),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": "-17"}, {"a": -17}),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": "17.00"}, {"a": 17}),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": 17.0}, {"a": 17}),
        ({"op": "cast", "path": "a", "type": "number"}, {"a": "1.5e2"}, {"a": 150.0}),
        ({"op": "cast", "path": "a", "type": "boolean"}, {"a": "False"}, {"a": False}),
        ({"op": "cast", "path": "a", "type": "boolean"}, {"a": 1}, {"a": True}),
        ({"op": "cast", "path": "a", "type": "boolean"}, {"a": None}, {"a": None}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "equals": 1}}, {"a": 1, "b": True}, {"a": 1, "b": True}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "equals": True}}, {"a": 1, "b": True}, {"b": True}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "equals": None}}, {"a": 1}, {"a": 1}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "equals": None}}, {"a": 1, "b": None}, {"b": None}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "in": ["x", 2]}}, {"a": 1, "b": 2}, {"b": 2}),
        ({"op": "drop", "path": "a", "when": {"path": "b", "exists": False}}, {"a": 1}, {}),
        ({"op": "drop", "path": "a", "when": {"path": "a", "type": "number"}}, {"a": True}, {"a": True}),
        ({"op": "drop", "path": "a"}, [{"a": 1}, 7, {"a": 2, "b": 3}], [{}, 7, {"b": 3}]),
        ({"op": "drop", "path": "a.b"}, {"a": [{"b": 1}]}, {"a": [{"b": 1}]}),
    ],
)  # fmt: skip
def test_what_a_fix_up_does(fixup: dict[str, Any], before: Any, after: Any) -> None:
    found = mended(before, fixup)
    assert found == after
    assert repr(found) == repr(after), "true is not 1"


@pytest.mark.parametrize(
    ("fixup", "document", "why"),
    [
        ({"op": "rename", "path": "a", "to": "b"}, {"a": 1, "b": None}, "there already"),
        ({"op": "rename", "path": "a", "to": "o.b"}, {"a": 1}, "not there"),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": "17.5"}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": 17.5}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "integer"}, {"a": True}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "number"}, {"a": "1e999"}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "number"}, {"a": "NaN"}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "boolean"}, {"a": "yes"}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "boolean"}, {"a": 2}, "change of what it says"),
        ({"op": "cast", "path": "a", "type": "string"}, {"a": {}}, "change of what it says"),
    ],
)
def test_what_can_t_be_done_without_guessing_is_refused(fixup: dict[str, Any], document: Any, why: str) -> None:
    with pytest.raises(RefusedError, match=f"fix-up 1: .*{why}"):
        FixUps([fixup]).apply(document)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fixups", "message"),
    [
        ([{"op": "drop", "path": "a"}, {"op": "move", "path": "a"}], "fix-up 2: .*'rename'"),
        ([{"path": "a"}], "fix-up 1"),
        (["drop"], "fix-up 1"),
        ([{"op": "drop"}], "fix-up 1: path: Field required"),
        ([{"op": "drop", "path": ""}], "empty part"),
        ([{"op": "drop", "path": "a..b"}], "empty part"),
        ([{"op": "drop", "path": ["a"] * 33}], "a path is"),
        ([{"op": "drop", "path": 7}], "a path is"),
        ([{"op": "drop", "path": "a", "too": 1}], "too"),
        ([{"op": "rename", "path": "a", "to": "a"}], "neither may be the other"),
        ([{"op": "rename", "path": "a.b", "to": "a"}], "neither may be the other"),
        ([{"op": "cast", "path": "a", "type": "date"}], "type"),
        ([{"op": "set", "path": "a"}], "value: Field required"),
        ([{"op": "set", "path": "a", "value": float("nan")}], "JSON is needed"),
        ([{"op": "set", "path": "a", "value": 2**64}], "JSON is needed"),
        ([{"op": "set", "path": "a", "value": nested(300)}], "fix-up 1"),
        ([{"op": "set", "path": "a", "value": "x" * 70_000}], "more than 65536 bytes"),
        ([{"op": "drop", "path": "a"}] * (MOST + 1), f"more than {MOST}"),
        ([{"op": "drop", "path": "a", "when": {"path": "b"}}], "exactly one"),
        ([{"op": "drop", "path": "a", "when": {"path": "b", "exists": True, "type": "null"}}], "exactly one"),
        ([{"op": "drop", "path": "a", "when": {"path": "b", "in": []}}], "in"),
        ([{"op": "drop", "path": "a", "when": {"path": "b", "equals": {}}}], "equals"),
    ],
)
def test_a_wrong_fix_up_is_named_by_its_number_and_field(fixups: list[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FixUps(fixups)


def test_values_stay_out_of_messages() -> None:
    with pytest.raises(ConfigurationError) as wrong:
        FixUps([{"op": "drop", "path": "a", "when": {"path": "b", "equals": ["+15550100"]}}])
    with pytest.raises(RefusedError) as refused:
        FixUps([{"op": "cast", "path": "a", "type": "integer"}]).apply({"a": "+15550100"})
    assert "15550100" not in f"{wrong.value}{refused.value}"


def test_it_counts_the_records_in_which_it_changed_something() -> None:
    fixups = FixUps([{"op": "drop", "path": "a"}, {"op": "cast", "path": "b", "type": "string"}])
    for document in ([{"a": 1}, {"a": 2}], {"a": 1, "b": "x"}, {"b": 1}):
        fixups.apply(document)
    assert fixups.applied == [2, 1]
