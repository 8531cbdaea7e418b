"""Fix-ups: changes to a dead letter's JSON, declared as data, so that what failed can pass.

A fix-up whose path a record does not have leaves the record as it is. One that can't be done without guessing (a value
that is no number, a rename onto a field that is there) is refused, and the record with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from streaming.errors import ConfigurationError
from streaming.reprocess.casts import CASTS, JsonType

Json = Any
KeyPath = tuple[str, ...]
Watch = Callable[[int, dict[str, Json]], None]
"""Told of every fix-up, by its place from 0, and of the object that it is about to be tried on."""

MOST = 50
"""Fix-ups of one run."""

_MAX_BYTES = 64 * 1024
_MAX_KEYS = 32
_FIX_UP_FIELDS = "op, path, value, to, type, when"


class RefusedError(Exception):
    """A fix-up can't be done on a record.

    Attributes:
        number: Which one, from 1.
    """

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"fix-up {number}: {why}")
        self.number = number


def _keys(path: object) -> object:
    keys = path.split(".") if isinstance(path, str) else path
    if not isinstance(keys, list | tuple) or not 1 <= len(keys) <= _MAX_KEYS:
        msg = "a path is dotted text such as eventBody.queueId, or a list of keys where a key has dots itself"
        raise ValueError(msg)
    if isinstance(path, str) and not all(keys):
        msg = "a path has no empty part; a key that is empty or has dots is given as a list of keys"
        raise ValueError(msg)
    return tuple(keys)


Path = Annotated[tuple[StrictStr, ...], BeforeValidator(_keys)]
Scalar = StrictStr | StrictBool | StrictInt | Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
TypeName = Literal["string", "number", "boolean", "object", "array", "null"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """A condition on the same object; exactly one test."""

    path: Path
    equals: Scalar = None
    in_: Annotated[tuple[Scalar, ...] | None, Field(alias="in", min_length=1)] = None
    exists: StrictBool | None = None
    type: TypeName | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if len(self.model_fields_set - {"path"}) != 1:
            msg = "give exactly one of equals, in, exists and type"
            raise ValueError(msg)
        return self

    def holds(self, element: dict[str, Json]) -> bool:
        """Whether it holds of an object."""
        parent = _parent(element, self.path)
        is_there = parent is not None and self.path[-1] in parent
        if self.exists is not None:
            return is_there is self.exists
        if parent is None or not is_there:
            return False
        value = parent[self.path[-1]]
        if self.type is not None:
            return _type_name(value) == self.type
        return any(_same(value, wanted) for wanted in (self.in_ or (self.equals,)))


class _FixUp(_Part):
    path: Path
    when: When | None = None


class SetValue(_FixUp):
    """Give a field a value, whether it is there or not; the object around it must be there."""

    op: Literal["set"]
    value: JsonValue

    @model_validator(mode="after")
    def _is_json(self) -> Self:
        try:
            is_same = orjson.loads(orjson.dumps(self.value)) == self.value
        except (TypeError, ValueError):
            is_same = False
        if not is_same:
            msg = "value: JSON is needed, without NaN, of less than 64-bit integers and 250 levels"
            raise ValueError(msg)
        return self

    def do(self, parent: dict[str, Json], element: dict[str, Json]) -> bool:  # noqa: ARG002 (one signature)
        """See :meth:`FixUps.apply`."""
        value = self.value
        # A copy: a later fix-up may change what is inside.
        parent[self.path[-1]] = orjson.loads(orjson.dumps(value)) if isinstance(value, dict | list) else value
        return True


class Rename(_FixUp):
    """Move a field to another path, where no field may be; the object there must be there."""

    op: Literal["rename"]
    to: Path

    @model_validator(mode="after")
    def _is_apart(self) -> Self:
        shorter = min(len(self.path), len(self.to))
        if self.path[:shorter] == self.to[:shorter]:
            msg = "path and to: neither may be the other, or lie inside it"
            raise ValueError(msg)
        return self

    def do(self, parent: dict[str, Json], element: dict[str, Json]) -> bool:
        """See :meth:`FixUps.apply`. Raises ValueError if the new place is taken, or in no object."""
        key, new_key = self.path[-1], self.to[-1]
        if key not in parent:
            return False
        target = _parent(element, self.to)
        if target is None:
            msg = "the object that it should be moved to is not there"
            raise ValueError(msg)
        if new_key in target:
            msg = "a field of the new name is there already"
            raise ValueError(msg)
        target[new_key] = parent.pop(key)
        return True


class Cast(_FixUp):
    """Give a field's value another type, if nothing of it is lost; null stays null."""

    op: Literal["cast"]
    type: JsonType

    def do(self, parent: dict[str, Json], element: dict[str, Json]) -> bool:  # noqa: ARG002 (one signature)
        """See :meth:`FixUps.apply`. Raises ValueError if the value has no counterpart."""
        value = parent.get(self.path[-1])
        if value is None:
            return False
        parent[self.path[-1]] = new = CASTS[self.type](value)
        return type(new) is not type(value)


