"""Normalisers: a vendor's bytes in, canonical events or a typed failure out. Pure; compiled once from a field map.

Hot path: runs once for every event. The rules are turned into tuples and closures when the map is loaded, so that an
event costs dictionary look-ups only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isfinite
from typing import Any, NamedTuple

import orjson

from schemas.canonical import NATIVE_TYPE_KEY, CanonicalEvent, EventType, event_id
from schemas.fieldmap import Condition, EventRule, FieldMap, FieldRule, TimeRule, load_field_map
from streaming.errors import BadEventError

Json = Any
Path = tuple[str, ...]
Read = Callable[[Mapping[str, Json]], str | None]
Test = Callable[[Mapping[str, Json]], bool]
ReadTime = Callable[[Mapping[str, Json]], int]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# 9999-12-31T23:59:59.999Z, the last instant that Python, Parquet readers and both warehouses can hold.
MAX_TIMESTAMP_MS = 253_402_300_799_999
# Below this depth a vendor's unmapped object is kept whole as JSON, so that depth costs no recursion.
_MAX_METADATA_DEPTH = 8
# Of a text in the payload, and so of a key of the warehouse's: an index of PostgreSQL takes 2,700 bytes. Beyond it an
# optional one is kept in the metadata, and an event without a core field is a dead letter.
_MAX_VALUE_CHARS = 256
# Of one event: long keys over many leaves could turn a body of 1 MiB into a hundred.
_MAX_METADATA_CHARS = 8 * 1024 * 1024


class _Unfit(Exception):  # noqa: N818 (never leaves this module)
    """A value that is not of its rule's type."""


class _Rule(NamedTuple):
    """An EventRule made ready to run."""

    canonical: EventType
    when: tuple[Test, ...]
    timestamp: ReadTime
    payload: tuple[tuple[str, Read], ...]
    # Tree of the paths that this event carries: a leaf is None, an inner node the tree below it. What is outside goes
    # to metadata, also what another event of the same message carries: no event loses a field.
    mapped: dict[str, Any]


class _Native(NamedTuple):
    """All that one native type becomes."""

    name: str
    rules: tuple[_Rule, ...]


class Normaliser:
    """Turns one vendor's messages into canonical events.

    Args:
        field_map: The vendor's map.
    """

    def __init__(self, field_map: FieldMap) -> None:
        self.vendor = field_map.vendor
        self._native_type = _split(field_map.native_type)
        self._ignored = frozenset(field_map.ignore)
        self._strip = field_map.strip
        natives: dict[str, list[EventRule]] = {}
        for rule in field_map.events:
            natives.setdefault(rule.native, []).append(rule)
        self._natives = {native: _compile(field_map, rules) for native, rules in natives.items()}
        self._wildcards = sorted({native.split(".").index("{id}") for native in natives if "{id}" in native})

    def parse(self, raw: bytes) -> dict[str, Json]:
        """The message as a JSON object.

        Raises:
            BadEventError: not JSON (RFC 8259, UTF-8), or not an object.
        """
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            msg = f"not JSON: {error}"
            raise BadEventError(msg, reason="unparsable") from None
        return self.require_object(document)

    @staticmethod
    def require_object(document: Json) -> dict[str, Json]:
        """The document, if it is a JSON object.

        Raises:
            BadEventError: it is something else.
        """
        if not isinstance(document, dict):
            msg = f"a JSON object is needed, not {_type_name(document)}"
            raise BadEventError(msg, reason="unparsable")
        return document

    def normalise(self, raw: bytes, tenant_id: str) -> list[CanonicalEvent]:
        """The canonical events of one message; an ignored one gives none.

        Args:
            raw: One vendor message, UTF-8 JSON.
            tenant_id: Whose it is; taken from the connection, never from the message.

        Raises:
            BadEventError: nothing of the message can be used; naming reason and path.
        """
        return self.normalise_document(self.parse(raw), tenant_id)

    def normalise_document(self, document: dict[str, Json], tenant_id: str) -> list[CanonicalEvent]:
        """As :meth:`normalise`, of a message already parsed."""
        native_type = _get(document, self._native_type)
        if not isinstance(native_type, str):
            path = ".".join(self._native_type)
            msg = f"{path}: text is needed, not {_type_name(native_type)}"
            raise BadEventError(msg, reason="missing_field" if native_type is None else "wrong_type", path=path)
        native = self._native(native_type)
        if native is None:
            if native_type in self._ignored:
                return []
            path = ".".join(self._native_type)
            msg = f"{path}: {native_type[:200]!r} is in no rule of schemas/fieldmaps/{self.vendor}.toml"
            raise BadEventError(msg, reason="unknown_type", path=path)

        events: list[CanonicalEvent] = []
        for rule in native.rules:
            if not all(test(document) for test in rule.when):
                continue
            timestamp = rule.timestamp(document)
            metadata = {NATIVE_TYPE_KEY: native.name}
            payload = self._payload(rule, document, metadata)
            self._add_unmapped(document, rule.mapped, metadata)
            events.append(
                {
                    "event_id": event_id(self.vendor, tenant_id, rule.canonical, timestamp, payload),
                    "vendor": self.vendor,
                    "tenant_id": tenant_id,
                    "timestamp": timestamp,
                    "event_type": rule.canonical.value,
                    "payload": payload,
                    "metadata": metadata,
                }
            )
        if not events:
            msg = f"{native_type[:200]!r}: no rule's condition holds; see schemas/fieldmaps/{self.vendor}.toml"
            raise BadEventError(msg, reason="no_rule", path=".".join(self._native_type))
        return events

    def _payload(self, rule: _Rule, document: dict[str, Json], metadata: dict[str, str]) -> dict[str, str]:
        """The rule's values; an optional field of an unexpected type is kept in the metadata instead."""
        payload: dict[str, str] = {}
        for key, read in rule.payload:
            try:
                value = read(document)
            except _Unfit as unfit:
                path, given = unfit.args
                metadata[f"{self.vendor}.{self._shown(path)}"] = _text(given)
            else:
                if value is not None:
                    payload[key] = value
        return payload

    def _native(self, native_type: str) -> _Native | None:
        """The rules of a type, whose id (``v2.users.{id}.routingStatus``) may be anything without a dot."""
        found = self._natives.get(native_type)
        if found is None and self._wildcards:
            parts = native_type.split(".")
            for index in self._wildcards:
                if index < len(parts):
                    masked = [*parts[:index], "{id}", *parts[index + 1 :]]
                    found = self._natives.get(".".join(masked))
                    if found is not None:
                        break
        return found

    def _shown(self, path: str) -> str:
        return path.removeprefix(f"{self._strip}.") if self._strip else path

    def _add_unmapped(self, document: dict[str, Json], mapped: dict[str, Any], metadata: dict[str, str]) -> None:
        """Put the leaves of the document that the event does not carry under their paths.

        Raises:
            BadEventError: they would make a record that Kafka refuses.
        """
        left = _MAX_METADATA_CHARS
        # A stack of ours: a vendor's nesting costs no recursion.
        stack: list[tuple[str, dict[str, Json], dict[str, Any], int]] = [("", document, mapped, 1)]
        while stack:
            prefix, node, known, depth = stack.pop()
            for key, value in node.items():
                below = known.get(key, _NOTHING)
                if below is None or value is None:
                    continue
                if isinstance(value, dict) and value and depth < _MAX_METADATA_DEPTH:
                    stack.append((f"{prefix}{key}.", value, below, depth + 1))
                    continue
                path = f"{prefix}{key}"
                text = _text(value)
                name = f"{self.vendor}.{self._shown(path)}"
                if name in metadata:
                    name = f"{self.vendor}.{path}"
                metadata[name] = text
                left -= len(name) + len(text)
                if left < 0:
                    msg = f"more than {_MAX_METADATA_CHARS} characters in fields without a place in the payload"
                    raise BadEventError(msg, reason="too_large")


