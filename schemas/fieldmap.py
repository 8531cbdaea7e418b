"""Vendor field maps: data files that say which native field goes where, read and checked."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.canonical import IDENTITY, PAYLOAD_KEYS, EventType
from streaming.errors import ConfigurationError

_DIR = Path(__file__).parent / "fieldmaps"

FieldType = Literal["string", "id", "long", "boolean"]
"""``id`` is a string or an integer, both kept as text; ``long`` any finite number, rounded after scaling."""

TimeType = Literal["epoch_ms", "instant"]
"""``epoch_ms`` is an integer; ``instant`` ISO 8601 with an offset, or epoch ms."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldRule(_Part):
    """Where one payload value comes from."""

    path: str | None = None
    const: str | None = None
    type: FieldType = "string"
    required: bool = False
    # Vendor's word → canonical word; a word not listed stays as it is.
    values: dict[str, str] = Field(default_factory=dict)
    scale: int = 1
    # Path of a number to subtract before scaling; absent counts as 0.
    minus: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.const is None):
            msg = "give either path or const"
            raise ValueError(msg)
        if self.type != "long" and (self.scale != 1 or self.minus):
            msg = "scale and minus need type = 'long'"
            raise ValueError(msg)
        return self


class Condition(_Part):
    """A test on a native field that decides which events arise. A value of another type is a bad event."""

    path: str
    type: FieldType
    required: bool = False
    in_: tuple[str | bool | int, ...] | None = Field(default=None, alias="in")
    above: float | None = None
    present: bool | None = None


class TimeRule(_Part):
    """Where the vendor's own time comes from; always a core field."""

    path: str
    type: TimeType


class EventRule(_Part):
    """One canonical event that a native one becomes."""

    native: str
    canonical: EventType
    timestamp: TimeRule
    when: tuple[Condition, ...] = ()
    fields: tuple[str, ...] = ()
    also: dict[str, FieldRule] = Field(default_factory=dict)

    @field_validator("when", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


class FieldMap(_Part):
    """A vendor's whole map."""

    vendor: str
    native_type: str
    strip: str = ""
    ignore: tuple[str, ...] = ()
    fields: dict[str, dict[str, FieldRule]] = Field(default_factory=dict)
    events: Annotated[tuple[EventRule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for rule in self.events:
            where = f"{rule.native} → {rule.canonical}"
            unknown = set(rule.fields) - set(self.fields)
            if unknown:
                msg = f"{where}: no such group of fields: {', '.join(sorted(unknown))}"
                raise ValueError(msg)
            names = set(self.payload_of(rule))
            if names - PAYLOAD_KEYS:
                msg = f"{where}: not in the payload vocabulary: {', '.join(sorted(names - PAYLOAD_KEYS))}"
                raise ValueError(msg)
            missing = set(IDENTITY[rule.canonical].keys) - names
            if missing:
                msg = f"{where}: the event's identity needs {', '.join(sorted(missing))}"
                raise ValueError(msg)
        return self

    def payload_of(self, rule: EventRule) -> dict[str, FieldRule]:
        """All payload fields of a rule: its groups, then its own."""
        merged: dict[str, FieldRule] = {}
        for group in rule.fields:
            merged.update(self.fields[group])
        return {**merged, **rule.also}


@cache
def load_field_map(vendor: str) -> FieldMap:
    """The map of a vendor.

    Raises:
        ConfigurationError: no such map, or a fault in it, named by file and key.
    """
    file = _DIR / f"{vendor}.toml"
    try:
        return FieldMap.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in _DIR.glob("*.toml")))
        msg = f"vendor {vendor!r} has no field map {file}; known vendors: {known}"
        raise ConfigurationError(msg) from None
    except tomllib.TOMLDecodeError as error:
        msg = f"{file}: {error}"
        raise ConfigurationError(msg) from None
    except ValidationError as error:
        lines = [f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigurationError("\n".join(lines)) from None
