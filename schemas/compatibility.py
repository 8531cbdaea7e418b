"""FULL compatibility of two versions of the canonical event: each reads what the other writes, and the core stays."""

from __future__ import annotations

import json
import re
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.schema import Schema, parse

from schemas.canonical import CORE_FIELDS, SUBJECT
from schemas.promoted import promoted_fields
from streaming.errors import ConfigurationError

_TYPE_OF = re.compile(r"/fields/(\d+)/type")


def full_problems(schema: str, other: str) -> list[str]:
    """What keeps one schema's readers from the other's records, in both directions; empty if nothing does.

    Rules: Avro specification, "Schema Resolution".

    Args:
        schema: The new schema, JSON text.
        other: One that is in use, JSON text.

    Raises:
        ConfigurationError: either is no Avro schema.
    """
    new, old = _parsed(schema), _parsed(other)
    found = [f"new reader, old records: {problem}" for problem in _problems(new, old)]
    return found + [f"old reader, new records: {problem}" for problem in _problems(old, new)]


def core_problems(schema: str) -> list[str]:
    """What keeps a schema from being a canonical event's: its core, and its promoted fields; empty if nothing.

    Raises:
        ConfigurationError: it is no Avro schema.
    """
    _parsed(schema)
    document: Any = json.loads(schema)
    if not isinstance(document, dict) or document.get("type") != "record":
        return [f"it is no record; events are {SUBJECT}"]
    name = f"{document.get('namespace', '')}.{document['name']}"
    problems = [] if name == SUBJECT else [f"the record is {name}, not {SUBJECT}"]
    given = {field["name"]: field["type"] for field in document["fields"]}
    for field, type_ in CORE_FIELDS.items():
        if field not in given:
            problems.append(f"fields: {field} is missing; every event has it")
        elif given[field] != type_:
            problems.append(f"fields: {field} is {json.dumps(given[field])}, not {json.dumps(type_)}")
    try:
        promoted_fields(schema)
    except ConfigurationError as error:
        problems.append(str(error))
    return problems


def _problems(reader: Schema, writer: Schema) -> list[str]:
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(reader, writer)
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    names = [field.name for field in getattr(reader, "fields", ())]
    typed = {names[int(found[1])] for path in result.locations if (found := _TYPE_OF.search(path))}
    where = f" ({', '.join(sorted(typed))})" if typed else ""
    # The library names a field that only the reader has by its bare name.
    return [
        f"{message} has no default, and the records lack it" if message in names else f"{message}{where}"
        for message in sorted(result.messages)
    ] or ["incompatible"]


def _parsed(schema: str) -> Schema:
    try:
        return parse(schema)
    except (AvroException, ValueError, AttributeError, TypeError, KeyError) as error:
        msg = f"no Avro schema: {error}"
        raise ConfigurationError(msg) from None
