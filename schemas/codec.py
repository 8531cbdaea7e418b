"""Confluent wire format: magic byte 0, schema id (4 bytes, big-endian), Avro binary.

Source: docs of Confluent's Schema Registry, "Wire format".
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple
from typing import cast as typed

import fastavro
import orjson
import structlog
from fastavro.types import Schema

from schemas.canonical import CORE_FIELDS, CanonicalEvent
from schemas.promoted import PromotedField, cast, promoted_fields
from streaming.errors import BadEventError

log = structlog.get_logger()

HEADER = struct.Struct(">bI")
"""Magic byte and schema id, before the Avro binary."""

MAGIC = 0

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Encoder:
    """Encodes canonical events under one registered schema.

    Args:
        schema: Avro schema as JSON text.
        schema_id: Its id at the registry.
    """

    def __init__(self, schema: str, schema_id: int) -> None:
        self._schema = fastavro.parse_schema(orjson.loads(schema))
        self._header = HEADER.pack(MAGIC, schema_id)
        self.schema_id = schema_id
        self.promoted = promoted_fields(schema)

    def encode(self, event: CanonicalEvent) -> bytes:
        """The event's bytes on the wire, its promoted fields filled from the metadata.

        Raises:
            BadEventError: a value is not of the schema's type (a normaliser's event always is).
        """
        buffer = io.BytesIO()
        buffer.write(self._header)
        if self.promoted:
            event = _with_promoted(event, self.promoted)
        try:
            fastavro.schemaless_writer(buffer, self._schema, event)
        except (TypeError, ValueError, KeyError, OverflowError, UnicodeError) as error:
            msg = f"does not fit the schema: {error}"
            raise BadEventError(msg, reason="unencodable") from None
        return buffer.getvalue()


def _with_promoted(event: CanonicalEvent, fields: tuple[PromotedField, ...]) -> CanonicalEvent:
    """The event and its promoted fields: a value that does not fit the type is null, and stays in the metadata."""
    metadata = event["metadata"]
    filled: dict[str, Any] = {**event}
    for name, key, type_ in fields:
        text = metadata.get(key)
        if text is not None:
            filled[name] = cast(text, type_)
    return typed("CanonicalEvent", filled)


def _told(error: Exception) -> str:
    """Kind and text without objects' addresses: the same fault reads the same in every process."""
    return f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}"


class WriterSchema(NamedTuple):
    """A registered schema as events are decoded under it."""

    text: str
    writer: Schema
    reader: Schema | None
    """What is read instead of all that was written; None: all."""
    promoted: tuple[PromotedField, ...]
    """Those of its promoted fields that are read."""


class Decoder:
    """Decodes canonical events of every registered version into the reader's.

    Args:
        reader_schema: Avro schema that the caller wants to see, as JSON text; None: each event as it was written, with
            its promoted fields beside the core's.
        schema_of: Gives a registered schema's JSON text by its id; its answers are kept, since an id never changes its
            meaning. It may raise ServiceUnavailableError, which passes through, or KeyError for an unknown id.
    """

    def __init__(self, reader_schema: str | None, schema_of: Callable[[int], str]) -> None:
        self._reader = None if reader_schema is None else fastavro.parse_schema(orjson.loads(reader_schema))
        self._schema_of = schema_of
        self._known: dict[int, WriterSchema] = {}  # by id
        self.promoted: tuple[PromotedField, ...] = ()
        """Promoted fields of all schemas seen so far, each name once. An event as written has those of its own."""

    def decode(self, raw: bytes | None) -> CanonicalEvent:
        """The event in a record's value.

        Raises:
            BadEventError: tombstone, other magic byte, unknown schema id, or bytes that are not the schema's.
            ServiceUnavailableError: the registry can't be asked.
        """
        if raw is None or len(raw) <= HEADER.size:
            msg = "a tombstone" if raw is None else f"only {len(raw)} bytes"
            msg = f"{msg}: no Confluent wire format"
            raise BadEventError(msg, reason="undecodable")
        magic, schema_id = HEADER.unpack_from(raw)
        if magic != MAGIC:
            msg = f"magic byte {magic}, not 0: no Confluent wire format"
            raise BadEventError(msg, reason="undecodable")
        known = self.written_under(schema_id)
        buffer = io.BytesIO(raw)
        buffer.seek(HEADER.size)
        try:
            event = fastavro.schemaless_reader(buffer, known.writer, known.reader)
        except Exception as error:  # noqa: BLE001 (fastavro raises what the broken bytes happen to cause)
            msg = f"not Avro of schema {schema_id}: {_told(error)}"
            raise BadEventError(msg, reason="undecodable") from None
        return typed("CanonicalEvent", event)

    def written_under(self, schema_id: int) -> WriterSchema:
        """The schema of an id.

        Raises:
            BadEventError: it is unknown, or of no canonical event.
            ServiceUnavailableError: the registry can't be asked.
        """
        return self._known.get(schema_id) or self._learn(schema_id)

    def ask_for(self, schema_id: int) -> None:
        """Have a schema known if there is such a one: records under it are then decoded without the registry.

        Raises:
            ServiceUnavailableError: the registry can't be asked.
        """
        with contextlib.suppress(BadEventError):
            self.written_under(schema_id)

    def _learn(self, schema_id: int) -> WriterSchema:
        try:
            text = self._schema_of(schema_id)
        except KeyError:
            msg = f"schema id {schema_id} is unknown to the registry"
            raise BadEventError(msg, reason="unknown_schema") from None
        try:
            promoted = promoted_fields(text)
            document = orjson.loads(text)
            types = {field["name"]: field["type"] for field in document["fields"]}
            writer = fastavro.parse_schema(document)
        except Exception as error:  # noqa: BLE001 (anybody's schema of any kind: Protobuf, JSON Schema, odd Avro)
            msg = f"schema {schema_id} is of no canonical event: {_told(error)}"
            raise BadEventError(msg, reason="unknown_schema") from None
        lacks = [name for name, type_ in CORE_FIELDS.items() if types.get(name) != type_]
        if lacks:
            msg = f"schema {schema_id} is of no canonical event: it lacks {', '.join(lacks)}"
            raise BadEventError(msg, reason="unknown_schema")
        names = {field.name: field for field in self.promoted}
        clashes = {field.name for field in promoted if names.get(field.name, field) != field}
        reader = self._reader
        if clashes and reader is None:
            # Registered past the check that forbids it. The first meaning stays; the values are in the metadata.
            log.error("a promoted field changed its type or key; it is left out", fields=sorted(clashes), id=schema_id)
            fields = [field for field in document["fields"] if field["name"] not in clashes]
            reader = fastavro.parse_schema({**document, "fields": fields})
        self.promoted += tuple(field for field in promoted if field.name not in names)
        kept = tuple(field for field in promoted if field.name not in clashes)
        known = self._known[schema_id] = WriterSchema(text, writer, reader, kept)
        return known