_NOTHING: dict[str, Any] = {}


@cache
def normaliser(vendor: str) -> Normaliser:
    """The normaliser of a vendor, made once a process.

    Raises:
        ConfigurationError: the vendor has no field map, or a wrong one.
    """
    return Normaliser(load_field_map(vendor))


def _compile(field_map: FieldMap, rules: list[EventRule]) -> _Native:
    compiled = []
    for rule in rules:
        mapped: dict[str, Any] = {}
        _mark(mapped, field_map.native_type)
        _mark(mapped, rule.timestamp.path)
        fields = field_map.payload_of(rule)
        for field in fields.values():
            if field.path:
                _mark(mapped, field.path)
        compiled.append(
            _Rule(
                canonical=rule.canonical,
                when=tuple(_test(condition) for condition in rule.when),
                timestamp=_time_reader(rule.timestamp),
                payload=tuple((key, _reader(field)) for key, field in fields.items()),
                mapped=mapped,
            )
        )
    return _Native(rules[0].native, tuple(compiled))


def _mark(tree: dict[str, Any], path: str) -> None:
    *parents, leaf = _split(path)
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[leaf] = None


def _split(path: str) -> Path:
    return tuple(path.split("."))


def _get(document: Mapping[str, Json], path: Path) -> Json:
    node: Json = document
    for part in path:
        if not isinstance(node, dict):
            return None
        node = node.get(part)
    return node


def _getter(path: str) -> Callable[[Mapping[str, Json]], Json]:
    """Specialised for the two depths that occur: this is the innermost step of the hot path."""
    parts = _split(path)
    if len(parts) == 1:
        (only,) = parts
        return lambda document: document.get(only)
    if len(parts) == 2:
        outer, inner = parts

        def nested(document: Mapping[str, Json]) -> Json:
            node = document.get(outer)
            return node.get(inner) if isinstance(node, dict) else None

        return nested
    return lambda document: _get(document, parts)


def _string(value: Json) -> str:
    if isinstance(value, str) and len(value) <= _MAX_VALUE_CHARS:
        return value
    raise TypeError


def _id(value: Json) -> str:
    if isinstance(value, str) and len(value) <= _MAX_VALUE_CHARS:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError


