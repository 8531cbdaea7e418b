"""Fields promoted from metadata: optional top-level fields of a schema that say which metadata key they mirror.

A value's text decides its type, since metadata holds text: see :data:`LONG` and the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from streaming.errors import ConfigurationError

FieldType = Literal["long", "double", "boolean", "string"]

KEY_ATTRIBUTE = "ccaas.metadata_key"
"""Attribute of an Avro field: the metadata key that it mirrors."""

LONG = r"-?(0|[1-9][0-9]{0,17})"
"""Text of a long: no leading zeros (``007`` is a string), at most 18 digits, so that every one fits 64 bits."""

DOUBLE = r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?"
"""Text of a double, a JSON number (RFC 8259 §6). Bounded so that it is finite in every database; a long is one too."""

BOOLEAN = r"true|false"
"""Text of a boolean. Whatever fits none of these is a string."""

MAX_TEXT = 8_192
"""Characters of a string. A longer one is null, as any value that does not fit: it is in the metadata alone, so that
promotion makes no event too large for a record."""

MAX_NAME = 63
"""Characters of a name; PostgreSQL cuts a longer identifier."""

_LONG, _DOUBLE = re.compile(LONG), re.compile(DOUBLE)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BOOLEANS = {"true": True, "false": False}


class PromotedField(NamedTuple):
    """A promoted field.

    Attributes:
        name: Of the Avro field and the warehouse's column, ``{vendor}_{snake_case_path}``.
        key: The metadata key that it mirrors, ``{vendor}.{path}``.
        type: Its Avro type beside null.
    """

    name: str
    key: str
    type: FieldType


def promoted_fields(schema: str) -> tuple[PromotedField, ...]:
    """The promoted fields of a schema, in its order.

    Args:
        schema: Avro schema as JSON text.

    Raises:
        ConfigurationError: it is no record's schema, or a promoted field has another type than null or one of four, or
            a name that is no column's.
    """
    try:
        document = json.loads(schema)
        fields = [(field["name"], field["type"], field.get(KEY_ATTRIBUTE)) for field in document.get("fields", ())]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        msg = f"no schema of a record: {type(error).__name__}: {error}"
        raise ConfigurationError(msg) from None
    return tuple(_promoted(name, type_, key) for name, type_, key in fields if key is not None)


def _promoted(name: str, type_: object, key: object) -> PromotedField:
    match type_, key:
        case ["null", ("long" | "double" | "boolean" | "string") as promoted], str():
            if not (problem := name_problem(name, key)):
                return PromotedField(name, key, promoted)
            msg = f"field {name}, promoted from {key}: {problem}"
            raise ConfigurationError(msg)
    msg = (
        f"field {name}: promoted, its type must be [null, long|double|boolean|string], not {json.dumps(type_)}, "
        f"and {KEY_ATTRIBUTE} text"
    )
    raise ConfigurationError(msg)


def name_problem(name: str, key: str) -> str:
    """What keeps a name from being that of the field of a metadata key; empty if nothing.

    It begins with the vendor, so that no vendor's field takes another's name, or one that a database or a load needs.
    """
    prefix = snake_case(key.partition(".")[0]) + "_"
    if len(name) > MAX_NAME:
        return f"{name} is longer than {MAX_NAME} characters"
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name of a column: a to z, 0 to 9 and _"
    return "" if name.startswith(prefix) else f"{name} does not begin with {prefix}"


def snake_case(text: str) -> str:
    """A name's words in lower case, an underscore between them; what is no letter or digit of ASCII divides words."""
    words = re.sub(r"([A-Z]+)([A-Z][a-z])|([a-z0-9])([A-Z])", _word_border, text)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _word_border(found: re.Match[str]) -> str:
    return f"{found[1] or found[3]}_{found[2] or found[4]}"


def with_promoted(schema: str, fields: Sequence[PromotedField]) -> str:
    """The text of the next version: the schema and further promoted fields behind its own.

    Raises:
        ConfigurationError: a field of that name is there already.
    """
    document: dict[str, Any] = json.loads(schema)
    names = {field["name"] for field in document["fields"]}
    for field in fields:
        if field.name in names:
            msg = f"field {field.name} is in the schema already: give the new one another name"
            raise ConfigurationError(msg)
        names.add(field.name)
        document["fields"].append(
            {
                "name": field.name,
                "type": ["null", field.type],
                "default": None,
                "doc": f"Mirrors {field.key} of the metadata; null if it is absent or no {field.type}",
                KEY_ATTRIBUTE: field.key,
            }
        )
    return _text(document)


def _text(document: dict[str, Any]) -> str:
    """A line for each field, as the first version is written: a diff of two versions shows what came."""
    fields = ",\n".join(f"    {json.dumps(field, ensure_ascii=False)}" for field in document["fields"])
    head = {key: value for key, value in document.items() if key != "fields"}
    lines = "".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in head.items())
    return f'{{\n{lines}  "fields": [\n{fields}\n  ]\n}}\n'


def cast(text: str, type_: FieldType) -> int | float | bool | str | None:
    """A metadata value under a promoted field's type; None if it does not fit."""
    if type_ == "string":
        return text if len(text) <= MAX_TEXT else None
    if type_ == "long":
        return int(text) if _LONG.fullmatch(text) else None
    if type_ == "double":
        return float(text) if _DOUBLE.fullmatch(text) else None
    return _BOOLEANS.get(text)