class Drop(_FixUp):
    """Remove a field."""

    op: Literal["drop"]

    def do(self, parent: dict[str, Json], element: dict[str, Json]) -> bool:  # noqa: ARG002 (one signature)
        """See :meth:`FixUps.apply`."""
        if self.path[-1] not in parent:
            return False
        del parent[self.path[-1]]
        return True


FixUp = Annotated[SetValue | Rename | Cast | Drop, Field(discriminator="op")]
_FIX_UP: TypeAdapter[SetValue | Rename | Cast | Drop] = TypeAdapter(FixUp)


class FixUps:
    """The fix-ups of a run, in their order.

    Attributes:
        given: As they were given, for the audit.
        applied: In how many records each changed something.

    Args:
        given: One object each: ``op`` and its fields.

    Raises:
        ConfigurationError: naming the fix-up by its number and the field.
    """

    def __init__(self, given: Sequence[dict[str, Any]] = ()) -> None:
        self.given = tuple(given)
        if len(given) > MOST:
            msg = f"fixups: {len(given)} of them, more than {MOST}: run one part after the other"
            raise ConfigurationError(msg)
        self.parts = tuple(_parsed(number, one) for number, one in enumerate(given, 1))
        self.applied = [0] * len(given)
        if len(_as_json(self.given)) > _MAX_BYTES:
            msg = f"fixups: more than {_MAX_BYTES} bytes: give smaller values, or run one part after the other"
            raise ConfigurationError(msg)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def apply(self, document: Json, watch: Watch | None = None) -> None:
        """Change a document in place; of an array each element that is an object.

        Args:
            document: Parsed JSON. It is to be thrown away if a fix-up is refused.
            watch: See there.

        Raises:
            RefusedError: a fix-up can't be done.
        """
        done: set[int] = set()
        for element in document if isinstance(document, list) else (document,):
            if not isinstance(element, dict):
                continue
            for place, part in enumerate(self.parts):
                if watch is not None:
                    watch(place, element)
                parent = _parent(element, part.path)
                if parent is None or not (part.when is None or part.when.holds(element)):
                    continue
                try:
                    if part.do(parent, element):
                        done.add(place)
                except ValueError as error:
                    raise RefusedError(place + 1, f"{part.op} {shown(part.path)}: {error}") from None
        for place in done:
            self.applied[place] += 1


def shown(path: KeyPath) -> str:
    """A path as people write it: dotted, or the list of keys if one has a dot."""
    return ".".join(path) if all(path) and not any("." in key for key in path) else orjson.dumps(path).decode()


def _parsed(number: int, given: object) -> SetValue | Rename | Cast | Drop:
    try:
        return _FIX_UP.validate_python(given)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'] if part not in _OPS) or 'fix-up'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        msg = f"fixups: fix-up {number}: {faults}. It has the fields {_FIX_UP_FIELDS}; see docs/dead-letters.md"
        raise ConfigurationError(msg) from None


_OPS = {"set", "rename", "cast", "drop"}


def _as_json(given: tuple[dict[str, Any], ...]) -> bytes:
    try:
        return orjson.dumps(given)
    except (TypeError, ValueError):
        msg = "fixups: nested too deep, or no JSON"
        raise ConfigurationError(msg) from None


def _parent(element: dict[str, Json], path: KeyPath) -> dict[str, Json] | None:
    """The object in which a path's last key would be; None if it is not there."""
    node: Json = element
    for key in path[:-1]:
        node = node.get(key)
        if not isinstance(node, dict):
            return None
    return node  # type: ignore[no-any-return]  # a dict, as checked in the loop


def _type_name(value: Json) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _same(value: Json, wanted: Json) -> bool:
    """Equality of JSON: true is not 1."""
    return bool(isinstance(value, bool) == isinstance(wanted, bool) and value == wanted)
