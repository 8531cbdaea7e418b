"""JSON values as another type, where nothing is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from typing import Any, Literal

import orjson

Json = Any
JsonType = Literal["string", "integer", "number", "boolean"]

_INTEGER = re.compile(r"-?[0-9]{1,18}(\.0{1,18})?")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "false": False}


class NoCounterpartError(ValueError):
    """A value says something that the other type can't."""

    def __init__(self) -> None:
        super().__init__("the value can't become of that type without a change of what it says")


def _to_string(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise NoCounterpartError
    return orjson.dumps(value).decode()


def _to_integer(value: Json) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise NoCounterpartError


def _to_number(value: Json) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = int(value) if value.lstrip("-").isdigit() else float(value)
        if isfinite(number):
            return number
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise NoCounterpartError


def _to_boolean(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if isinstance(value, int) and value in {0, 1}:
        return value == 1
    raise NoCounterpartError


CASTS: dict[JsonType, Callable[[Json], Json]] = {
    "string": _to_string,
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
}
