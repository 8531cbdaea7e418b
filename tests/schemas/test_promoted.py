"""Promoted fields: every version reads every other, and a value's text decides its type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import CanonicalEvent, latest_schema
from schemas.codec import Decoder, Encoder
from schemas.compatibility import core_problems, full_problems
from schemas.promoted import FieldType, PromotedField, cast, promoted_fields, with_promoted
from streaming.errors import ConfigurationError

TYPES: tuple[FieldType, ...] = ("long", "double", "boolean", "string")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(
    TEXT,
    st.sampled_from(["true", "false", "007", "1e5", "NaN", "-0", "9" * 18, "9" * 19, "1.5", "{}", "[1]", ""]),
    st.integers().map(str),
    st.floats().map(json.dumps),
)
KEYS = [f"genesys.field{number}" for number in range(4)]
EVENTS = st.fixed_dictionaries(
    {
        "event_id": TEXT, "vendor": TEXT, "tenant_id": TEXT, "event_type": TEXT,
        "timestamp": st.integers(-(2**63), 2**63 - 1), "payload": st.dictionaries(TEXT, TEXT),
        "metadata": st.dictionaries(st.one_of(st.sampled_from(KEYS), TEXT), VALUES),
    }
)  # fmt: skip
CHAINS = st.lists(st.lists(st.sampled_from(TYPES), min_size=1, max_size=2), max_size=3)


def versions(chain: list[list[FieldType]]) -> list[str]:
    """The first version, and one more for each element of the chain."""
    schemas, number = [latest_schema()], 0
    for types in chain:
        fields = []
        for type_ in types:
            fields.append(PromotedField(f"genesys_field{number}", f"genesys.field{number}", type_))
            number += 1
        schemas.append(with_promoted(schemas[-1], fields))
    return schemas


@given(EVENTS, CHAINS)
def test_every_version_reads_every_other(event: Any, chain: list[list[FieldType]]) -> None:
    schemas = versions(chain)
    core: CanonicalEvent = event
    for number, writer in enumerate(schemas):
        value = Encoder(writer, number).encode(core)
        for reader in schemas:
            read: Any = Decoder(reader, schemas.__getitem__).decode(value)
            assert {name: read[name] for name in core} == core
            written = set(promoted_fields(writer))
            for field in promoted_fields(reader):
                text = core["metadata"].get(field.key) if field in written else None
                assert read[field.name] == (None if text is None else cast(text, field.type))
        as_written = Decoder(None, schemas.__getitem__)
        assert as_written.decode(value).keys() == core.keys() | {field.name for field in promoted_fields(writer)}
        assert as_written.promoted == promoted_fields(writer)


@given(CHAINS)
def test_every_version_is_full_compatible_with_every_other(chain: list[list[FieldType]]) -> None:
    schemas = versions(chain)
    assert not any(full_problems(one, other) for one in schemas for other in schemas)
    assert not any(map(core_problems, schemas))


@given(VALUES)
def test_a_value_reads_as_its_type_or_not_at_all(text: str) -> None:
    values: list[Any] = [cast(text, "long"), cast(text, "double"), cast(text, "boolean")]
    long, double, boolean = values
    assert cast(text, "string") == text
    if long is not None:
        assert str(long) == text.replace("-0", "0") or text == "-0"
        assert -(2**63) <= long < 2**63
        assert double == float(long)
    if double is not None:
        assert double == float(json.loads(text))
        assert abs(double) != float("inf")
    assert boolean is None or json.dumps(boolean) == text


@pytest.mark.parametrize("text", ["007", "1 ", " 1", "+1", "1.", ".5", "0x1", "9" * 19, "1_0", "\u0661", "1\n"])
def test_text_is_no_number(text: str) -> None:
    assert cast(text, "long") is None
    assert cast(text, "double") is None


def test_a_field_is_not_promoted_twice_nor_under_a_type_of_its_own() -> None:
    field = PromotedField("genesys_x", "genesys.x", "long")
    with pytest.raises(ConfigurationError, match="genesys_x is in the schema already"):
        with_promoted(with_promoted(latest_schema(), [field]), [field])
    odd = with_promoted(latest_schema(), [field]).replace('["null", "long"]', '["null", "bytes"]')
    with pytest.raises(ConfigurationError, match="genesys_x"):
        promoted_fields(odd)


def test_problems_name_field_and_side() -> None:
    field = PromotedField("genesys_x", "genesys.x", "long")
    one, other = (with_promoted(latest_schema(), [field._replace(type=type_)]) for type_ in ("long", "string"))
    assert any("genesys_x" in problem for problem in full_problems(one, other))
    must = json.loads(latest_schema())
    must["fields"].append({"name": "must", "type": "string"})
    (problem,) = full_problems(json.dumps(must), latest_schema())
    assert problem == "new reader, old records: must has no default, and the records lack it"