def _boolean(value: Json) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    raise TypeError


def _number(value: Json) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return value
    raise TypeError


_CONVERT: dict[str, Callable[[Json], str]] = {"string": _string, "id": _id, "boolean": _boolean}
_NEEDED = {
    "string": f"text of at most {_MAX_VALUE_CHARS} characters",
    "id": f"text of at most {_MAX_VALUE_CHARS} characters or an integer",
    "boolean": "true or false",
    "long": "a number",
}


def _reader(rule: FieldRule) -> Read:
    if rule.const is not None:
        const = rule.const
        return lambda _: const
    assert rule.path is not None  # FieldRule has either  # noqa: S101
    path, required, words = rule.path, rule.required, rule.values
    get, convert, needed = _getter(path), _converter(rule), _NEEDED[rule.type]

    def read(document: Mapping[str, Json]) -> str | None:
        value = get(document)
        if value is None or value == "":
            if required:
                raise _missing(path)
            return None
        try:
            text = convert(value, document)
        except (TypeError, OverflowError):
            if required:
                raise _wrong(path, needed, value) from None
            raise _Unfit(path, value) from None
        return words.get(text, text) if words else text

    return read


def _converter(rule: FieldRule) -> Callable[[Json, Mapping[str, Json]], str]:
    if rule.type != "long":
        convert = _CONVERT[rule.type]
        return lambda value, _: convert(value)
    scale = rule.scale
    subtrahend = _getter(rule.minus) if rule.minus else None

    def long(value: Json, document: Mapping[str, Json]) -> str:
        number = _number(value)
        if subtrahend is not None:
            number -= _number(subtrahend(document) or 0)
        return str(round(number * scale))

    return long


def _test(condition: Condition) -> Test:
    get, path, required, needed = (
        _getter(condition.path),
        condition.path,
        condition.required,
        _NEEDED[condition.type],
    )
    check: Callable[[Json], Any] = _number if condition.type == "long" else _CONVERT[condition.type]
    wanted, above, present = condition.in_, condition.above, condition.present

    def holds(document: Mapping[str, Json]) -> bool:
        value = get(document)
        if value is None or value == "":
            if required:
                raise _missing(path)
            return present is False
        try:
            check(value)
        except TypeError:
            raise _wrong(path, needed, value) from None
        if wanted is not None and value not in wanted:
            return False
        if above is not None and value <= above:
            return False
        return present is not False

    return holds


def _time_reader(rule: TimeRule) -> ReadTime:
    get, path = _getter(rule.path), rule.path
    iso_allowed = rule.type == "instant"
    needed = "ISO 8601 with an offset or epoch ms" if iso_allowed else "epoch milliseconds as an integer"

    def read(document: Mapping[str, Json]) -> int:
        value = get(document)
        if value is None:
            raise _missing(path)
        if iso_allowed and isinstance(value, str):
            try:
                instant = datetime.fromisoformat(value)
                epoch_ms = (instant - _EPOCH) // _MILLISECOND  # TypeError without an offset
            except (ValueError, TypeError, OverflowError):
                raise _wrong(path, needed, value) from None
        elif isinstance(value, int) and not isinstance(value, bool):
            epoch_ms = value
        else:
            raise _wrong(path, needed, value)
        if not 0 <= epoch_ms <= MAX_TIMESTAMP_MS:
            msg = f"{path}: {epoch_ms} lies outside 1970 to 9999"
            raise BadEventError(msg, reason="out_of_range", path=path)
        return epoch_ms

    return read


def _missing(path: str) -> BadEventError:
    return BadEventError(f"{path}: missing, but the event can't do without it", reason="missing_field", path=path)


def _wrong(path: str, needed: str, value: Json) -> BadEventError:
    return BadEventError(f"{path}: {needed} is needed, not {_type_name(value)}", reason="wrong_type", path=path)


def _type_name(value: Json) -> str:
    """JSON's name of a type. The value itself stays out of messages: it may be a caller's data."""
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "an array",
    }
    return names.get(type(value), "an object")


def _text(value: Json) -> str:
    """Strings as they are, anything else as its JSON."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # it reads 1,024 levels, but writes only 254
        return _deep_text(value)


def _deep_text(value: Json) -> str:
    """The JSON of what is nested deeper than orjson writes, by a stack of ours instead of recursion."""
    parts: list[str] = []
    # What is still to be written, the next one last; text of the JSON itself is marked.
    left: list[tuple[Json, bool]] = [(value, False)]
    while left:
        item, is_text = left.pop()
        if is_text:
            parts.append(item)
        elif isinstance(item, dict):
            left.append(("}", True))
            for number, (key, below) in enumerate(reversed(item.items()), 1 - len(item)):
                left += [(below, False), (f"{',' if number else ''}{orjson.dumps(key).decode()}:", True)]
            left.append(("{", True))
        elif isinstance(item, list):
            left.append(("]", True))
            for number, below in enumerate(reversed(item), 1 - len(item)):
                left += [(below, False), ("," if number else "", True)]
            left.append(("[", True))
        else:
            parts.append(orjson.dumps(item).decode())
    return "".join(parts)
