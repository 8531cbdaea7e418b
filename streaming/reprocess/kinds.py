"""The vendor's own name of a failed message's type, so that people can group and select by it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import orjson

from schemas.fieldmap import load_field_map

Json = Any

_ID = "{id}"
_INDEX = re.compile(r"\[\d*\]")
# Of a segment that is an id if a digit is in it, inside a name that no rule knows.
_ID_CHARS = 8
_MAX_CHARS = 300


def native_type(vendor: str, value: bytes | None) -> str:
    """The vendor's name of the type of a dead letter's value, ids masked; empty if it can't be read.

    Args:
        vendor: Whose message it is.
        value: The dead letter's. Of an array the first element counts.
    """
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return ""
    return type_of(vendor, document)


def type_of(vendor: str, document: Json) -> str:
    """As :func:`native_type`, of a value already parsed."""
    if isinstance(document, list):
        document = document[0] if document else None
    names = _names(vendor)
    for key in names.path:
        if not isinstance(document, dict):
            return ""
        document = document.get(key)
    return names.masked(document) if isinstance(document, str) else ""


def masked(vendor: str, name: str) -> str:
    """A vendor's name of a type as :func:`native_type` gives it."""
    return _names(vendor).masked(name)


def any_element(path: str) -> str:
    """A field's path, whichever element of an array it was in."""
    return _INDEX.sub("[]", path)


class _Names:
    """A vendor's names of types, from its field map."""

    def __init__(self, vendor: str) -> None:
        field_map = load_field_map(vendor)
        self.path = tuple(field_map.native_type.split("."))
        self._known = {rule.native for rule in field_map.events} | set(field_map.ignore)
        self._places = sorted({name.split(".").index(_ID) for name in self._known if _ID in name.split(".")})

    def masked(self, name: str) -> str:
        """The name as the field map has it; one that it has not, without what looks like an id."""
        if name in self._known:
            return name
        if self._places:
            parts = name.split(".")
            for place in self._places:
                if place < len(parts):
                    known = ".".join([*parts[:place], _ID, *parts[place + 1 :]])
                    if known in self._known:
                        return known
        return ".".join(_ID if _is_id(part) else part for part in name[: 4 * _MAX_CHARS].split("."))[:_MAX_CHARS]


def _is_id(part: str) -> bool:
    return len(part) >= _ID_CHARS and any(character.isdigit() for character in part)


@cache
def _names(vendor: str) -> _Names:
    return _Names(vendor)
